"""Whatever bytes a batch is made of, a reader raises nothing, ends, and says where it cannot go on.

A producer chooses them: a broker checks a batch's length and its checksum, not its records.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition as AsyncTopicPartition
from aiokafka.record.memory_records import MemoryRecords as AsyncMemoryRecords
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder
from kafka.record.util import calc_crc32c

from usageledger.log.aiokafka_reading import _PartitionRecords
from usageledger.log.bounded_codecs import Decoding, Unreadable, decoding_within
from usageledger.log.kafka_python_reading import BoundedPolls

RECORDS = 5
CRC_AT, ATTRIBUTES_AT, COUNT_AT, RECORDS_AT = 17, 21, 57, 61
DISTANCE_AT = 82
"""Where the second record has its distance from the first offset, twice the number."""

Read = Callable[[bytes], tuple[list[int], Unreadable | None]]
"""Reads a fetched partition. Returns the records' offsets, and where it cannot be read on."""


def batch(compression: int = 0) -> bytearray:
    builder = MemoryRecordsBuilder(magic=2, compression_type=compression, batch_size=10_000)
    for number in range(RECORDS):
        builder.append(timestamp=1_000, key=b"acct", value=b"value %d" % number, headers=[])
    builder.close()
    return bytearray(builder.buffer())


def sealed(data: bytearray) -> bytes:
    """The batch with the checksum that fits it."""
    struct.pack_into(">I", data, CRC_AT, calc_crc32c(bytes(data[ATTRIBUTES_AT:])))
    return bytes(data)


def read_by_kafka_python(data: bytes) -> tuple[list[int], Unreadable | None]:
    place = TopicPartition("topic", 0)
    consumer: Any = SimpleNamespace(_fetcher=SimpleNamespace())
    polls = BoundedPolls(consumer)
    fetched = consumer._fetcher.PartitionRecords(0, place, MemoryRecords(data))
    records: list[Any] = []
    while taken := fetched.take(2):
        records += taken
    return [record.offset for record in records], polls._decoding.unreadable.get(place)


def read_by_aiokafka(data: bytes) -> tuple[list[int], Unreadable | None]:
    place = AsyncTopicPartition("topic", 0)
    with decoding_within("aiokafka", Decoding()) as decoding:
        fetched = _PartitionRecords(place, AsyncMemoryRecords(data), [], 0, None, None, True, 0)
        records: Sequence[Any] = list(fetched)
    return [record.offset for record in records], decoding.unreadable.get(place)


READERS = pytest.mark.parametrize("read", [read_by_kafka_python, read_by_aiokafka])


@READERS
def test_a_sound_batch_is_read(read: Read) -> None:
    assert read(sealed(batch())) == (list(range(RECORDS)), None)


@READERS
def test_a_wrong_checksum_ends_the_partition_there(read: Read) -> None:
    data = sealed(batch())
    offsets, unreadable = read(data + b"" + data[:-1] + bytes([data[-1] ^ 1]))
    assert offsets == list(range(RECORDS))
    assert unreadable is not None


def lie(at: int, format_: str, number: int) -> bytes:
    data = batch()
    struct.pack_into(format_, data, at, number)
    return sealed(data)


@READERS
@pytest.mark.parametrize(
    "data",
    [
        lie(COUNT_AT, ">i", 2**31 - 1),
        lie(COUNT_AT, ">i", RECORDS + 1),
        lie(RECORDS_AT, ">B", 0xFF),
        lie(DISTANCE_AT, ">B", 2 * 60),
        lie(DISTANCE_AT, ">B", 2 * 0),
        lie(ATTRIBUTES_AT, ">h", 7),
        lie(ATTRIBUTES_AT, ">h", 4),
        sealed(batch()[:-7] + bytes([0xFF] * 7)),
    ],
    ids=[
        "2^31 records",
        "one more",
        "a length",
        "an offset far ahead",
        "an offset again",
        "codec 7",
        "not zstd",
        "a torn end",
    ],
)
def test_a_batch_that_lies_ends_the_partition_there(read: Read, data: bytes) -> None:
    offsets, unreadable = read(data)
    assert unreadable is not None
    assert unreadable.offset == len(offsets)
    assert unreadable.why


@READERS
def test_the_last_offset_of_an_unreadable_batch_is_that_of_its_header(read: Read) -> None:
    _, unreadable = read(lie(ATTRIBUTES_AT, ">h", 7))
    assert unreadable is not None
    assert unreadable.last_offset == RECORDS - 1


@READERS
@given(
    at=st.integers(ATTRIBUTES_AT, len(batch()) - 1),
    junk=st.binary(min_size=1, max_size=12),
    compression=st.sampled_from([0, 1]),
)
def test_no_bytes_behind_a_right_checksum_make_a_reader_fail(
    read: Read, at: int, junk: bytes, compression: int
) -> None:
    data = batch(compression)
    data[at : at + len(junk)] = junk[: max(0, len(data) - at)]
    offsets, unreadable = read(sealed(data))
    assert all(before < after for before, after in pairwise([-1, *offsets, RECORDS]))
    assert unreadable is None or unreadable.offset in range(RECORDS + 1)
