"""LimitSubscriber and the tail, on a real broker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaConnectionError

from tests.integration.test_limits import messages_of, until
from tests.worlds.limits_world import Ledger
from usageledger.log.topics import Topics
from usageledger.operations.limit_tail import TailFailed, tail
from usageledger.runtime.backoff import Backoff
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.limits import subscriber as subscriber_module
from usageledger.sdk.limits.async_subscriber import AsyncLimitSubscriber
from usageledger.sdk.limits.errors import HandlerFailed, SubscriberFailed
from usageledger.sdk.limits.limit_event import LimitEvent
from usageledger.sdk.limits.subscriber import LimitSubscriber

Announce = Callable[..., None]


@pytest.fixture
def announce(kafka: KafkaConnection, prefix: str) -> Iterator[Announce]:
    """Append limit events of a ledger, from one to another."""
    producer = KafkaProducer(**kafka.for_kafka_python())

    def announce(ledger: Ledger, start: int = 0, stop: int | None = None) -> None:
        for message in messages_of(ledger)[start:stop]:
            producer.send(
                Topics(prefix).limit,
                key=message.key,
                value=message.value,
                partition=ledger.partition,
            ).get(timeout=20)

    yield announce
    producer.close(timeout=5)


def a_ledger(partition: int = 0, account: str = "a") -> Ledger:
    """Four limit events of an account, which ends up blocked."""
    ledger = Ledger(partition)
    ledger.entry("limit.threshold", "limit.reached", account=account)
    ledger.entry("limit.cleared", account=account)
    ledger.entry("limit.reached", account=account)
    return ledger


class Heard:
    """The events that a subscriber's handlers were called with."""

    def __init__(self, subscriber: LimitSubscriber) -> None:
        self.ids: list[str] = []
        self.blocked: list[bool] = []
        self._subscriber = subscriber
        for register in (subscriber.on_threshold, subscriber.on_reached, subscriber.on_cleared):
            register(self._note)

    def _note(self, event: LimitEvent) -> None:
        self.ids.append(event.id)
        self.blocked.append(self._subscriber.is_blocked(event.account))


def test_a_subscriber_knows_who_was_blocked_before_it_started(
    kafka: KafkaConnection, prefix: str, announce: Announce
) -> None:
    announce(a_ledger(0, "a"))
    announce(a_ledger(1, "b"), 0, 3)
    subscriber = LimitSubscriber(kafka=kafka, prefix=prefix)
    heard = Heard(subscriber)
    with subscriber:
        assert subscriber.blocked() == {"a"}
        announce(a_ledger(1, "b"), 3)
        until(lambda: subscriber.is_blocked("b"), "the new event")
        assert heard.ids == ["1-2-0"]
    with pytest.raises(RuntimeError):
        subscriber.is_blocked("a")


def test_each_event_is_handed_over_once_however_often_it_is_announced(
    kafka: KafkaConnection, prefix: str, announce: Announce
) -> None:
    ledger = a_ledger()
    announce(ledger, 0, 2)
    subscriber = LimitSubscriber(kafka=kafka, prefix=prefix, from_beginning=True)
    heard = Heard(subscriber)
    with subscriber:
        announce(ledger, 1, 3)
        announce(ledger, 0, 2)
        announce(ledger, 0, 4)
        until(lambda: len(heard.ids) >= 4, "all events")
    assert heard.ids == ["0-0-0", "0-0-1", "0-1-0", "0-2-0"]


def test_a_group_goes_on_where_it_left_off(
    kafka: KafkaConnection, prefix: str, announce: Announce
) -> None:
    """Repeats across the restart are recognised too: the group's offsets carry the address of the
    last event that was handled.
    """
    ledger = a_ledger()
    announce(ledger, 0, 1)
    first = LimitSubscriber(kafka=kafka, prefix=prefix, group="app")
    heard = Heard(first)
    with first:
        announce(ledger, 1, 2)
        until(lambda: heard.ids == ["0-0-1"], "the event after the start")
        assert heard.blocked == [True]
    announce(ledger, 0, 2)
    announce(ledger, 2, 3)
    second = LimitSubscriber(kafka=kafka, prefix=prefix, group="app")
    heard = Heard(second)
    with second:
        announce(ledger, 3, 4)
        until(lambda: len(heard.ids) >= 2, "the events in between and after")
        assert heard.ids == ["0-1-0", "0-2-0"]
        assert heard.blocked[-1]


def test_a_new_group_hears_what_there_is_if_it_asks_for_it(
    kafka: KafkaConnection, prefix: str, announce: Announce
) -> None:
    def has_heard(heard: Heard, count: int) -> bool:
        return len(heard.ids) >= count

    announce(a_ledger())
    for expected in (4, 0):
        subscriber = LimitSubscriber(kafka=kafka, prefix=prefix, group="app", from_beginning=True)
        heard = Heard(subscriber)
        with subscriber:
            until(partial(has_heard, heard, expected), "all events")
        assert len(heard.ids) == expected


@pytest.mark.parametrize("group", [None, "app"])
@pytest.mark.parametrize(
    "call",
    ["partitions_for_topic", "beginning_offsets", "end_offsets", "poll", "committed", "commit"],
)
def test_a_short_outage_ends_no_subscriber_and_repeats_nothing(
    kafka: KafkaConnection,
    prefix: str,
    announce: Announce,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    group: str | None,
) -> None:
    """A broker was killed while a subscriber opened its second consumer: the connection's error
    ended the subscriber, and from then on the app heard nothing.
    """
    fails_at = iter([1, 2, 4, 7])
    calls, fails_next = 0, next(fails_at)

    class Shaky(KafkaConsumer):  # type: ignore[misc]
        """Fails in the calls that are named by number, over all consumers."""

    def shakily(consumer: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls, fails_next
        calls += 1
        if calls == fails_next:
            fails_next = next(fails_at, 0)
            raise KafkaConnectionError("the broker is gone")
        return getattr(KafkaConsumer, call)(consumer, *args, **kwargs)

    setattr(Shaky, call, shakily)
    monkeypatch.setattr(subscriber_module, "KafkaConsumer", Shaky)
    monkeypatch.setattr(subscriber_module, "RECONNECT", Backoff((0.01,)))
    ledger = a_ledger()
    announce(ledger, 0, 2)
    subscriber = LimitSubscriber(kafka=kafka, prefix=prefix, group=group, from_beginning=True)
    heard = Heard(subscriber)
    with subscriber:
        announce(ledger, 2, 4)
        until(lambda: subscriber.blocked() is not None and len(heard.ids) >= 4, "all events")
    assert heard.ids == [address.id for address in ledger.addresses]


def test_the_instances_of_a_group_share_the_events_and_all_know_who_is_blocked(
    kafka: KafkaConnection, prefix: str, announce: Announce
) -> None:
    ledgers = [a_ledger(0, "a"), a_ledger(1, "b")]
    instances = [
        LimitSubscriber(kafka=kafka, prefix=prefix, group="app", from_beginning=True)
        for _ in range(2)
    ]
    heard = [Heard(instance) for instance in instances]
    with instances[0], instances[1]:
        for ledger in ledgers:
            announce(ledger)
        ids = {address.id for ledger in ledgers for address in ledger.addresses}
        until(lambda: {id_ for one in heard for id_ in one.ids} == ids, "all events")
        for instance in instances:
            until(
                lambda instance=instance: instance.blocked() == {"a", "b"},  # type: ignore[misc]
                "the view of every instance",
            )


def test_a_handler_that_keeps_failing_ends_the_subscriber_and_its_event_comes_again(
    kafka: KafkaConnection, prefix: str, announce: Announce
) -> None:
    ledger = a_ledger()
    subscriber = LimitSubscriber(kafka=kafka, prefix=prefix, group="app", from_beginning=True)
    handled: list[str] = []

    @subscriber.on_threshold
    def note(event: LimitEvent) -> None:
        handled.append(event.id)

    @subscriber.on_reached
    def fail(_event: LimitEvent) -> None:
        raise OSError("the session service is away")

    announce(ledger, 0, 2)
    subscriber.start()

    def has_failed() -> bool:
        try:
            return subscriber.is_blocked("nobody")
        except SubscriberFailed:
            return True
        except RuntimeError:
            return False

    until(has_failed, "the failure")
    with pytest.raises(SubscriberFailed, match="failed 3 times") as raised:
        subscriber.close()
    assert isinstance(raised.value.__cause__, HandlerFailed)
    assert handled == ["0-0-0"]

    again = LimitSubscriber(kafka=kafka, prefix=prefix, group="app")
    heard = Heard(again)
    with again:
        until(lambda: len(heard.ids) >= 1, "the event that was not handled")
    assert heard.ids == ["0-0-1"]


def test_run_returns_when_a_handler_closes_the_subscriber(
    kafka: KafkaConnection, prefix: str, announce: Announce
) -> None:
    announce(a_ledger(), 0, 2)
    subscriber = LimitSubscriber(kafka=kafka, prefix=prefix, from_beginning=True)
    handled: list[str] = []

    @subscriber.on_threshold
    def close(event: LimitEvent) -> None:
        handled.append(event.id)
        subscriber.close()

    subscriber.on_reached(lambda event: handled.append(event.id))
    thread = threading.Thread(target=subscriber.run)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert handled == ["0-0-0"]


def test_a_subscriber_knows_why_an_account_is_blocked(
    kafka: KafkaConnection, prefix: str, announce: Announce
) -> None:
    announce(a_ledger())
    with LimitSubscriber(kafka=kafka, prefix=prefix) as subscriber:
        why = subscriber.why_blocked("a")
        assert why is not None and (why.id, why.kind, why.reason) == ("0-2-0", "reached", "usage")
        assert subscriber.why_blocked("b") is None


def test_an_asyncio_app_is_told_in_order_and_its_group_goes_on_where_it_left_off(
    kafka: KafkaConnection, prefix: str, announce: Announce
) -> None:
    ledger = a_ledger()
    announce(ledger, 0, 1)

    async def listen(start: int, stop: int, expected: int) -> tuple[list[str], list[bool]]:
        subscriber = AsyncLimitSubscriber(kafka=kafka, prefix=prefix, group="app")
        ids: list[str] = []
        blocked: list[bool] = []
        has_heard_all = asyncio.Event()

        async def note(event: LimitEvent) -> None:
            await asyncio.sleep(0)
            ids.append(event.id)
            blocked.append(subscriber.is_blocked(event.account))
            if len(ids) == expected:
                has_heard_all.set()

        for register in (subscriber.on_threshold, subscriber.on_reached, subscriber.on_cleared):
            register(note)
        async with subscriber:
            await asyncio.to_thread(announce, ledger, start, stop)
            await asyncio.wait_for(has_heard_all.wait(), 40)
        return ids, blocked

    assert asyncio.run(listen(1, 2, 1)) == (["0-0-1"], [True])
    announce(ledger, 0, 3)
    ids, blocked = asyncio.run(listen(3, 4, 2))
    assert ids == ["0-1-0", "0-2-0"] and blocked[-1]


def test_a_failing_asyncio_handler_ends_its_subscriber_and_the_event_comes_again(
    kafka: KafkaConnection, prefix: str, announce: Announce
) -> None:
    announce(a_ledger(), 0, 2)
    handled: list[str] = []

    async def fail() -> None:
        subscriber = AsyncLimitSubscriber(
            kafka=kafka, prefix=prefix, group="app", from_beginning=True
        )
        subscriber.on_threshold(lambda event: handled.append(event.id))

        @subscriber.on_reached
        async def stop(_event: LimitEvent) -> None:
            raise OSError("the session service is away")

        with pytest.raises(HandlerFailed, match="stop failed 3 times with limit event 0-0-1"):
            await asyncio.wait_for(subscriber.run(), 60)
        with pytest.raises(SubscriberFailed):
            subscriber.is_blocked("a")

    async def succeed() -> None:
        subscriber = AsyncLimitSubscriber(kafka=kafka, prefix=prefix, group="app")
        is_handled = asyncio.Event()

        @subscriber.on_reached
        def stop(event: LimitEvent) -> None:
            handled.append(event.id)
            is_handled.set()

        running = asyncio.create_task(subscriber.run())
        await subscriber.wait_ready()
        await asyncio.wait_for(is_handled.wait(), 40)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(fail())
    asyncio.run(succeed())
    assert handled == ["0-0-0", "0-0-1"]


def test_a_record_that_is_no_limit_event_is_logged_and_ignored(
    kafka: KafkaConnection, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    producer = KafkaProducer(**kafka.for_kafka_python())
    producer.send(Topics(prefix).limit, key=b"a", value=b"not ours", partition=1).get(timeout=20)
    producer.close(timeout=5)
    with LimitSubscriber(kafka=kafka, prefix=prefix) as subscriber:
        assert subscriber.blocked() == set()
    assert "partition 1, offset 0 is no limit event" in caplog.text
    assert list(tail(kafka, prefix, from_beginning=True, until_idle_s=1.0)) == []


def test_a_ledger_that_does_not_exist_is_told(kafka: KafkaConnection) -> None:
    with (
        pytest.raises(SubscriberFailed, match=r"no topic nobody\.limit\.events\.v1"),
        LimitSubscriber(kafka=kafka, prefix="nobody"),
    ):
        pass
    with pytest.raises(TailFailed, match=r"no topic nobody\.limit\.events\.v1"):
        list(tail(kafka, "nobody", from_beginning=True, until_idle_s=1.0))


def test_the_tail_shows_each_event_once_as_it_is(
    kafka: KafkaConnection, prefix: str, announce: Announce
) -> None:
    ledger = a_ledger()
    announce(ledger, 0, 2)
    announce(ledger, 0, 4)
    shown = list(tail(kafka, prefix, from_beginning=True, until_idle_s=1.5))
    assert [event["id"] for event in shown] == ["0-0-0", "0-0-1", "0-1-0", "0-2-0"]
    assert shown[1]["type"] == "limit.reached" and shown[1]["data"]["remaining"] == "0"


def test_the_tail_from_now_on_waits_for_what_comes(
    kafka: KafkaConnection, prefix: str, announce: Announce
) -> None:
    ledger = a_ledger()
    announce(ledger, 0, 2)
    assert list(tail(kafka, prefix, from_beginning=False, until_idle_s=1.0)) == []
    shown: list[dict[str, Any]] = []
    following = threading.Thread(
        target=lambda: shown.extend(tail(kafka, prefix, from_beginning=False, until_idle_s=8.0))
    )
    following.start()
    for _ in range(3):
        following.join(timeout=1.0)
        announce(ledger, 2, 4)
    following.join(timeout=60)
    assert [event["id"] for event in shown] == ["0-1-0", "0-2-0"]
