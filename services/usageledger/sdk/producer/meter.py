"""`UsageMeter`: what a generation worker reports its usage with."""

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
from usageledger.sdk.producer import kafka_publisher
from usageledger.sdk.producer.events import Event, record_key, topic_of
from usageledger.sdk.producer.outbox import Outbox
from usageledger.sdk.producer.ownership import let_go_of_the_parents
from usageledger.sdk.producer.publisher import ConnectTo
from usageledger.sdk.producer.recording import UsageRecorder, Waiting
from usageledger.sdk.producer.sender import SenderSettings
from usageledger.sdk.producer.spool import Durability, Spool, SpoolError
from usageledger.sdk.settings import kafka_setting, prefix_setting

log = logging.getLogger("usageledger.sdk.producer")


class UsageMeter(UsageRecorder):
    """Reports usage without waiting for Kafka: an event is on disk when `record` returns, and
    leaves the disk when Kafka has it.

    ::

        meter = UsageMeter(
            source="render", kafka="kafka:9092", spool_directory="/var/lib/render/usage"
        )
        meter.record(account="acct_4821", feature="genai_video", model="veo_3", id=generation.id)

    One meter serves all threads of a process, and its forks: a child has a spool and a connection
    of its own from its first use on. Processes may share a spool directory, which belongs to one
    Kafka: what one leaves behind is sent by another that lives, or by the next.

    `record` does no network, and waits neither for Kafka nor for room. It checks, and writes once
    to a local file; every 4 MiB it makes a file. What it can wait for is the disk: its own write,
    and before it the writes of other threads, the sender's steps (one reads at most 2,000 events
    and 16 MiB, any other writes one event or removes a file) and a fork under way. With
    ``durability="power"`` each write is an fsync too. None of these has a bound that a program can
    set: on a disk that hangs, `record` hangs as long as the disk does. The first use in a forked
    child makes two directories and their locks, and reads nothing that others left.

    In a signal handler raise SystemExit, and let the end of the process send what waits: a call
    that interrupts another of the same thread is refused with SpoolError.

    A step of the machine's clock moves ``occurred_at`` and ``recorded_at`` of what is recorded
    meanwhile, and `waiting`'s age. Nothing else goes by it: time-outs and retries run on the
    monotonic clock.

    * ``source`` names the service (never the process): account + source + id is what makes an event
      the same event.
    * ``kafka``: addresses, "host:port,host:port"; by default USAGELEDGER_KAFKA.
    * ``prefix``: of the topics' names; by default USAGELEDGER_PREFIX.
    * ``spool_directory``: on a local disk that outlives the process; by default USAGELEDGER_SPOOL,
      or a directory for this Kafka in the user's state directory (~/.local/state/usageledger). In a
      container, name a volume.
    * ``durability``: "process" (the default) means an event survives the end of the process,
      however it ends; "power" that it survives the machine's as well, for an fsync (milliseconds)
      in each `record`.
    * ``spool_bytes_max``, ``spool_count_max``: when either is reached `record` raises SpoolFull;
      nothing is ever dropped.
    * ``stuck_after_s``: how long an event may be on its way before its connection is replaced and
      the event sent again, under its own id.
    * ``exit_timeout_s``: how long the end of the process may be held up to send what waits. `close`
      does the same, earlier.
    * ``kafka_options``: more of kafka-python's settings (security, compression). Those that the
      guarantees rest on cannot be set.

    Raises ValueError for a setting that is wrong, SpoolError if the directory cannot be used.
    """

    def __init__(
        self,
        *,
        source: str,
        kafka: str | None = None,
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
        self._directory = _spool_directory(spool_directory, kafka or "kafka")
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
        """Wait until all that was recorded before, and what was found on disk, is acknowledged by
        all in-sync replicas.

        Returns False if ``timeout_s`` ran out first, or if an event is parked; nothing is lost by
        that (`waiting` tells why).
        """
        deadline = time.monotonic() + timeout_s
        flushed = [outbox.flush(deadline) for outbox in self._live_outboxes()]
        return all(flushed)

    def close(self, timeout_s: float = 10.0) -> bool:
        """Flush for up to ``timeout_s``, then stop.

        Returns what `flush` would. What was not sent waits on disk for the next process.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            outboxes, self._outboxes = self._live_outboxes(), {}
            self._is_closed = True
        atexit.unregister(self._at_exit)
        flushed = [outbox.close(deadline) for outbox in outboxes]
        return all(flushed)

    def waiting(self) -> Waiting:
        """What is recorded and not yet acknowledged, in this process and in what it adopted."""
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
        # A fork that Python's own hooks did not see (a C extension's) is seen here.
        if outbox is None or self._pid != os.getpid():
            return self._made_outbox(topic)
        return outbox

    def _made_outbox(self, topic: str) -> Outbox:
        if self._pid != os.getpid():
            self._after_fork_in_child()
        with self._lock:
            if self._is_closed:
                raise SpoolError("the event is NOT recorded: the meter is closed")
            # Both at once: a process that only ever records adopts the voids too that another left
            # behind.
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
        return Outbox(spool, self._connect_to(topic), self._settings, on_connected=self._exit_first)

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

    def _exit_first(self) -> None:
        """At the end of the process come before the producer's own clean-up, which closes it: what
        registered last runs first.
        """
        if not self._is_closed:
            atexit.unregister(self._at_exit)
            atexit.register(self._at_exit)

    def _hold_for_fork(self) -> list[Outbox]:
        return [outbox for outbox in list(self._outboxes.values()) if outbox.before_fork()]

    def _after_fork_in_child(self) -> None:
        """Begin anew: threads do not live on in a child, locks may be held there for ever, and the
        spool's files are the parent's.
        """
        _left_to_the_parent.extend(self._outboxes.values())
        for outbox in self._outboxes.values():
            outbox.after_fork_in_child()
        let_go_of_the_parents()
        self._outboxes = {}
        self._lock = threading.RLock()
        self._pid = os.getpid()


def _spool_directory(given: str | os.PathLike[str] | None, kafka: str) -> Path:
    """Where events wait.

    By default a place of this Kafka's own: what waits for one must not be sent to another.
    """
    given = given or os.environ.get("USAGELEDGER_SPOOL")
    if given:
        return Path(given)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "usageledger" / "spool" / re.sub(r"[^A-Za-z0-9.-]+", "_", kafka)


class _Forks:
    """Python's fork hooks cannot be taken back, so they are registered once, with the first meter,
    and serve all.
    """

    def __init__(self) -> None:
        self.meters: weakref.WeakSet[UsageMeter] = weakref.WeakSet()
        # Each thread's own: two can fork at once, and what one holds the other must not let go or
        # forget.
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
        self._fork.held = [
            outbox for meter in list(self.meters) for outbox in meter._hold_for_fork()
        ]

    def _after_in_parent(self) -> None:
        held, self._fork.held = self._fork.held, []
        for outbox in held:
            outbox.after_fork_in_parent()

    def _after_in_child(self) -> None:
        _left_to_the_parent.extend(self._fork.held)
        for meter in list(self.meters):
            meter._after_fork_in_child()


_forks = _Forks()
# What a child has copies of and must not touch: collecting a producer would close it, and what it
# shares with the parent's.
_left_to_the_parent: list[object] = []
