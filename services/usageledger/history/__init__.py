"""The use of each account by day: a fold of the ledger's entries into SQLite.

The gateway's usage meter and console read it. It is a view like Redis's counters:
``history.db`` may be deleted at any time and is built anew from the log.
"""
