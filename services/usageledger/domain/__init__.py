"""The rules of the ledger, pure: no clock, no network, no randomness.

README.md beside this file states the invariants.
"""
