"""The code that a subscriber's two consumers share: errors, closing, reading records."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from usageledger.ledger.limit_address import LimitAddress, NotALimitEvent, limit_event_in
from usageledger.log.bounded_codecs import Unreadable
from usageledger.log.transient_errors import REBALANCED, TRANSIENT
from usageledger.sdk.kafka_python import kafka_errors
from usageledger.sdk.limits.errors import SubscriberFailed
from usageledger.sdk.limits.limit_event import kind_of, parse_limit_event

COMMIT_TIMEOUT_MS = 5_000

log = logging.getLogger(__name__)


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
    for place, found in unreadable.items():
        raise SubscriberFailed(
            f"{place.topic}, partition {place.partition}, offset {found.offset}: {found.why}"
        )


def read_record(record: Any) -> tuple[dict[str, Any], LimitAddress] | None:
    """Read a record of the limits topic: its event and address.

    The result is None, which is logged, for bytes that are no limit event of this partition. The
    limits service writes no such bytes, so no event is lost. Another format would be another topic.
    """
    try:
        event, address = limit_event_in(record.value, record.partition)
        if kind_of(event) is not None:
            parse_limit_event(event)
        return event, address
    except NotALimitEvent as error:
        log.error(
            "%s, partition %d, offset %d is no limit event, and is ignored (%s): tell whoever runs "
            "the ledger that a stranger writes to that topic",
            record.topic,
            record.partition,
            record.offset,
            error,
        )
        return None
