"""The SDK of those who report: `UsageMeter` for generation workers, `AccountClient` for billing,
CRM and support.
"""
