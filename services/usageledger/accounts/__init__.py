"""Reading accounts: one set of queries behind every answer about what an account has."""
