"""Asking before a generation: may it start, what will it cost, and reserving that.

`UsageGate` asks Redis directly, or the gateway over HTTP.
"""
