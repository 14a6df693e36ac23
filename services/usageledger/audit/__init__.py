"""Replays the log, verifies the ledger against it, and explains entries in words."""
