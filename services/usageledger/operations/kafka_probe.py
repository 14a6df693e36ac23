"""Connecting to a broker as an administrator, and asking whether it is ready."""

from __future__ import annotations

from typing import Any

from usageledger.operations.errors import OperatorError
from usageledger.runtime.kafka_connection import KafkaConnection

PROBE_TIMEOUT_MS = 5_000


def admin_client(kafka: KafkaConnection, *, timeout_ms: int = 30_000) -> Any:
    """kafka-python's admin client, connected; a context manager.

    Raises OperatorError if no connection can be made in time. It says why not.
    """
    from kafka.errors import KafkaError

    from usageledger.log.admin import connect_admin

    try:
        return connect_admin(kafka, timeout_ms=timeout_ms)
    except KafkaError as error:
        raise OperatorError(f"Kafka at {kafka} cannot be used: {error}") from error


def broker_is_ready(kafka: KafkaConnection) -> bool:
    """Whether a broker answers and is registered with its controller.

    Before it is registered no topic can be made.
    """
    from kafka.errors import KafkaError

    try:
        with admin_client(kafka, timeout_ms=PROBE_TIMEOUT_MS) as admin:
            return bool(admin.describe_cluster()["brokers"])
    except (OperatorError, KafkaError):
        return False
