"""Kafka timestamps as times, and times as milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from usageledger.domain.bounds import YEAR_MAX

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_TIMESTAMP_MS_MAX = (datetime(YEAR_MAX + 1, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND - 1


def time_of(timestamp_ms: int) -> datetime:
    """A Kafka timestamp (any 64 bits) as a time in the years in which the ledger's time can be.

    A negative one means that the record has no timestamp: it becomes the start of 1970. One beyond
    the year 2999 becomes the end of that year.
    """
    return _EPOCH + min(max(0, timestamp_ms), _TIMESTAMP_MS_MAX) * _MILLISECOND


def milliseconds(at: datetime) -> int:
    """A time in milliseconds since 1970, rounded down."""
    return (at - _EPOCH) // _MILLISECOND


def whole_milliseconds_up(at: datetime) -> datetime:
    """A time rounded up to the millisecond, the ledger's own precision."""
    return _EPOCH - ((_EPOCH - at) // _MILLISECOND) * _MILLISECOND
