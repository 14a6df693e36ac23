"""Kafka timestamps as times, and times as milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


_MILLISECOND = timedelta(milliseconds=1)


_TIMESTAMP_MS_MAX = (
    32_503_680_000_000 - 1
)  # the end of the year 2999, beyond which no cycle is reckoned


def time_of(timestamp_ms: int) -> datetime:
    """A Kafka timestamp as a time; a negative one (no timestamp) as 1970, one beyond the year 2999
    as its end. Any 64 bits are a time.
    """
    return _EPOCH + min(max(0, timestamp_ms), _TIMESTAMP_MS_MAX) * _MILLISECOND


def milliseconds(at: datetime) -> int:
    """A time in milliseconds since 1970, rounded down."""
    return (at - _EPOCH) // _MILLISECOND


def whole_milliseconds_up(at: datetime) -> datetime:
    """A time rounded up to the millisecond, the ledger's own precision."""
    return _EPOCH - ((_EPOCH - at) // _MILLISECOND) * _MILLISECOND
