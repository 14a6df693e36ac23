"""Asking a broker whether it is ready to serve."""

from __future__ import annotations

import warnings
from typing import Any

from usageledger.local.errors import StackError

PROBE_TIMEOUT_MS = 5_000


def admin_client(bootstrap: str, *, timeout_ms: int = 30_000) -> Any:
    """kafka-python's admin client, connected; a context manager. Raises StackError if no broker answers in time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python's import warns under Python 3.11
        from kafka.admin import KafkaAdminClient
        from kafka.errors import KafkaError
    try:
        return KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=timeout_ms, request_timeout_ms=timeout_ms)
    except KafkaError as error:
        raise StackError(f"no Kafka broker answers at {bootstrap} ({error}): is the address right, and does it run?") from error


def broker_is_ready(bootstrap: str) -> bool:
    """Whether a broker answers and is registered with its controller (before that, topics cannot be made)."""
    from kafka.errors import KafkaError

    try:
        with admin_client(bootstrap, timeout_ms=PROBE_TIMEOUT_MS) as admin:
            return bool(admin.describe_cluster()["brokers"])
    except (StackError, KafkaError):
        return False
