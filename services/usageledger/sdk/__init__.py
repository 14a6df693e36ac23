"""The clients that run in others' processes: meters, gates, limit subscribers, account tokens."""
