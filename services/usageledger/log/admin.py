"""kafka-python's admin client, for whoever describes or changes topics."""

from __future__ import annotations

from typing import Any

from kafka.admin import KafkaAdminClient

from usageledger.log.diagnosis import named_cause
from usageledger.runtime.kafka_connection import KafkaConnection


def connect_admin(kafka: KafkaConnection, *, timeout_ms: int) -> Any:
    """An admin client, connected; a context manager.

    Raises KafkaError if no connection can be made in time. It says why not.
    """
    with named_cause(kafka):
        return KafkaAdminClient(
            bootstrap_timeout_ms=timeout_ms,
            request_timeout_ms=timeout_ms,
            **kafka.for_kafka_python(),
        )
