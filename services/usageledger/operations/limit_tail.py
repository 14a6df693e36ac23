"""Limit events as they arrive, for the command line."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from usageledger.ledger.limit_address import LimitAddress, NotALimitEvent, limit_event_in
from usageledger.log.bounded_codecs import FETCH_BYTES_MAX
from usageledger.log.kafka_python_reading import BoundedPolls
from usageledger.log.topics import Topics
from usageledger.runtime.kafka_connection import KafkaConnection

POLL_MS = 200

log = logging.getLogger(__name__)


class TailFailed(Exception):
    """The limit events cannot be read. The message says what is missing."""


def tail(
    kafka: KafkaConnection, prefix: str, from_beginning: bool, until_idle_s: float | None
) -> Iterator[dict[str, Any]]:
    """Yield limit events as CloudEvents, each once, in each partition's order.

    Starts with the first event, or with those that arrive after the call. Ends once none has come
    for ``until_idle_s`` seconds (None: never). Raises TailFailed.
    """
    topic = Topics(prefix).limit
    consumer = KafkaConsumer(
        **kafka.for_kafka_python(),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        allow_auto_create_topics=False,
        fetch_max_wait_ms=100,
        fetch_max_bytes=FETCH_BYTES_MAX,
        metrics_enabled=False,
    )
    try:
        polls = BoundedPolls(consumer)
        _assign(consumer, topic, from_beginning)
        seen: dict[int, LimitAddress] = {}
        last_event_s = time.monotonic()
        while until_idle_s is None or time.monotonic() - last_event_s < until_idle_s:
            polled, unreadable = polls.poll(POLL_MS)
            for records in polled.values():
                for record in records:
                    event = _new_event(record, seen)
                    if event is not None:
                        yield event
                # After the events, as the caller may be slow to handle them.
                last_event_s = time.monotonic()
            for place, found in unreadable.items():
                raise TailFailed(
                    f"{place.topic}, partition {place.partition}, offset {found.offset}: "
                    f"{found.why}"
                )
    finally:
        consumer.close(autocommit=False)


def _assign(consumer: Any, topic: str, from_beginning: bool) -> None:
    partitions = consumer.partitions_for_topic(topic)
    if not partitions:
        raise TailFailed(f"there is no topic {topic}: check the address and the prefix")
    assigned = [TopicPartition(topic, partition) for partition in sorted(partitions)]
    consumer.assign(assigned)
    offsets = (
        consumer.beginning_offsets(assigned) if from_beginning else consumer.end_offsets(assigned)
    )
    for partition in assigned:
        consumer.seek(partition, offsets[partition])


def _new_event(record: Any, seen: dict[int, LimitAddress]) -> dict[str, Any] | None:
    try:
        event, place = limit_event_in(record.value, record.partition)
    except NotALimitEvent as error:
        log.warning(
            "ignored %s, partition %d, offset %d: %s",
            record.topic,
            record.partition,
            record.offset,
            error,
        )
        return None
    if not place.is_beyond(seen.get(place.partition)):
        return None
    seen[place.partition] = place
    return event
