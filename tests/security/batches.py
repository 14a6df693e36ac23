"""Record batches as a stranger would write them: in any codec, broken, or bombs."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import lz4.frame  # type: ignore[import-untyped] # has no types
import zstandard
from kafka import KafkaProducer
from kafka import codec as kafka_codec
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.record.util import encode_varint

from usageledger.ledger.records import KeyedValue
from usageledger.log.topics import Topics
from usageledger.operations.kafka_probe import admin_client
from usageledger.runtime.kafka_connection import KafkaConnection

CODECS = ("gzip", "snappy", "lz4", "zstd")
MIB = 1024 * 1024
BOMB_BYTES = {"gzip": 256 * MIB, "snappy": 20 * MIB, "lz4": 240 * MIB, "zstd": 1024 * MIB}
"""What a batch of at most 1 MiB decompresses to: as much as its codec can, or what a test can wait
for. snappy makes 21 bytes of one.
"""

_FRAME_BYTES = 64 * MIB


def made_by_others(kafka: KafkaConnection, prefix: str) -> None:
    """Have the ledger's topics keep batches as they were compressed, as Kafka's default is."""
    topics = Topics(prefix)
    change = {"compression.type": "producer"}
    with admin_client(kafka) as admin:
        admin.alter_configs(
            [
                ConfigResource(ConfigResourceType.TOPIC, name, change)
                for name in (*topics.partitioned, topics.catalog)
            ]
        )


def send(
    kafka: KafkaConnection,
    topic: str,
    partition: int,
    records: Sequence[KeyedValue],
    codec: str | None,
) -> None:
    """Append records in one batch of that codec."""
    with _producer(kafka, codec) as producer:
        for key, value in records:
            producer.send(topic, key=key, value=value, partition=partition)
        producer.flush(timeout=60)


def send_payload(
    kafka: KafkaConnection, topic: str, partitions: Sequence[int], codec: str, payload: bytes
) -> None:
    """Append a batch with these bytes in place of its compressed records, to each partition."""
    with (
        patch(f"kafka.record.default_records.{codec}_encode", lambda _: payload),
        _producer(kafka, codec) as producer,
    ):
        # A producer compresses only what becomes smaller.
        value = bytes(len(payload) + 1)
        sent = [producer.send(topic, value=value, partition=each) for each in partitions]
        producer.flush(timeout=120)
        for each in sent:
            each.get(timeout=1)


@cache
def bomb(codec: str) -> bytes:
    """One record of zeros that decompresses to `BOMB_BYTES`."""
    if codec in ("gzip", "zstd"):
        total = BOMB_BYTES[codec]
        head = _head(total)
        first = _encoded(codec, head + bytes(_FRAME_BYTES - len(head)))
        return first + _encoded(codec, bytes(_FRAME_BYTES)) * (total // _FRAME_BYTES - 1)
    return heavy(codec, BOMB_BYTES[codec])


def heavy(codec: str, total: int) -> bytes:
    """One record of zeros that decompresses to ``total`` bytes."""
    head = _head(total)
    return _encoded(codec, head + bytes(total - len(head)))


def many_headers(codec: str, total: int) -> bytes:
    """One record without a value, whose headers are as many as ``total`` bytes hold."""
    # Attributes, time and offset are 0; there is no key and no value. A header has a name of no
    # characters and no value.
    fields, header = b"\x00\x00\x00" + 2 * _varint(-1), _varint(0) + _varint(-1)
    count = (total - len(fields) - 10) // len(header)
    body = fields + _varint(count) + header * count
    return _encoded(codec, _varint(len(body)) + body)


def _head(total: int) -> bytes:
    """The beginning of a record whose value is zeros, ``total`` bytes with its end."""
    size = total
    while len(head := _head_of(size)) + size + 1 > total:
        size -= 1
    return head


def _head_of(value_bytes: int) -> bytes:
    # Attributes, time and offset are 0, and there is no key. Behind the value: no headers.
    fields = b"\x00\x00\x00" + _varint(-1) + _varint(value_bytes)
    return _varint(len(fields) + value_bytes + 1) + fields


def _varint(value: int) -> bytes:
    found = bytearray()
    encode_varint(value, found.append)
    return bytes(found)


def _encoded(codec: str, data: bytes) -> bytes:
    encoders: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda plain: gzip.compress(plain, 6),
        "snappy": kafka_codec.snappy_encode,
        "lz4": lambda plain: lz4.frame.compress(plain, block_linked=False),
        "zstd": zstandard.ZstdCompressor().compress,
    }
    return encoders[codec](data)


@contextmanager
def _producer(kafka: KafkaConnection, codec: str | None) -> Iterator[Any]:
    producer = KafkaProducer(
        **kafka.for_kafka_python(),
        compression_type=codec,
        batch_size=4 * MIB,
        max_request_size=4 * MIB,
        linger_ms=50,
        request_timeout_ms=120_000,
        delivery_timeout_ms=240_000,
    )
    try:
        yield producer
    finally:
        producer.close(timeout=10)
