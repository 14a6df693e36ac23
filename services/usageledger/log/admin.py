"""kafka-python's admin client."""

from __future__ import annotations

from typing import Any

from kafka.admin import KafkaAdminClient

from usageledger.runtime.kafka_connection import KafkaConnection


def connect_admin(kafka: KafkaConnection, *, timeout_ms: int) -> Any:
    """An admin client, connected; a context manager.

    Raises KafkaError if no broker answers in time.
    """
    return KafkaAdminClient(
        bootstrap_timeout_ms=timeout_ms,
        request_timeout_ms=timeout_ms,
        **kafka.for_kafka_python(),
    )
