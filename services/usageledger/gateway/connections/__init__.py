"""The gateway's connections: which are accepted, how long they may take, TLS."""
