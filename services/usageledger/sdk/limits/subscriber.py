"""`LimitSubscriber`: how an app is told that an account has come to its limit, and asks whether one
is blocked. Needs kafka-python alone.

::

    subscriber = LimitSubscriber(kafka="localhost:9092", group="editor")

    @subscriber.on_reached
    def stop(event):
        sessions.stop(event.account, because=event.reason, offer=event.upgrade)

    with subscriber:
        ...
        if subscriber.is_blocked("acct_4821"):
            ...
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

from usageledger.ledger.limit_address import LimitAddress, NotALimitEvent, read_limit_event
from usageledger.log.assignor import KnownPartitionsAssignor
from usageledger.log.topics import Topics
from usageledger.log.transient_errors import REBALANCED, TRANSIENT
from usageledger.runtime.backoff import Backoff
from usageledger.sdk.limits.limit_event import (
    BlockedView,
    CrossedBy,
    Handler,
    HandlerFailed,
    Handlers,
    LimitEvent,
    SubscriberFailed,
    Upgrade,
)

with warnings.catch_warnings():
    # It reads its message schemas by a call that Python 3.11 and 3.12 call deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaConsumer, TopicPartition
    from kafka import errors as kafka_errors
    from kafka.structs import OffsetAndMetadata

__all__ = [
    "CrossedBy",
    "HandlerFailed",
    "LimitEvent",
    "LimitSubscriber",
    "SubscriberFailed",
    "Upgrade",
]

POLL_MS = 100
# Where one consumer is polled and nothing else waits: see `limits.announcer.POLL_MS`.
LONG_POLL_MS = 500
NO_PROGRESS_S = 30.0
RECONNECT = Backoff((1.0,))
COMMIT_TIMEOUT_MS = 5_000
SETTLE_ATTEMPTS = 20
# Few, so that slow handlers are done with one poll's events long before the group takes the
# consumer for dead (5 minutes).
EVENTS_PER_POLL = 50

_PREFIX = re.compile(r"[A-Za-z0-9._-]{0,200}", re.ASCII)
_FIXED: dict[str, object] = {
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "isolation_level": "read_uncommitted",
}
_NOT_TO_BE_SET = frozenset(
    {*_FIXED, "bootstrap_servers", "group_id", "key_deserializer", "value_deserializer"}
)
_DEFAULTS: dict[str, object] = {
    "client_id": "usageledger",
    "allow_auto_create_topics": False,
    "fetch_max_wait_ms": 250,
    "reconnect_backoff_max_ms": 2_000,
    "request_timeout_ms": 15_000,
    "metrics_enabled": False,
}
# A rebalance has taken the partition away, or is about to.
_NOT_OURS_NOW: tuple[type[Exception], ...] = (
    *REBALANCED,
    kafka_errors.IllegalStateError,
    ValueError,
)

log = logging.getLogger("usageledger.limits")


class _Stalled(Exception):
    """A consumer that has something to fetch fetched nothing for too long."""


_TRANSIENT: tuple[type[Exception], ...] = (*TRANSIENT, _Stalled)


class LimitSubscriber:
    """Calls an app's handlers with limit events, each event once by its id, and keeps a view of who
    is blocked.

    ``group`` names the app: its instances share the events among them, and where one left off
    another goes on. An event counts as handled once its handlers have returned, so after a crash
    one may come again: at least once, with the same ``id``. Without ``group`` every instance gets
    every event, from its start on. ``from_beginning`` hands over all events that there are (with
    ``group``: if the group is new).

    A handler that raises is called again, three times in all; then the subscriber ends: `run`
    raises HandlerFailed, and after `start` every other method raises SubscriberFailed. What was not
    handled comes again to the next subscriber of the group.

    A Kafka that is away is waited for, however long: meanwhile `is_blocked` answers by what was
    heard last, and a warning is logged.

    ``kafka`` and ``prefix`` default to USAGELEDGER_KAFKA and USAGELEDGER_PREFIX; ``kafka_options``
    (security, …) go to kafka-python.
    """

    def __init__(
        self,
        *,
        kafka: str | None = None,
        prefix: str | None = None,
        group: str | None = None,
        from_beginning: bool = False,
        kafka_options: Mapping[str, object] | None = None,
    ) -> None:
        refused = sorted(_NOT_TO_BE_SET & set(kafka_options or ()))
        if refused:
            raise ValueError(
                f"kafka_options cannot set {', '.join(refused)}: the subscriber's promises rest on "
                "them"
            )
        self._config = {
            **_DEFAULTS,
            **(kafka_options or {}),
            **_FIXED,
            "bootstrap_servers": _addresses(kafka),
        }
        self._topic = Topics(_checked_prefix(prefix)).limit
        self._group = group
        self._from_beginning = from_beginning
        self._view = BlockedView()
        self._stop = threading.Event()
        self._handlers = Handlers(pause=self._stop.wait)
        self._starts: _Starts | None = None
        self._handled: dict[int, LimitAddress] = {}
        self._trouble = ""
        self._is_ready = threading.Event()
        self._has_view = False
        self._failure: BaseException | None = None
        self._has_begun = False
        self._thread: threading.Thread | None = None

    def on_threshold(self, handler: Handler) -> Handler:
        """Decorator: call this when an account's use comes to a share (80 %, say) of what its
        period has.
        """
        self._handlers.add("threshold", handler)
        return handler

    def on_reached(self, handler: Handler) -> Handler:
        """Decorator: call this when an account comes to be blocked: nothing remains to it, or it is
        suspended.
        """
        self._handlers.add("reached", handler)
        return handler

    def on_cleared(self, handler: Handler) -> Handler:
        """Decorator: call this when an account that was blocked is so no longer."""
        self._handlers.add("cleared", handler)
        return handler

    def is_blocked(self, account: str) -> bool:
        """Whether nothing remains to the account, or it is suspended.

        Raises SubscriberFailed, and RuntimeError while there is no view to answer from: before
        `wait_ready` has returned, after `close`.
        """
        self._require_view()
        return self._view.is_blocked(account)

    def why_blocked(self, account: str) -> LimitEvent | None:
        """The event by which the account came to be blocked, with the upgrade that would free it;
        None if it is not blocked.

        What else has changed since is not in it: one that is suspended and has nothing left either
        was blocked by whichever came first. Raises as `is_blocked` does.
        """
        self._require_view()
        return self._view.why_blocked(account)

    def blocked(self) -> set[str]:
        """All accounts that are blocked. Raises as `is_blocked` does."""
        self._require_view()
        return self._view.blocked()

    def run(self) -> None:
        """Call handlers until `close` is called (from another thread, or from a handler).

        Raises HandlerFailed and SubscriberFailed.
        """
        if self._has_begun:
            raise RuntimeError("a subscriber runs once: make another one")
        self._has_begun = True
        try:
            self._run()
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._has_view = False
            self._is_ready.set()

    def start(self) -> LimitSubscriber:
        """Run in a thread of its own."""
        if self._thread is not None or self._has_begun:
            raise RuntimeError("a subscriber runs once: make another one")
        self._thread = threading.Thread(
            target=self._run_in_thread, name="usageledger-limits", daemon=True
        )
        self._thread.start()
        return self

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until the view holds all that had been announced at the start.

        Raises TimeoutError; otherwise as `is_blocked` does.
        """
        if not self._is_ready.wait(timeout_s):
            raise TimeoutError(
                f"the limit events could not be read within {timeout_s:g} s{self._trouble}"
            )
        self._require_view()

    def close(self, timeout_s: float = 30.0) -> None:
        """End, after the handlers that are being called.

        Raises SubscriberFailed if the subscriber had ended by itself, TimeoutError.
        """
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)
            if thread.is_alive():
                raise TimeoutError(f"a handler did not return within {timeout_s:g} s")
            self._raise_failure()

    def __enter__(self) -> LimitSubscriber:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self._stop.set()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except SubscriberFailed:
            if error is None:
                raise

    def _run_in_thread(self) -> None:
        # run() has noted what went wrong, and it is raised where the app asks next: a traceback
        # that a thread prints is easily missed.
        with contextlib.suppress(BaseException):
            self.run()

    def _require_view(self) -> None:
        self._raise_failure()
        if not self._has_view:
            raise RuntimeError(
                "who is blocked is not known: start() and wait_ready(), or `with subscriber:`, "
                "come first, close() ends it"
            )

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise SubscriberFailed(f"the subscriber has ended: {self._failure}") from self._failure

    def _run(self) -> None:
        """Connect, and do so anew whenever that comes to an end.

        What was seen and handled is kept, so nothing is handed over twice.
        """
        while not self._stop.is_set():
            try:
                self._run_connected()
            except _TRANSIENT as error:
                delay_s = RECONNECT.delay_s(1)
                self._trouble = f" ({type(error).__name__}: {error})"
                log.warning(
                    "limit events cannot be read, connecting anew in %g s%s",
                    delay_s,
                    self._trouble,
                )
                self._stop.wait(delay_s)

    def _run_connected(self) -> None:
        with _open(KafkaConsumer(**self._config)) as consumer:
            feed = _Broadcast(consumer, self._topic)
            known = self._build_view(feed)
            if self._stop.is_set():
                return
            if self._starts is None:
                self._starts = (
                    _Starts({}, {}) if self._from_beginning else _Starts(feed.known_ends, known)
                )
            self._has_view = True
            self._is_ready.set()
            if self._group is None:
                self._run_alone(feed, self._starts)
            else:
                self._run_in_group(feed, self._group, self._starts)

    def _build_view(self, feed: _Broadcast) -> dict[int, LimitAddress]:
        """Read what is there; return the last places of what had been announced at the start."""
        known: dict[int, LimitAddress] = {}
        while not self._stop.is_set() and not feed.is_at_known_end():
            for record in feed.poll(POLL_MS):
                self._view.apply(*_read(record), record.value)
                last = self._view.last_place(record.partition)
                if last is not None and record.offset < feed.known_ends[record.partition]:
                    known[record.partition] = last
        return known

    def _run_alone(self, feed: _Broadcast, starts: _Starts) -> None:
        """Handle everything, from the starts on.

        That the view is ahead of a beginning is what a handler that asks expects.
        """
        feed.read_again_from(starts.offsets)
        while not self._stop.is_set():
            for record in feed.poll(LONG_POLL_MS):
                event, place = _read(record)
                self._view.apply(event, place, record.value)
                if place.is_beyond(
                    self._handled.get(place.partition, starts.places.get(place.partition))
                ):
                    self._handlers.hand_over(event)
                    self._handled[place.partition] = place
                if self._stop.is_set():
                    return

    def _run_in_group(self, feed: _Broadcast, group: str, starts: _Starts) -> None:
        """Handle what is this instance's part of the group's, while the view goes on over all
        partitions.
        """
        shared_out = {
            "partition_assignment_strategy": [
                KnownPartitionsAssignor({self._topic: len(feed.known_ends)})
            ]
        }
        config = {
            "max_poll_records": EVENTS_PER_POLL,
            **self._config,
            **shared_out,
            "group_id": group,
        }
        with _open(KafkaConsumer(self._topic, **config)) as consumer:
            shared = _Shared(consumer, self._topic, starts, self._handled)
            has_kafka = True
            try:
                while not self._stop.is_set():
                    for record in feed.poll(0):
                        self._view.apply(*_read(record), record.value)
                    self._handle(feed, shared, shared.poll(POLL_MS))
                    shared.commit()
            except _TRANSIENT:
                has_kafka = False
                raise
            finally:
                if has_kafka:
                    shared.settle()

    def _handle(self, feed: _Broadcast, shared: _Shared, records: list[Any]) -> None:
        for record in records:
            self._see_up_to(record, feed)
            if self._stop.is_set():
                return
            event, place = _read(record)
            if shared.is_new(place):
                self._handlers.hand_over(event)
            shared.has_handled(record, place)

    def _see_up_to(self, record: Any, feed: _Broadcast) -> None:
        """A handler that asks who is blocked finds what it is told.

        Only the feed tells the view, for it has no gaps.
        """
        deadline_s = time.monotonic() + NO_PROGRESS_S
        while not feed.has_read(record) and not self._stop.is_set():
            if time.monotonic() > deadline_s:
                raise _Stalled(
                    f"{self._topic}, partition {record.partition}: nothing came in "
                    f"{NO_PROGRESS_S:.0f} s"
                )
            for seen in feed.poll(POLL_MS):
                self._view.apply(*_read(seen), seen.value)


class _Broadcast:
    """All partitions of the topic from the beginning, for this instance alone."""

    def __init__(self, consumer: Any, topic: str) -> None:
        self._consumer = consumer
        partitions = consumer.partitions_for_topic(topic)
        if not partitions:
            raise SubscriberFailed(
                f"there is no topic {topic}: are the address and the prefix right?"
            )
        places = [TopicPartition(topic, partition) for partition in sorted(partitions)]
        ends = consumer.end_offsets(places)
        starts = consumer.beginning_offsets(places)
        consumer.assign(places)
        for place in places:
            consumer.seek(place, starts[place])
        self.known_ends = {place.partition: int(ends[place]) for place in places}
        self._next = {place.partition: int(starts[place]) for place in places}
        self._starts = dict(self._next)

    def is_at_known_end(self) -> bool:
        """Whether everything that was there at the start has been read."""
        return all(self._next[partition] >= end for partition, end in self.known_ends.items())

    def read_again_from(self, offsets: Mapping[int, int]) -> None:
        """Go back to these offsets; to the beginning of a partition that none is named for."""
        for place in self._consumer.assignment():
            self._consumer.seek(place, offsets.get(place.partition, self._starts[place.partition]))

    def has_read(self, record: Any) -> bool:
        """Whether that record has been read here."""
        return self._next[record.partition] > int(record.offset)

    def poll(self, timeout_ms: int) -> Iterator[Any]:
        """What has come, in order for each partition."""
        for place, records in self._consumer.poll(timeout_ms=timeout_ms).items():
            for record in records:
                yield record
                self._next[place.partition] = record.offset + 1


class _Starts(NamedTuple):
    """Where handling begins in each partition (at its beginning where none is named), and the last
    place before that.
    """

    offsets: Mapping[int, int]
    places: Mapping[int, LimitAddress]


class _Shared:
    """This instance's part of what a group handles.

    The group's offsets say how far it has come, and note the last event's place.

    ``handled_here`` holds the last events that this instance has handled, also over connections
    before; it is kept up.
    """

    def __init__(
        self, consumer: Any, topic: str, starts: _Starts, handled_here: dict[int, LimitAddress]
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self._starts = starts
        self._handled_here = handled_here
        self._joined = _Joined("", -1, frozenset())
        self._handled: dict[int, _Handled] = {}
        self._uncommitted: set[int] = set()
        # A consumer that joins before it knows the topic's partitions causes another rebalance when
        # it does.
        consumer.partitions_for_topic(topic)

    def poll(self, timeout_ms: int) -> list[Any]:
        """The next few records; none right after a rebalance, which begins with finding out how far
        the group has come.
        """
        polled = self._consumer.poll(timeout_ms=timeout_ms)
        member = self._consumer.group_metadata()
        joined = _Joined(
            member.member_id, member.generation_id, frozenset(self._consumer.assignment())
        )
        if joined == self._joined:
            return [record for records in polled.values() for record in records]
        with contextlib.suppress(kafka_errors.RetriableError, *_NOT_OURS_NOW):
            self._take_over(joined)
        return []

    def is_new(self, place: LimitAddress) -> bool:
        """Whether the group has not handled it yet."""
        last = self._handled[place.partition].last
        return last is None or (place.offset, place.index) > last

    def has_handled(self, record: Any, place: LimitAddress) -> None:
        """Go on after this record."""
        if self.is_new(place):
            self._handled_here[place.partition] = place
            last: tuple[int, int] | None = (place.offset, place.index)
        else:
            last = self._handled[place.partition].last
        self._handled[place.partition] = _Handled(record.offset + 1, last)
        self._uncommitted.add(place.partition)

    def commit(self) -> None:
        """Make what was handled durable.

        What cannot be now is committed with the next events, or comes again after a rebalance.
        """
        offsets = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(
                handled.next_offset, _written(handled.last), -1
            )
            for partition, handled in self._handled.items()
            if partition in self._uncommitted
        }
        if not offsets:
            return
        with contextlib.suppress(kafka_errors.RetriableError, *_NOT_OURS_NOW):
            self._consumer.commit(offsets, timeout_ms=COMMIT_TIMEOUT_MS)
            self._uncommitted.clear()

    def settle(self) -> None:
        """Commit before the end, past a rebalance that may be going on."""
        for _ in range(SETTLE_ATTEMPTS):
            self.commit()
            if not self._uncommitted:
                return
            self.poll(POLL_MS)

    def _take_over(self, joined: _Joined) -> None:
        """Begin with what is ours now.

        What was ours in the generation right before this one nobody else can have handled since.
        """
        kept = self._handled if joined.follows(self._joined) else {}
        handled: dict[int, _Handled] = {}
        begun: set[int] = set()
        for place in joined.places:
            partition = place.partition
            if partition in kept:
                handled[partition] = kept[partition]
            else:
                handled[partition], is_committed = self._found(place)
                begun |= set() if is_committed else {partition}
            self._consumer.seek(place, handled[partition].next_offset)
        # So that a new group begins where it began even if it is restarted before anything comes.
        self._uncommitted = (self._uncommitted & kept.keys() & handled.keys()) | begun
        self._handled, self._joined = handled, joined

    def _found(self, place: Any) -> tuple[_Handled, bool]:
        """How far the group has come, and whether that is its own word."""
        committed = self._consumer.committed(place, metadata=True, timeout_ms=COMMIT_TIMEOUT_MS)
        if committed is not None and committed.offset >= 0:
            here = self._handled_here.get(place.partition)
            places = [
                _place_in(committed.metadata),
                None if here is None else (here.offset, here.index),
            ]
            return _Handled(
                committed.offset, max((one for one in places if one is not None), default=None)
            ), True
        known = self._starts.places.get(place.partition)
        last = None if known is None else (known.offset, known.index)
        return _Handled(self._starts.offsets.get(place.partition, 0), last), False


class _Handled(NamedTuple):
    next_offset: int
    last: tuple[int, int] | None
    """The place of the last event that was handled: offset and index."""


class _Joined(NamedTuple):
    member: str
    generation: int
    places: frozenset[Any]

    def follows(self, before: _Joined) -> bool:
        """Whether there was no generation of the group in between."""
        return self.member == before.member and self.generation == before.generation + 1


@contextmanager
def _open(consumer: Any) -> Iterator[Any]:
    try:
        yield consumer
    finally:
        consumer.close(autocommit=False, timeout_ms=COMMIT_TIMEOUT_MS)


def _read(record: Any) -> tuple[dict[str, Any], LimitAddress]:
    try:
        event, place = read_limit_event(record.value)
        if place.partition != record.partition:
            raise NotALimitEvent(f"it is of partition {place.partition}")
        return event, place
    except NotALimitEvent as error:
        raise SubscriberFailed(
            f"{record.topic}, partition {record.partition}, offset {record.offset}: {error}"
        ) from error


def _written(last: tuple[int, int] | None) -> str:
    return "" if last is None else f"{last[0]}-{last[1]}"


def _place_in(metadata: str | None) -> tuple[int, int] | None:
    """What a commit noted; None where offsets were set by another tool: then a repeat can be handed
    over.
    """
    found = re.fullmatch(r"(\d+)-(\d+)", metadata or "", re.ASCII)
    return None if found is None else (int(found[1]), int(found[2]))


def _addresses(kafka: str | None) -> list[str]:
    kafka = kafka or os.environ.get("USAGELEDGER_KAFKA", "")
    if not kafka.strip():
        raise ValueError(
            'kafka="host:port" is needed (or the environment variable USAGELEDGER_KAFKA)'
        )
    return [address.strip() for address in kafka.split(",")]


def _checked_prefix(prefix: str | None) -> str:
    prefix = os.environ.get("USAGELEDGER_PREFIX", "") if prefix is None else prefix
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(
            f"prefix has letters, digits, dots, hyphens and underscores, unlike {prefix!r}"
        )
    return prefix
