"""Reporting: `UsageMeter` for generation workers, `AccountClient` for billing, CRM and support."""
