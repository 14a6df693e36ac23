"""Which right a user lacks, in one line, and the command that prints the rights of its role."""

from __future__ import annotations

from typing import Any

from usageledger.log.topics import Topics
from usageledger.runtime.kafka_connection import KafkaConnection

_WRITERS = {"usage": "worker", "account": "billing", "catalog": "publisher"}


def missing_right(
    kafka: KafkaConnection, operation: str, topic: str, role: str | None = None
) -> str:
    """The line for an operation ("describe") that the broker refused.

    Without ``role``, several roles have that right.
    """
    refused = (
        f"Kafka does not let {kafka.sasl_username or 'this client'} {operation} the topic {topic}"
    )
    if role is None:
        return f"{refused}: give it that right (`usageledger acls` prints the rights of each role)"
    prefix = _prefix_of(topic)
    option = f" --prefix {prefix}" if prefix else ""
    return f"{refused}: grant the rights of role {role} (`usageledger acls --role {role}{option}`)"


def writer_of(topic: str) -> str | None:
    """The role that writes to a topic; None for one that clients do not write."""
    for name, role in _WRITERS.items():
        if topic.endswith(getattr(Topics(), name)):
            return role
    return None


def is_refused(described: Any) -> bool:
    """Whether the user may not know about a topic that the admin client has described.

    A broker lists no topic that a user may not describe, as if there were none.
    """
    from kafka.errors import TopicAuthorizationFailedError

    return any(each["error_code"] == TopicAuthorizationFailedError.errno for each in described)


def _prefix_of(topic: str) -> str:
    own = Topics()
    for name in (*own.partitioned, own.catalog):
        if topic.endswith(f".{name}"):
            return topic.removesuffix(f".{name}")
    return ""
