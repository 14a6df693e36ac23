"""Limit events: the consumer that announces the limits that ledger entries cross."""
