"""`LimitSubscriber`: tells an app when an account reaches a limit, and whether one is blocked.

Needs kafka-python alone.

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
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from usageledger.ledger.limit_address import LimitAddress
from usageledger.log.assignor import KnownPartitionsAssignor
from usageledger.log.bounded_codecs import FETCH_BYTES_MAX
from usageledger.log.diagnosis import named_cause
from usageledger.log.missing_rights import missing_right
from usageledger.log.topics import Topics
from usageledger.runtime.backoff import Backoff
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.kafka_python import KafkaConsumer, kafka_errors
from usageledger.sdk.limits.blocked_view import BlockedView
from usageledger.sdk.limits.broadcast import Broadcast
from usageledger.sdk.limits.consuming import (
    RECONNECTABLE,
    Stalled,
    closing_consumer,
    read_record,
)
from usageledger.sdk.limits.errors import SubscriberFailed
from usageledger.sdk.limits.group_share import POLL_MS, GroupShare, Starts
from usageledger.sdk.limits.handlers import Handler, Handlers
from usageledger.sdk.limits.limit_event import LimitEvent
from usageledger.sdk.settings import kafka_setting, prefix_setting

# For a loop that polls one consumer and has nothing else to do: see `limits.announcer.POLL_MS`.
LONG_POLL_MS = 500
NO_PROGRESS_S = 30.0
RECONNECT = Backoff((1.0,))
# Few, so that slow handlers finish one poll's events long before the group considers the consumer
# dead (5 minutes).
EVENTS_PER_POLL = 50

_FIXED: dict[str, object] = {
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "isolation_level": "read_uncommitted",
}
_NOT_TO_BE_SET = frozenset({*_FIXED, "group_id", "key_deserializer", "value_deserializer"})
_DEFAULTS: dict[str, object] = {
    "client_id": "usageledger",
    "allow_auto_create_topics": False,
    # So that `wait_ready` can say what keeps it.
    "bootstrap_timeout_ms": 10_000,
    "fetch_max_wait_ms": 250,
    "fetch_max_bytes": FETCH_BYTES_MAX,
    "reconnect_backoff_max_ms": 2_000,
    "request_timeout_ms": 15_000,
    "metrics_enabled": False,
}

log = logging.getLogger(__name__)


class LimitSubscriber:
    """Calls an app's handlers with limit events, and knows which accounts are blocked.

    Each event is handed over once by its id. It counts as handled once its handlers have returned.
    After a crash the last ones may come again with the same ``id``: delivery is at least once.

    * ``kafka``: addresses, "host:port,host:port", or a `KafkaConnection`; by default
      USAGELEDGER_KAFKA. The variables ``USAGELEDGER_KAFKA_…`` say how to connect to addresses.
    * ``prefix``: of the topics' names; by default USAGELEDGER_PREFIX.
    * ``group`` names the app. Its instances share the events, and an instance continues where
      another stopped. Without ``group``, every instance gets every event from its start on.
    * ``from_beginning`` hands over all existing events first. With ``group``, it does so only if
      the group is new.
    * ``kafka_options``: more of kafka-python's settings (fetch sizes, …). Those that these promises
      rest on cannot be set.

    A handler that raises is called again, three times in all. Then the subscriber ends: `run`
    raises HandlerFailed, and after `start` every other method raises SubscriberFailed. The event
    that was not handled comes again to the next subscriber of the group.

    A record of the topic that is no limit event is logged as an error and ignored.

    While Kafka is away, the subscriber waits for it without a limit and logs a warning. Meanwhile
    `is_blocked` answers from the last events it has read.

    Raises ValueError for a setting that is wrong.
    """

    def __init__(
        self,
        *,
        kafka: KafkaConnection | str | None = None,
        prefix: str | None = None,
        group: str | None = None,
        from_beginning: bool = False,
        kafka_options: Mapping[str, object] | None = None,
    ) -> None:
        KafkaConnection.check_options(kafka_options)
        refused = sorted(_NOT_TO_BE_SET & set(kafka_options or ()))
        if refused:
            raise ValueError(
                f"kafka_options cannot set {', '.join(refused)}: the subscriber's promises rest on "
                "them"
            )
        self._kafka = kafka_setting(kafka)
        self._options = {**_DEFAULTS, **(kafka_options or {}), **_FIXED}
        self._topic = Topics(prefix_setting(prefix)).limit
        self._group = group
        self._from_beginning = from_beginning
        self._view = BlockedView()
        self._stop = threading.Event()
        self._handlers = Handlers(pause=self._stop.wait)
        self._starts: Starts | None = None
        self._handled: dict[int, LimitAddress] = {}
        self._trouble = ""
        self._is_ready = threading.Event()
        self._has_view = False
        self._failure: BaseException | None = None
        self._has_begun = False
        self._thread: threading.Thread | None = None

    def on_threshold(self, handler: Handler) -> Handler:
        """Decorator: call this when an account has used a share (80 %, say) of its credits."""
        self._handlers.add("threshold", handler)
        return handler

    def on_reached(self, handler: Handler) -> Handler:
        """Decorator: call this when an account becomes blocked: out of credits, or suspended."""
        self._handlers.add("reached", handler)
        return handler

    def on_cleared(self, handler: Handler) -> Handler:
        """Decorator: call this when a blocked account is freed."""
        self._handlers.add("cleared", handler)
        return handler

    def is_blocked(self, account: str) -> bool:
        """Whether the account is out of credits or suspended. Answers from memory.

        Raises SubscriberFailed once the subscriber has ended by itself, RuntimeError before
        `wait_ready` has returned and after `close`.
        """
        self._require_view()
        return self._view.is_blocked(account)

    def why_blocked(self, account: str) -> LimitEvent | None:
        """Return the event that blocked the account, with the upgrade that frees it, or None.

        The event does not change while the account stays blocked. An account that is both suspended
        and out of credits has the event of whichever came first. Raises as `is_blocked` does.
        """
        self._require_view()
        return self._view.why_blocked(account)

    def blocked(self) -> set[str]:
        """Return all blocked accounts. Raises as `is_blocked` does."""
        self._require_view()
        return self._view.blocked()

    def run(self) -> None:
        """Call handlers until `close` is called, from another thread or from a handler.

        Raises HandlerFailed and SubscriberFailed, and RuntimeError if it ran before.
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
        """Run in a background thread. Raises RuntimeError if it ran before."""
        if self._thread is not None or self._has_begun:
            raise RuntimeError("a subscriber runs once: make another one")
        self._thread = threading.Thread(
            target=self._run_in_thread, name="usageledger-limits", daemon=True
        )
        self._thread.start()
        return self

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until it knows every account that was blocked when it started.

        Raises TimeoutError after ``timeout_s`` seconds; otherwise as `is_blocked` does.
        """
        if not self._is_ready.wait(timeout_s):
            raise TimeoutError(
                f"the limit events could not be read within {timeout_s:g} s{self._trouble}"
            )
        self._require_view()

    def close(self, timeout_s: float = 30.0) -> None:
        """End, once the handlers that are being called have returned.

        Raises SubscriberFailed if the subscriber had ended by itself, TimeoutError if a handler did
        not return within ``timeout_s`` seconds.
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
        # run() keeps the error, and the app's next call raises it. People easily miss a traceback
        # that a thread prints.
        with contextlib.suppress(BaseException):
            self.run()

    def _require_view(self) -> None:
        self._raise_failure()
        if not self._has_view:
            raise RuntimeError(
                "blocked accounts are not known before start() and wait_ready(), or outside of "
                "`with subscriber:`, or after close()"
            )

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise SubscriberFailed(f"the subscriber has ended: {self._failure}") from self._failure

    def _run(self) -> None:
        """Connect, and again whenever a transient error ends the connection.

        The view and the progress survive a reconnect, so no event is handed over twice.
        """
        while not self._stop.is_set():
            try:
                self._run_connected()
            except RECONNECTABLE as error:
                delay_s = RECONNECT.delay_s(1)
                self._trouble = f" ({type(error).__name__}: {error})"
                log.warning(
                    "limit events cannot be read, connecting again in %g s%s",
                    delay_s,
                    self._trouble,
                )
                self._stop.wait(delay_s)
            except kafka_errors.AuthorizationError as error:
                raise self._missing_right(error) from error

    def _missing_right(self, error: Exception) -> SubscriberFailed:
        if isinstance(error, kafka_errors.GroupAuthorizationFailedError):
            return SubscriberFailed(
                f"Kafka does not let {self._kafka.sasl_username or 'this client'} use the consumer "
                f"group {self._group}: grant the rights of role subscriber (`usageledger acls "
                f"--role subscriber --group {self._group}`)"
            )
        return SubscriberFailed(missing_right(self._kafka, "read", self._topic, "subscriber"))

    def _run_connected(self) -> None:
        with closing_consumer(self._consumer()) as consumer:
            broadcast = Broadcast(consumer, self._topic, self._kafka)
            known = self._build_view(broadcast)
            if self._stop.is_set():
                return
            if self._starts is None:
                self._starts = (
                    Starts({}, {}) if self._from_beginning else Starts(broadcast.known_ends, known)
                )
            self._has_view = True
            self._is_ready.set()
            if self._group is None:
                self._run_alone(broadcast, self._starts)
            else:
                self._run_in_group(broadcast, self._group, self._starts)

    def _consumer(self) -> Any:
        with named_cause(self._kafka):
            return KafkaConsumer(**self._kafka.for_kafka_python(), **self._options)

    def _build_view(self, broadcast: Broadcast) -> dict[int, LimitAddress]:
        """Read the events that exist, and return each partition's last address at the start."""
        known: dict[int, LimitAddress] = {}
        while not self._stop.is_set() and not broadcast.is_at_known_end():
            for record in broadcast.poll(POLL_MS):
                self._apply(record)
                last = self._view.last_address(record.partition)
                if last is not None and record.offset < broadcast.known_ends[record.partition]:
                    known[record.partition] = last
        return known

    def _run_alone(self, broadcast: Broadcast, starts: Starts) -> None:
        """Handle all events from the starts on.

        The view may be ahead of them. A handler that asks about an account expects its latest
        state.
        """
        broadcast.read_again_from(starts.offsets)
        while not self._stop.is_set():
            for record in broadcast.poll(LONG_POLL_MS):
                self._handle_alone(record, starts)
                if self._stop.is_set():
                    return

    def _handle_alone(self, record: Any, starts: Starts) -> None:
        found = read_record(record)
        if found is None:
            return
        event, address = found
        self._view.apply(event, address, record.value)
        if address.is_beyond(
            self._handled.get(address.partition, starts.addresses.get(address.partition))
        ):
            self._handlers.hand_over(event)
            self._handled[address.partition] = address

    def _apply(self, record: Any) -> None:
        found = read_record(record)
        if found is not None:
            self._view.apply(*found, record.value)

    def _run_in_group(self, broadcast: Broadcast, group: str, starts: Starts) -> None:
        """Handle this instance's share of the group's events, and keep the view over all."""
        assignor = KnownPartitionsAssignor({self._topic: len(broadcast.known_ends)})
        options = {
            "max_poll_records": EVENTS_PER_POLL,
            **self._options,
            "partition_assignment_strategy": [assignor],
            "group_id": group,
        }
        with closing_consumer(
            KafkaConsumer(self._topic, **self._kafka.for_kafka_python(), **options)
        ) as consumer:
            share = GroupShare(consumer, self._topic, starts, self._handled)
            has_kafka = True
            try:
                while not self._stop.is_set():
                    for record in broadcast.poll(0):
                        self._apply(record)
                    self._handle(broadcast, share, share.poll(POLL_MS))
                    share.commit()
            except RECONNECTABLE:
                has_kafka = False
                raise
            finally:
                if has_kafka:
                    share.commit_last()

    def _handle(self, broadcast: Broadcast, share: GroupShare, records: list[Any]) -> None:
        for record in records:
            self._apply_through(record, broadcast)
            if self._stop.is_set():
                return
            found = read_record(record)
            if found is None:
                share.note_ignored(record)
                continue
            event, address = found
            if share.is_new(address):
                self._handlers.hand_over(event)
            share.note_handled(record, address)

    def _apply_through(self, record: Any, broadcast: Broadcast) -> None:
        """Bring the view up to this record: a handler that asks then sees the event it was given.

        Only the broadcast updates the view, because it reads every record.
        """
        deadline_s = time.monotonic() + NO_PROGRESS_S
        while not broadcast.has_read(record) and not self._stop.is_set():
            if time.monotonic() > deadline_s:
                raise Stalled(
                    f"{self._topic}, partition {record.partition}: nothing came in "
                    f"{NO_PROGRESS_S:.0f} s"
                )
            for seen in broadcast.poll(POLL_MS):
                self._apply(seen)
