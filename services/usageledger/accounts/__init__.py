"""What an account has: one reader, one projection."""
