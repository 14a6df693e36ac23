"""`UsageMeter`: a generation worker reports its usage with it."""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from usageledger.log.topics import Topics
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.producer import kafka_publisher
from usageledger.sdk.producer.events import Event, record_key, topic_of
from usageledger.sdk.producer.outbox import Outbox
from usageledger.sdk.producer.ownership import close_locks_of_parent
from usageledger.sdk.producer.publisher import ConnectTo
from usageledger.sdk.producer.recording import UsageRecorder, Waiting
from usageledger.sdk.producer.sender import SenderSettings
from usageledger.sdk.producer.spool import Durability, Spool, SpoolError
from usageledger.sdk.settings import kafka_setting, prefix_setting

log = logging.getLogger(__name__)


class UsageMeter(UsageRecorder):
    """Reports usage without waiting for Kafka.

    An event is on disk when `record` returns. It leaves the disk once all in-sync replicas have it.

    ::

        meter = UsageMeter(
            source="render", kafka="kafka:9092", spool_directory="/var/lib/render/usage"
        )
        meter.record(account="acct_4821", feature="genai_video", model="veo_3", id=generation.id)

    One meter serves all threads of a process and its forked children. A child gets a spool and a
    connection of its own at its first use. Processes that report to the same Kafka may share a
    spool directory. After a crash, the waiting events of a process are sent by another one that
    runs, or by the next one that starts.

    `record` uses no network, and waits neither for Kafka nor for room. It checks the event and
    writes it once to a local file; every 4 MiB it makes a new file. It can wait for the disk, with
    its own write. Before that it can wait for the writes of other threads, a step of the sender, or
    a fork that is under way. A step of the sender reads at most 2,000 events and 16 MiB, writes one
    event, or removes a file. With ``durability="power"`` each write includes an fsync. A program
    cannot bound these waits: on a disk that hangs, `record` hangs as long as the disk does. The
    first use in a forked child makes two directories and their locks, and reads no events of other
    processes.

    In a signal handler, raise SystemExit and let the end of the process send what waits. A call
    that interrupts another call of the same thread raises SpoolError.

    If the machine's clock is stepped, events recorded meanwhile have the stepped ``occurred_at``
    and ``recorded_at``, and so has the age in `waiting`. Time-outs and retries use the monotonic
    clock.

    * ``source`` names the service, never the process: account + source + id is an event's identity.
    * ``kafka``: addresses, "host:port,host:port", or a `KafkaConnection`; by default
      USAGELEDGER_KAFKA. The variables ``USAGELEDGER_KAFKA_…`` say how to connect to addresses.
    * ``prefix``: of the topics' names; by default USAGELEDGER_PREFIX.
    * ``spool_directory``: on a local disk that outlives the process; by default USAGELEDGER_SPOOL,
      or a directory for this Kafka in the user's state directory (~/.local/state/usageledger). In a
      container, name a volume.
    * ``durability``: with "process" (the default) an event survives any end of the process. With
      "power" it also survives the machine's power loss, and each `record` costs an fsync
      (milliseconds).
    * ``spool_bytes_max``, ``spool_count_max``: at either bound `record` raises SpoolFull. No event
      is ever dropped.
    * ``stuck_after_s``: after this many seconds without an acknowledgement, the connection is
      replaced and its events are sent again under their own ids.
    * ``exit_timeout_s``: how many seconds the end of the process may wait for events that are not
      sent yet. `close` does the same earlier.
    * ``kafka_options``: more of kafka-python's settings (compression, batches). Those that the
      guarantees rest on cannot be set.

    Raises ValueError for a setting that is wrong, SpoolError if the directory cannot be used.
    """

    def __init__(
        self,
        *,
        source: str,
        kafka: KafkaConnection | str | None = None,
        prefix: str | None = None,
        spool_directory: str | os.PathLike[str] | None = None,
        durability: Durability = "process",
        spool_bytes_max: int = 1 << 30,
        spool_count_max: int = 5_000_000,
        stuck_after_s: float = 60.0,
        exit_timeout_s: float = 5.0,
        kafka_options: Mapping[str, object] | None = None,
        clock: Callable[[], datetime] | None = None,
        sender_settings: SenderSettings | None = None,
        connect_to: ConnectTo | None = None,
    ) -> None:
        super().__init__(source=source, clock=clock)
        if durability not in ("process", "power"):
            raise ValueError(f"durability is 'process' or 'power', not {durability!r}")
        if connect_to is None:
            kafka = kafka_setting(kafka)
            connect_to = kafka_publisher.connector_to(kafka, kafka_options)
        self._topics = Topics(prefix_setting(prefix))
        self._directory = _spool_directory(spool_directory, str(kafka or "kafka"))
        self._durability = durability
        self._bytes_max, self._count_max = spool_bytes_max, spool_count_max
        self._settings = sender_settings or SenderSettings(stuck_after_s=stuck_after_s)
        self._exit_timeout_s = exit_timeout_s
        self._connect_to = connect_to
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._is_closed = False
        atexit.register(self._at_exit)
        self._outboxes: dict[str, Outbox] = {}
        self._outbox(self._topics.usage)
        _forks.watch(self)

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Wait until all in-sync replicas have the events recorded so far and those found on disk.

        Returns False if ``timeout_s`` seconds passed first, or if an event is parked. Those events
        stay on disk and are not lost; `waiting` says why they wait.
        """
        deadline = time.monotonic() + timeout_s
        flushed = [outbox.flush(deadline) for outbox in self._live_outboxes()]
        return all(flushed)

    def close(self, timeout_s: float = 10.0) -> bool:
        """Flush for up to ``timeout_s`` seconds, then stop.

        Returns what `flush` would. Events that were not sent wait on disk for the next process.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            outboxes, self._outboxes = self._live_outboxes(), {}
            self._is_closed = True
        atexit.unregister(self._at_exit)
        flushed = [outbox.close(deadline) for outbox in outboxes]
        return all(flushed)

    def waiting(self) -> Waiting:
        """Return which events of this process, or adopted by it, Kafka has not acknowledged."""
        each = [outbox.waiting() for outbox in self._live_outboxes()]
        return Waiting(
            count=sum(waiting.count for waiting in each),
            bytes=sum(waiting.bytes for waiting in each),
            age_s=max((waiting.age_s for waiting in each), default=0.0),
            parked=sum(waiting.parked for waiting in each),
            last_error=next((waiting.last_error for waiting in each if waiting.last_error), None),
        )

    def _keep(self, event: Event, value: bytes) -> None:
        self._outbox(topic_of(event, self._topics)).put(record_key(event), value)

    def _outbox(self, topic: str) -> Outbox:
        outbox = self._outboxes.get(topic)
        # A C extension can fork without Python's hooks. This comparison notices such a fork.
        if outbox is None or self._pid != os.getpid():
            return self._new_outbox_of(topic)
        return outbox

    def _new_outbox_of(self, topic: str) -> Outbox:
        if self._pid != os.getpid():
            self._after_fork_in_child()
        with self._lock:
            if self._is_closed:
                raise SpoolError(
                    "the event is NOT recorded: the meter is closed. Make another meter"
                )
            # Both at once, so that a process that never voids also adopts the voids of dead ones.
            for each in (self._topics.usage, self._topics.account):
                if each not in self._outboxes:
                    self._outboxes[each] = self._new_outbox(each)
            return self._outboxes[topic]

    def _new_outbox(self, topic: str) -> Outbox:
        directory = self._directory / topic
        spool = Spool(
            directory,
            bytes_max=self._bytes_max,
            count_max=self._count_max,
            durability=self._durability,
        )
        return Outbox(
            spool, self._connect_to(topic), self._settings, on_connected=self._register_exit_last
        )

    def _live_outboxes(self) -> list[Outbox]:
        if self._pid != os.getpid():
            self._after_fork_in_child()
        return list(self._outboxes.values())

    def _at_exit(self) -> None:
        if not self.close(self._exit_timeout_s):
            log.warning(
                "Kafka has not acknowledged all that was recorded: the rest waits in %s for the "
                "next process",
                self._directory,
            )

    def _register_exit_last(self) -> None:
        """Register `_at_exit` again, behind the producer's own clean-up, so that it runs before it.

        The function that was registered last runs first, and the producer's own closes the
        producer.
        """
        if not self._is_closed:
            atexit.unregister(self._at_exit)
            atexit.register(self._at_exit)

    def _lock_for_fork(self) -> list[Outbox]:
        return [outbox for outbox in list(self._outboxes.values()) if outbox.before_fork()]

    def _after_fork_in_child(self) -> None:
        """Begin anew in a forked child.

        It has no threads, its locks may be held for ever, and the spool's files are the parent's.
        """
        _of_parent.extend(self._outboxes.values())
        for outbox in self._outboxes.values():
            outbox.after_fork_in_child()
        close_locks_of_parent()
        self._outboxes = {}
        self._lock = threading.RLock()
        self._pid = os.getpid()


def _spool_directory(given: str | os.PathLike[str] | None, kafka: str) -> Path:
    """Return the directory of the waiting events: by default one for each Kafka.

    Events for one Kafka must not be sent to another.
    """
    given = given or os.environ.get("USAGELEDGER_SPOOL")
    if given:
        return Path(given)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "usageledger" / "spool" / re.sub(r"[^A-Za-z0-9.-]+", "_", kafka)


class _Forks:
    """The fork hooks of all meters. Python cannot unregister hooks, so there is one set of them."""

    def __init__(self) -> None:
        self.meters: weakref.WeakSet[UsageMeter] = weakref.WeakSet()
        # Per thread: two threads can fork at once, and each must release its own locks only.
        self._fork = threading.local()
        self._is_registered = False

    def watch(self, meter: UsageMeter) -> None:
        self.meters.add(meter)
        if not self._is_registered:
            self._is_registered = True
            os.register_at_fork(
                before=self._before,
                after_in_parent=self._after_in_parent,
                after_in_child=self._after_in_child,
            )

    def _before(self) -> None:
        self._fork.locked = [
            outbox for meter in list(self.meters) for outbox in meter._lock_for_fork()
        ]

    def _after_in_parent(self) -> None:
        locked, self._fork.locked = self._fork.locked, []
        for outbox in locked:
            outbox.after_fork_in_parent()

    def _after_in_child(self) -> None:
        _of_parent.extend(self._fork.locked)
        for meter in list(self.meters):
            meter._after_fork_in_child()


_forks = _Forks()
# A child's copies of the parent's outboxes. Were they collected, their producers would close
# sockets that the parent shares.
_of_parent: list[object] = []
