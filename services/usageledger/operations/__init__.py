"""How a ledger is doing, for who looks at it: the command line, the gateway's console.

Nothing is decided by it.
"""
