"""Sends the spool's messages to Kafka in the background.

It waits for acknowledgements, repeats sends, and replaces a connection that is stuck. Three rules
follow from how a producer fails:

* A failed future does not mean an absent record. So the event is sent again, under the same id, and
  the ledger counts it once.
* After any failure the connection is replaced. All events that were not acknowledged are sent
  again, in the spool's order.
* When the broker refuses one event, all events in flight with it fail. After such an error events
  are therefore sent one at a time, until one fails alone. That one is parked, and the others pass.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from usageledger.runtime.backoff import Backoff
from usageledger.sdk.producer.publisher import Blame, Connect, Publisher, PublishError
from usageledger.sdk.producer.segments import Message
from usageledger.sdk.producer.spool import Spool, SpoolError

log = logging.getLogger("usageledger.sdk.producer")

_RECONNECT = Backoff.doubling(0.1, 10.0, spread=(0.5, 1.0))
_AFTER_UNEXPECTED_S = 10.0
_FAILURES_ALONE_MAX = 10
_LOG_EVERY_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderSettings:
    """Bounds and times of a sender."""

    in_flight_max: int = 2_000
    in_flight_bytes_max: int = 16 << 20
    stuck_after_s: float = 60.0
    """How long an event may be in flight before its connection counts as stuck."""
    adopt_every_s: float = 30.0
    unpark_every_s: float = 300.0
    idle_s: float = 1.0


class Sender:
    """Sends the messages of a spool.

    `step` does one round, in the thread that `start` starts (or in a test).
    """

    def __init__(
        self,
        spool: Spool,
        connect: Connect,
        settings: SenderSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_connected: Callable[[], None] | None = None,
    ) -> None:
        self._spool = spool
        self._connect = connect
        self._settings = settings or SenderSettings()
        self._clock = clock
        self._on_connected = on_connected
        self._publisher: Publisher | None = None
        self._queue: deque[Message] = deque()
        self._kept_back: list[Message] = []
        self._in_flight: dict[Message, float] = {}
        self._in_flight_bytes = 0
        self._one_by_one = 0
        self._outcomes: deque[tuple[Publisher, Message, PublishError | None]] = deque()
        self._failures = 0
        self._connect_at = self._logged_at = float("-inf")
        # The first step adopts, so that the events of an earlier process are sent first. It does so
        # in the sender's thread, because they can be a gigabyte to read.
        self._adopt_at = clock()
        self._adopted = threading.Event()
        self._unpark_at = clock() + self._settings.unpark_every_s
        self._last_error: str | None = None
        # A signal handler may interrupt this queue's `put` and call it too. An Event's `set` would
        # not allow that.
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_woken = False
        self._progress = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="usageledger-sender", daemon=True)

    @property
    def last_error(self) -> str | None:
        """Why sending last failed; None once it works again."""
        return self._last_error

    def start(self) -> None:
        """Send in the background from now on."""
        self._thread.start()

    def wake(self) -> None:
        """Make the sender look for new messages."""
        if not self._is_woken:
            self._is_woken = True
            self._wakeups.put(None)

    def stop(self, timeout_s: float) -> bool:
        """Stop the thread, and close the connection and the spool.

        Returns whether the thread ended in time. Otherwise it ends by itself later.
        """
        self._is_stopping = True
        self.wake()
        if self._thread.ident is None:
            self._end()
        else:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def oldest_written_ms(self) -> int | None:
        """When the oldest event was recorded that is not acknowledged, None if there is none.

        Callable from any thread.
        """
        held = [list(self._in_flight)[:1], list(self._queue)[:1], self._kept_back[:1]]
        known = [message.written_ms for messages in held for message in messages]
        unread = self._spool.next_written_ms()
        return min(known if unread is None else [*known, unread], default=None)

    def has_adopted(self, timeout_s: float) -> bool:
        """Wait until the events found on disk at the start are adopted.

        Returns False if ``timeout_s`` runs out first.
        """
        return self._adopted.wait(timeout_s)

    def wait_for_progress(self, timeout_s: float) -> None:
        """Return when a message was acknowledged or parked, or after ``timeout_s``."""
        with self._progress:
            self._progress.wait(timeout_s)

    def step(self) -> float:
        """Do one round, without waiting for anything but a connection.

        Returns how many seconds to wait for the next step.
        """
        now = self._clock()
        self._handle_outcomes()
        self._watch(now)
        self._adopt_and_unpark(now)
        if self._connect_at > now:
            return min(self._connect_at - now, self._settings.idle_s)
        self._fill()
        return self._settings.idle_s

    def _run(self) -> None:
        while not self._is_stopping:
            self._is_woken = False
            try:
                wait_s = self.step()
            except Exception:
                # No event is lost, because the spool still holds it. But the thread must live.
                log.exception("the sender of usage events met an unexpected error and goes on")
                self._fail("an unexpected error, see the log")
                wait_s = _AFTER_UNEXPECTED_S
            with self._progress:
                self._progress.notify_all()
            with contextlib.suppress(queue.Empty):
                self._wakeups.get(timeout=wait_s)
        self._end()

    def _end(self) -> None:
        self._disconnect()
        self._spool.close()

    def _handle_outcomes(self) -> None:
        """Finish the messages that were acknowledged, and handle those that failed."""
        failed: list[tuple[Message, PublishError]] = []
        while self._outcomes:
            publisher, message, error = self._outcomes.popleft()
            if error is None:
                self._note_acknowledgement(message)
            elif publisher is self._publisher and message in self._in_flight:
                failed.append((message, error))
        # An earlier connection may have acknowledged the record after this failure. Then it is in
        # the log.
        failed = [each for each in failed if not each[0].is_done]
        if failed:
            self._handle_failures(failed)

    def _note_acknowledgement(self, message: Message) -> None:
        """Finish an acknowledged message.

        An acknowledgement counts even from an earlier connection: the record is in the log.
        """
        if message.is_done:
            return
        self._spool.acknowledge(message)
        if self._in_flight.pop(message, None) is not None:
            self._in_flight_bytes -= message.frame_bytes
            self._one_by_one = max(0, self._one_by_one - 1)
        self._failures = 0
        if self._last_error is not None:
            log.warning("usage events reach Kafka again")
            self._last_error, self._logged_at = None, float("-inf")

    def _handle_failures(self, failed: list[tuple[Message, PublishError]]) -> None:
        message, error = next(
            (each for each in failed if each[1].blame is not Blame.CONNECTION), failed[0]
        )
        if error.blame is Blame.CONNECTION:
            self._fail(str(error))
            return
        suspects = len(self._in_flight)
        self._fail(str(error), at_once=error.blame is Blame.EVENT)
        if suspects > 1:
            self._one_by_one = suspects
            return
        message.failures += 1
        if error.blame is Blame.EVENT or message.failures >= _FAILURES_ALONE_MAX:
            self._queue.remove(message)
            self._one_by_one = max(0, self._one_by_one - 1)
            self._park(message, str(error))

    def _park(self, message: Message, reason: str) -> None:
        account = message.key.decode("utf-8", "replace")
        log.error(
            "the broker refuses an event of %r: it is parked on disk and tried again later (%s)",
            account,
            reason,
        )
        try:
            self._spool.park(message, reason)
        except SpoolError as error:
            # It is in the spool as before. This process remembers not to send it yet.
            log.error("the event of %r could not be parked: %s", account, error)
            self._kept_back.append(message)

    def _watch(self, now: float) -> None:
        """Replace a connection that has not acknowledged an event for too long.

        kafka-python can stop sending for ever, without an error.
        """
        if not self._in_flight:
            return
        waited_s = now - next(iter(self._in_flight.values()))
        if waited_s > self._settings.stuck_after_s:
            self._fail(
                f"no acknowledgement for {waited_s:.0f} s: the connection is replaced", at_once=True
            )

    def _adopt_and_unpark(self, now: float) -> None:
        if now >= self._adopt_at:
            self._adopt_at = now + self._settings.adopt_every_s
            try:
                adopted = self._spool.adopt()
            finally:
                self._adopted.set()
            if adopted:
                log.warning(
                    "adopted %d events that an ended process had left in %s",
                    adopted,
                    self._spool.directory,
                )
        if now >= self._unpark_at:
            self._unpark_at = now + self._settings.unpark_every_s
            self._spool.unpark()
            self._queue.extend(self._kept_back)
            self._kept_back.clear()

    def _fill(self) -> None:
        """Hand over as many messages as may be in flight."""
        while not self._is_stopping:
            room = self._settings.in_flight_max - len(self._in_flight)
            bytes_room = self._settings.in_flight_bytes_max - self._in_flight_bytes
            if room <= 0 or bytes_room <= 0:
                return
            if not self._queue:
                self._queue.extend(self._spool.read(room, bytes_room))
            if (
                not self._queue
                or self._must_wait(self._queue[0])
                or not self._hand_over(self._queue[0])
            ):
                return

    def _must_wait(self, message: Message) -> bool:
        """Whether this message or one in flight has to be sent alone."""
        first = next(iter(self._in_flight), None)
        return first is not None and (
            self._one_by_one > 0 or _goes_alone(message) or _goes_alone(first)
        )

    def _hand_over(self, message: Message) -> bool:
        """Send the first message of the queue. Returns whether the next can follow."""
        if message.is_done:
            self._queue.popleft()
            return True
        try:
            publisher = self._publisher or self._connect_publisher()
            # It counts as in flight before it is sent, because its acknowledgement can come before
            # `send` returns.
            self._queue.popleft()
            self._in_flight[message] = self._clock()
            self._in_flight_bytes += message.frame_bytes
            publisher.send(
                message.key, message.value, functools.partial(self._done, publisher, message)
            )
        except PublishError as error:
            if error.blame is Blame.EVENT and message in self._in_flight:
                del self._in_flight[message]
                self._in_flight_bytes -= message.frame_bytes
                self._park(message, str(error))
                return True
            self._fail(str(error))
            return False
        return True

    def _done(self, publisher: Publisher, message: Message, error: PublishError | None) -> None:
        self._outcomes.append((publisher, message, error))
        self.wake()

    def _connect_publisher(self) -> Publisher:
        self._publisher = self._connect()
        if self._on_connected is not None:
            self._on_connected()
        return self._publisher

    def _fail(self, reason: str, *, at_once: bool = False) -> None:
        """Replace the connection (``at_once``, or after a delay that grows).

        All events that are not acknowledged are sent again, in order.
        """
        now = self._clock()
        self._disconnect()
        self._queue.extendleft(
            reversed([message for message in self._in_flight if not message.is_done])
        )
        self._in_flight.clear()
        self._in_flight_bytes = 0
        if not at_once:
            self._failures += 1
            self._connect_at = now + _RECONNECT.delay_s(self._failures, random.random())
        self._last_error = reason
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            figures = self._spool.figures()
            log.warning(
                "%d usage events (%d bytes) wait on disk: %s",
                figures.waiting,
                figures.waiting_bytes,
                reason,
            )

    def _disconnect(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is None:
            return
        try:
            publisher.close()
        except Exception:
            # Its events are sent again through another connection. This thread must live.
            log.exception("a connection to Kafka could not be closed")


def _goes_alone(message: Message) -> bool:
    """Whether the broker refused a message before. It would fail all that are in flight with it."""
    return message.failures > 0 or message.segment.is_retry
