"""Who may call: app keys and account tokens, and how often."""
