"""The code that a subscriber's two consumers share: errors, closing, reading records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from usageledger.ledger.limit_address import LimitAddress, NotALimitEvent, read_limit_event
from usageledger.log.bounded_codecs import Unreadable
from usageledger.log.transient_errors import REBALANCED, TRANSIENT
from usageledger.sdk.kafka_python import kafka_errors
from usageledger.sdk.limits.errors import SubscriberFailed

COMMIT_TIMEOUT_MS = 5_000


class Stalled(Exception):
    """A consumer that has records to fetch fetched none for too long."""


# Errors after which a new connection can succeed.
RECONNECTABLE: tuple[type[Exception], ...] = (*TRANSIENT, Stalled)
# The group has rebalanced, or is about to: the partition is not ours at this moment.
NOT_OURS_NOW: tuple[type[Exception], ...] = (
    *REBALANCED,
    kafka_errors.IllegalStateError,
    ValueError,
)


@contextmanager
def closing_consumer(consumer: Any) -> Iterator[Any]:
    """Close the consumer at the end, without an automatic commit."""
    try:
        yield consumer
    finally:
        consumer.close(autocommit=False, timeout_ms=COMMIT_TIMEOUT_MS)


def require_readable(unreadable: Mapping[Any, Unreadable]) -> None:
    """Raise SubscriberFailed, naming the record, if a partition cannot be read on."""
    for place, (offset, why) in unreadable.items():
        raise SubscriberFailed(
            f"{place.topic}, partition {place.partition}, offset {offset}: {why}"
        )


def read_record(record: Any) -> tuple[dict[str, Any], LimitAddress]:
    """Read a record of the limits topic: its event and address.

    Raises SubscriberFailed, naming the record, if it holds no limit event of its partition.
    """
    try:
        event, address = read_limit_event(record.value)
        if address.partition != record.partition:
            raise NotALimitEvent(f"it is of partition {address.partition}")
        return event, address
    except NotALimitEvent as error:
        raise SubscriberFailed(
            f"{record.topic}, partition {record.partition}, offset {record.offset}: {error}"
        ) from error
