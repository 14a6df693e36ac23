"""Replay, verify, explain: what the log says happened, decided again."""
