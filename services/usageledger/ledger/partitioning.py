"""Which partition an account is in: Kafka's default, murmur2 over the key's bytes."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=100_000)
def partition_of(key: bytes, partition_count: int) -> int:
    """The partition in which Kafka's own clients put this key."""
    from kafka.partitioner.default import murmur2

    return int((murmur2(key) & 0x7FFFFFFF) % partition_count)
