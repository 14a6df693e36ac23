"""The demo: a real workload on a real stack, shown to a viewer, and an audit at the end."""
