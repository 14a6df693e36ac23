"""The settings that every SDK reads from its arguments or the environment."""

from __future__ import annotations

import os
import re

from usageledger.runtime.kafka_connection import KafkaConnection

_PREFIX = re.compile(r"[A-Za-z0-9._-]{0,200}", re.ASCII)


def kafka_setting(kafka: KafkaConnection | str | None) -> KafkaConnection:
    """Return the connection that is given, or that the variables USAGELEDGER_KAFKA… describe.

    Addresses alone replace USAGELEDGER_KAFKA; how to connect to them is still in the variables.
    Raises KafkaConnectionError.
    """
    if isinstance(kafka, KafkaConnection):
        return kafka
    return KafkaConnection.from_environment(kafka)


def prefix_setting(prefix: str | None) -> str:
    """Return the topics' prefix, from the argument or USAGELEDGER_PREFIX, or "" if neither is set.

    Raises ValueError for a prefix that no topic name can begin with.
    """
    prefix = os.environ.get("USAGELEDGER_PREFIX", "") if prefix is None else prefix
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(
            f"prefix has letters, digits, dots, hyphens and underscores, unlike {prefix!r}"
        )
    return prefix
