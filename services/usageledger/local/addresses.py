"""`Addresses`: where a running stack's ledger is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from usageledger.runtime.kafka_connection import KafkaConnection


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the servers, topics and data of a running stack are."""

    kafka: KafkaConnection
    redis_url: str
    prefix: str
    data: Path
    gateway: str = ""
    """The gateway's URL; empty if none runs."""
