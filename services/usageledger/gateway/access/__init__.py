"""Which callers may do what, and how often: app keys, account tokens, rate limits."""
