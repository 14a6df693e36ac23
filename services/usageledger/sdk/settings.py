"""The settings that every SDK reads from its arguments or the environment."""

from __future__ import annotations

import os
import re

_PREFIX = re.compile(r"[A-Za-z0-9._-]{0,200}", re.ASCII)


def kafka_setting(kafka: str | None) -> str:
    """Return the brokers' addresses, from the argument or USAGELEDGER_KAFKA.

    Raises ValueError if neither names any.
    """
    kafka = kafka or os.environ.get("USAGELEDGER_KAFKA", "")
    if not kafka.strip():
        raise ValueError(
            'kafka="host:port" is needed (or the environment variable USAGELEDGER_KAFKA)'
        )
    return kafka


def address_list(kafka: str) -> list[str]:
    """Split ``host:port,host:port`` into addresses."""
    return [address.strip() for address in kafka.split(",")]


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
