"""From a line of a file to the record that it becomes. Any line becomes one: whether it is a good event is for the ledger to say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from usageledger.domain.events import EVENT_TYPES, UsageRecorded
from usageledger.log.deciding import milliseconds
from usageledger.log.partitioning import partition_of

NO_EVENT = "no event"
"""What a line is counted as that has no type which the ledger knows. It is sent as it is, and the ledger refuses it."""

TYPES = frozenset(EVENT_TYPES.values())
USAGE_TYPE = EVENT_TYPES[UsageRecorded]

Input = Literal["usage", "account"]


class OutgoingRecord(NamedTuple):
    """A record to be sent. ``line`` counts from 1; ``timestamp_ms`` is None where Kafka dates the record."""

    line: int
    input: Input
    type: str
    key: bytes | None
    partition: int
    value: bytes
    timestamp_ms: int | None


class _Header(msgspec.Struct):
    """What decides where a record goes; whatever the values are, for they are the ledger's to judge."""

    type: Any = None
    subject: Any = None
    time: Any = None


_header = msgspec.json.Decoder(_Header)
_ZonedTime = Annotated[datetime, msgspec.Meta(tz=True)]


def outgoing_records(lines: Iterable[bytes], *, partition_count: int, importing: bool) -> Iterator[OutgoingRecord]:
    """One record for each line that is not blank, in order: usage events to their topic, account events to theirs, anything else to usage.

    The key is the subject; what has none goes to partition 0 without a key. With ``importing`` a record gets its event's own time; a line
    without a time that can be read gets that of the line before.
    """
    timestamp_ms = 0
    for number, line in enumerate(lines, start=1):
        value = line.rstrip(b"\r\n")
        if not value.strip():
            continue
        header = _header_of(value)
        timestamp_ms = _timestamp_ms(header.time, otherwise=timestamp_ms) if importing else 0
        yield _record(number, header, value, partition_count, timestamp_ms if importing else None)


def _record(number: int, header: _Header, value: bytes, partition_count: int, timestamp_ms: int | None) -> OutgoingRecord:
    kind = header.type if isinstance(header.type, str) and header.type in TYPES else NO_EVENT
    key = _key_of(header.subject)
    return OutgoingRecord(
        line=number,
        input="usage" if kind in (USAGE_TYPE, NO_EVENT) else "account",
        type=kind,
        key=key,
        partition=0 if key is None else partition_of(key, partition_count),
        value=value,
        timestamp_ms=timestamp_ms,
    )


def _header_of(value: bytes) -> _Header:
    try:
        return _header.decode(value)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return _Header()


def _key_of(subject: object) -> bytes | None:
    if not isinstance(subject, str):
        return None
    try:
        return subject.encode() or None
    except UnicodeEncodeError:
        return None


def _timestamp_ms(time: object, *, otherwise: int) -> int:
    """A time as Kafka has it; what lies before 1970 becomes 1970, as for the ledger."""
    if not isinstance(time, str):
        return otherwise
    try:
        return max(0, milliseconds(msgspec.convert(time, _ZonedTime)))
    except (ValueError, OverflowError):
        return otherwise
