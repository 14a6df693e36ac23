"""`usageledger doctor`: what is wrong with a ledger, why it matters, and what mends it."""
