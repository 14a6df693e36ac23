"""`usageledger doctor`: what is wrong with a ledger and what it stands on, why it matters, and the
command that mends it.
"""
