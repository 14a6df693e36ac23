"""What accounts did, day by day: a fold of the ledger's entries into SQLite, which the gateway's
usage meter and console read.

A view like Redis's counters, and as easily thrown away: ``history.db`` may be deleted at any time
and is built anew from the log.
"""
