"""kafka-python's admin client."""

from __future__ import annotations

from typing import Any

from kafka.admin import KafkaAdminClient


def connect_admin(kafka: str, *, timeout_ms: int) -> Any:
    """An admin client, connected; a context manager.

    Raises KafkaError if no broker answers in time.
    """
    return KafkaAdminClient(
        bootstrap_servers=kafka, bootstrap_timeout_ms=timeout_ms, request_timeout_ms=timeout_ms
    )
