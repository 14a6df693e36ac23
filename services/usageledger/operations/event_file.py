"""A file of events: which record each line becomes.

Every line becomes a record. Whether it is a valid event is for the ledger to decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from usageledger.domain.events import EVENT_TYPES, UsageRecorded
from usageledger.ledger.partitioning import partition_of
from usageledger.ledger.timestamps import milliseconds

NO_EVENT = "no event"
"""The type under which a line is counted if the ledger does not know its type.

The line is sent unchanged, and the ledger refuses it.
"""

TYPES = frozenset(EVENT_TYPES.values())
USAGE_TYPE = EVENT_TYPES[UsageRecorded]

Input = Literal["usage", "account"]


class OutgoingRecord(NamedTuple):
    """A record to be sent.

    ``line`` counts from 1. ``timestamp_ms`` is None if Kafka dates the record.
    """

    line: int
    input: Input
    type: str
    key: bytes | None
    partition: int
    value: bytes
    timestamp_ms: int | None


class _Header(msgspec.Struct):
    """The fields that decide where a record goes. The ledger checks their values, not we."""

    type: Any = None
    subject: Any = None
    time: Any = None


_header = msgspec.json.Decoder(_Header)
_ZonedTime = Annotated[datetime, msgspec.Meta(tz=True)]


def outgoing_records(
    lines: Iterable[bytes], *, partition_count: int, importing: bool
) -> Iterator[OutgoingRecord]:
    """One record for each line that is not blank, in order.

    Account events go to their topic, everything else to the usage topic. The key is the subject; a
    line without one goes to partition 0 without a key. With ``importing`` a record is dated with
    its event's own time. If that is earlier than the line before in its partition, or cannot
    be read, it is dated like the line before.
    """
    own_ms = 0
    dates: dict[int, _FileOrder] = {}
    for number, line in enumerate(lines, start=1):
        value = line.rstrip(b"\r\n")
        if not value.strip():
            continue
        header = _header_of(value)
        record = _record(number, header, value, partition_count)
        if importing:
            own_ms = _timestamp_ms(header.time, otherwise=own_ms)
            order = dates.setdefault(record.partition, _FileOrder())
            record = record._replace(timestamp_ms=order.date(record.input, own_ms))
        yield record


class _FileOrder:
    """Dates one partition's records so that they are decided in the order of the file.

    The processor merges the two topics by time. Dated with its own time, a late usage event would
    race an account event of an earlier line. Whichever was read first would be decided first.
    The ledger's clock never goes back, so nothing else depends on the dates of late records.
    """

    def __init__(self) -> None:
        self._last_ms = 0
        self._last_input: Input = "account"

    def date(self, input: Input, own_ms: int) -> int:
        """The record's timestamp.

        Within one millisecond the merge puts account events first. So an account event that
        follows usage gets the next millisecond.
        """
        earliest_ms = self._last_ms + (self._last_input == "usage" and input == "account")
        self._last_ms, self._last_input = max(own_ms, earliest_ms), input
        return self._last_ms


def _record(number: int, header: _Header, value: bytes, partition_count: int) -> OutgoingRecord:
    kind = header.type if isinstance(header.type, str) and header.type in TYPES else NO_EVENT
    key = _key_of(header.subject)
    return OutgoingRecord(
        line=number,
        input="usage" if kind in (USAGE_TYPE, NO_EVENT) else "account",
        type=kind,
        key=key,
        partition=0 if key is None else partition_of(key, partition_count),
        value=value,
        timestamp_ms=None,
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
    """A time in milliseconds since 1970; an earlier one becomes 1970, as in the ledger."""
    if not isinstance(time, str):
        return otherwise
    try:
        return max(0, milliseconds(msgspec.convert(time, _ZonedTime)))
    except (ValueError, OverflowError):
        return otherwise
