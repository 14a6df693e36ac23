"""The demo: a real workload on a real stack, in front of a viewer, and an audit at the end."""
