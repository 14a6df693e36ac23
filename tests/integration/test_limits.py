"""The limits consumer, its subscriber and its tail, on a real broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from tests.worlds.limits_world import Ledger
from usageledger.domain.chain import entry_at
from usageledger.ledger.limit_address import LimitAddress, read_limit_event
from usageledger.ledger.limit_events import LimitMessage, limit_events
from usageledger.limits import consumer
from usageledger.limits.announcer import (
    LimitsError,
    PartitionHealth,
    Unavailable,
)
from usageledger.limits.consumer import KafkaLedgerFeed, KafkaLimitLog, run_limits
from usageledger.log.reading import log_reader
from usageledger.log.topics import Topics, limits_group
from usageledger.runtime.kafka_connection import KafkaConnection

DEADLINE_S = 60.0


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:.0f} s: {what}"
        time.sleep(0.05)


@pytest.fixture
def append(kafka: KafkaConnection) -> Iterator[Callable[[str, int, list[bytes]], None]]:
    """Append values to a partition of a topic."""
    producer = KafkaProducer(**kafka.for_kafka_python(), linger_ms=5)

    def append(topic: str, partition: int, values: list[bytes]) -> None:
        futures = [
            producer.send(topic, key=b"acct", value=value, partition=partition) for value in values
        ]
        producer.flush(timeout=20)
        assert all(future.succeeded() for future in futures)

    yield append
    producer.close(timeout=5)


class Running:
    """A limits consumer in a thread."""

    def __init__(self, kafka: KafkaConnection, prefix: str) -> None:
        self.stop = threading.Event()
        self.health: dict[int, PartitionHealth] = {}
        self.error: LimitsError | None = None
        self._thread = threading.Thread(target=self._run, args=(kafka, prefix))
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def end(self) -> None:
        self.stop.set()
        self._thread.join(timeout=DEADLINE_S)
        assert self.has_ended

    def _run(self, kafka: KafkaConnection, prefix: str) -> None:
        try:
            run_limits(kafka=kafka, prefix=prefix, stop=self.stop, on_health=self.health.update)
        except LimitsError as error:
            self.error = error


@contextmanager
def limits(kafka: KafkaConnection, prefix: str) -> Iterator[Running]:
    running = Running(kafka, prefix)
    try:
        yield running
    finally:
        running.end()


def values_in(kafka: KafkaConnection, topic: str, partition: int) -> list[bytes]:
    with log_reader(kafka) as reader:
        end = reader.end_offset(topic, partition)
        return [record.value or b"" for record in reader.read(topic, partition, 0, end)]


def limit_addresses(kafka: KafkaConnection, prefix: str, partition: int) -> list[LimitAddress]:
    """The addresses of the limit events of a partition, repeats included."""
    return [
        read_limit_event(value)[1] for value in values_in(kafka, Topics(prefix).limit, partition)
    ]


def without_repeats(addresses: list[LimitAddress]) -> list[LimitAddress]:
    """Return the addresses that a reader keeps: it drops any that is not beyond the last."""
    seen: list[LimitAddress] = []
    for address in addresses:
        if address.is_beyond(seen[-1] if seen else None):
            seen.append(address)
    return seen


def a_ledger(partition: int, entries: int) -> Ledger:
    ledger = Ledger(partition)
    ledger.claim()
    for number in range(entries):
        if number % 7 == 3:
            ledger.claim()
            ledger.ignored_entry("limit.reached")
        if number % 3 == 0:
            ledger.entry("limit.threshold", "limit.reached", account=f"acct_{number % 5}")
        elif number % 3 == 1:
            ledger.entry("limit.cleared", account=f"acct_{(number - 1) % 5}")
        else:
            ledger.entry()
    return ledger


def committed_offsets(kafka: KafkaConnection, prefix: str) -> dict[int, int]:
    with KafkaAdminClient(**kafka.for_kafka_python()) as admin:
        group = limits_group(prefix)
        offsets: Any = admin.list_group_offsets(
            {group: [TopicPartition(Topics(prefix).ledger, partition) for partition in range(2)]}
        )
    return {at.partition: found.offset for at, found in offsets[group].items()}


def test_what_entries_cross_is_announced_in_their_partition_and_in_order(
    kafka: KafkaConnection, prefix: str, append: Any
) -> None:
    ledgers = [a_ledger(partition, 400) for partition in range(2)]
    topics = Topics(prefix)
    with limits(kafka, prefix):
        for ledger in ledgers:
            append(topics.ledger, ledger.partition, [record.value for record in ledger.records])
        for ledger in ledgers:
            until(
                lambda ledger=ledger: (  # type: ignore[misc]
                    len(limit_addresses(kafka, prefix, ledger.partition)) >= len(ledger.addresses)
                ),
                "every event",
            )
        for ledger in ledgers:
            assert limit_addresses(kafka, prefix, ledger.partition) == ledger.addresses
        until(
            lambda: (
                committed_offsets(kafka, prefix)
                == {ledger.partition: len(ledger.records) for ledger in ledgers}
            ),
            "the group's offsets",
        )


def test_a_limit_event_follows_its_entry_before_any_poll_times_out(
    kafka: KafkaConnection, prefix: str, append: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll may last longer here than the test waits for an event."""
    poll = KafkaLedgerFeed.poll
    monkeypatch.setattr(
        KafkaLedgerFeed, "poll", lambda feed, _: poll(feed, int(2 * DEADLINE_S * 1000))
    )
    ledger = Ledger(0)
    ledger.claim()
    ledger.entry("limit.reached")
    topics = Topics(prefix)
    append(topics.ledger, 0, [record.value for record in ledger.records])
    with limits(kafka, prefix) as running, log_reader(kafka) as reader:

        def has_ended_at(offset: int) -> bool:
            return reader.end_offset(topics.limit, 0) == offset

        until(partial(has_ended_at, 1), "the first event")
        for number in range(2, 12):
            value = ledger.entry("limit.cleared" if number % 2 == 0 else "limit.reached").value
            append(topics.ledger, 0, [value])
            until(partial(has_ended_at, number), "the event")
        running.stop.set()
        # One more entry ends the poll.
        append(topics.ledger, 0, [ledger.entry().value])


def test_consumers_that_come_and_go_announce_everything(
    kafka: KafkaConnection, prefix: str, append: Any
) -> None:
    ledgers = [a_ledger(partition, 300) for partition in range(2)]
    topics = Topics(prefix)
    with limits(kafka, prefix):
        for ledger in ledgers:
            append(
                topics.ledger, ledger.partition, [record.value for record in ledger.records[:200]]
            )
        with limits(kafka, prefix) as second:
            until(lambda: len(second.health) > 0, "a partition for the second consumer")
            for ledger in ledgers:
                append(
                    topics.ledger,
                    ledger.partition,
                    [record.value for record in ledger.records[200:300]],
                )
        for ledger in ledgers:
            append(
                topics.ledger, ledger.partition, [record.value for record in ledger.records[300:]]
            )
    with limits(kafka, prefix):
        for ledger in ledgers:
            until(
                lambda ledger=ledger: (
                    without_repeats(limit_addresses(kafka, prefix, ledger.partition))
                    == ledger.addresses
                ),  # type: ignore[misc]
                "every event",
            )


def test_a_record_that_is_no_entry_is_passed_over_and_its_partition_goes_on(
    kafka: KafkaConnection, prefix: str, append: Any
) -> None:
    ledger = Ledger(0)
    ledger.claim()
    ledger.entry("limit.reached")
    ledger.junk()
    ledger.claim()
    ledger.entry("limit.cleared")
    append(Topics(prefix).ledger, ledger.partition, [record.value for record in ledger.records])
    with limits(kafka, prefix) as running:
        until(
            lambda: (
                limit_addresses(kafka, prefix, 0)
                == [LimitAddress(0, 1, 0, 1), LimitAddress(0, 4, 0, 1)]
            ),
            "the events on both sides of the junk",
        )
        assert not running.has_ended
    assert running.error is None


def test_junk_among_the_limit_events_is_passed_over(
    kafka: KafkaConnection, prefix: str, append: Any
) -> None:
    append(Topics(prefix).limit, 1, [b"not ours"])
    ledger = a_ledger(1, 5)
    append(Topics(prefix).ledger, ledger.partition, [record.value for record in ledger.records])
    with limits(kafka, prefix) as running:
        until(
            lambda: [found.state for found in running.health.values()] == ["announcing"] * 2,
            "both partitions are announced",
        )
        until(lambda: running_events(kafka, prefix) == len(ledger.addresses), "its events")
        assert not running.has_ended
    assert running.error is None


def running_events(kafka: KafkaConnection, prefix: str) -> int:
    """How many records follow the junk."""
    with log_reader(kafka) as reader:
        return reader.end_offset(Topics(prefix).limit, 1) - 1


def test_a_ledger_without_topics_is_an_error_that_names_one(kafka: KafkaConnection) -> None:
    with pytest.raises(LimitsError, match=r"there is no topic nobody\.ledger\.entries\.v1"):
        run_limits(kafka=kafka, prefix="nobody", stop=threading.Event())


def messages_of(ledger: Ledger) -> list[LimitMessage]:
    sealed = [entry_at(record.offset, record.value) for record in ledger.records]
    return [message for one in sealed if one is not None for message in limit_events(one.entry)]


def test_what_is_appended_together_is_one_batch(kafka: KafkaConnection, prefix: str) -> None:
    """Kafka stores a batch whole or not at all, so a failure leaves no gap. All records of a batch
    have one time.
    """
    messages = {partition: messages_of(a_ledger(partition, 500)) for partition in range(2)}
    with log_reader(kafka) as reader:
        limit_log = KafkaLimitLog(kafka, Topics(prefix), reader)
        try:
            for append_number in range(1, 4):
                assert limit_log.append(messages) == {}
                for partition, some in messages.items():
                    end = reader.end_offset(Topics(prefix).limit, partition)
                    assert end == append_number * len(some)
                    times = {
                        record.timestamp_ms
                        for record in reader.read(
                            Topics(prefix).limit, partition, end - len(some), end
                        )
                    }
                    assert len(times) == 1
        finally:
            limit_log.close()


def test_an_append_without_an_answer_fails_and_the_next_has_a_new_producer(
    kafka: KafkaConnection, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = {0: messages_of(a_ledger(0, 30))}
    with log_reader(kafka) as reader:
        limit_log = KafkaLimitLog(kafka, Topics(prefix), reader)
        try:
            monkeypatch.setattr(consumer, "APPEND_TIMEOUT_S", 0.0)
            assert isinstance(limit_log.append(messages)[0], Unavailable)
            monkeypatch.undo()
            assert limit_log.append(messages) == {}
            # The first append may have arrived all the same. Readers drop such repeats.
            newest = [record.value for record in limit_log.newest_first(0)]
            expected = [message.value for message in reversed(messages[0])]
            assert newest in (expected, expected * 2)
        finally:
            limit_log.close()


def test_a_consumer_gets_its_partitions_whatever_it_knows_of_the_topic_when_it_joins(
    kafka: KafkaConnection, prefix: str
) -> None:
    """A subscriber that joined its group before it had heard of the topic's partitions was assigned
    none, and never received an event.
    """
    topics = Topics(prefix)

    def is_given_both(feed: KafkaLedgerFeed) -> bool:
        return not feed.poll(100) and feed.assignment().partitions == {0, 1}

    with log_reader(kafka) as reader:
        for number in range(20):
            feed = KafkaLedgerFeed(kafka, topics, f"{prefix}.{number}", reader, partition_count=2)
            try:
                until(partial(is_given_both, feed), "both partitions")
            finally:
                feed.close()
