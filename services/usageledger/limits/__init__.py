"""Limit events: the consumer that announces what ledger entries cross, and the SDK for the apps
that react to it.
"""
