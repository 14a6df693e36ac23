"""From ledger partitions to limit events, without a state of its own: where to go on, the last
limit event itself says.

What makes it safe, whoever crashes, is late or runs twice: **every batch that is appended to a
partition of ``limit.events`` begins right after something that lies in that partition already** (or
at the ledger's first entry), lies there whole or not at all, and names the places of what it
announces. So places come without gaps, repeats are known by their places, and a reader drops
whatever is not beyond the last one that it has seen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from usageledger.domain.chain import NotAnEntry, entry_at
from usageledger.ledger.limit_address import LimitAddress, NotALimitEvent, read_limit_event
from usageledger.ledger.limit_events import LimitMessage, limit_events
from usageledger.ledger.records import Record

COMMIT_EVERY_S = 0.5
CHECK_EVERY_S = 30.0
RESUME_AGAIN_AFTER_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
# A poll of kafka-python's that begins while a fetch is on its way can miss what that fetch brings,
# until the next one returns. So polls are long enough that few begin so: ten a second lost one
# event in a hundred a quarter of a second.
POLL_MS = 500

log = logging.getLogger("usageledger.limits")


class LimitsError(Exception):
    """The consumer cannot go on: its process ends with this message."""


class PartitionsStopped(LimitsError):
    """Partitions stopped whose ledger or limit events are not what they should be; the others went
    on until the end.
    """


class Unavailable(Exception):
    """Kafka did not do what was asked; asking again later can help."""


class PartitionUnusable(Exception):
    """A partition's ledger or limit events are not what they should be.

    It stops, and nothing resets by itself.
    """


class Assignment(NamedTuple):
    """The partitions that are this consumer's.

    Another ``generation`` means that others may have been at work in between.
    """

    generation: object
    partitions: frozenset[int]


class LedgerFeed(Protocol):
    """The ledger's partitions, as far as they are this consumer's.

    Every method raises Unavailable.
    """

    def assignment(self) -> Assignment:
        """Which they are now."""
        ...

    def seek(self, partition: int, offset: int) -> None:
        """Read on from there."""
        ...

    def pause(self, partition: int) -> None:
        """Read nothing of it until the next ``seek``."""
        ...

    def poll(self, timeout_ms: int) -> Mapping[int, Sequence[Record]]:
        """Some records of each partition, in order."""
        ...

    def bounds(self, partition: int) -> tuple[int, int]:
        """The offset of the oldest record that is still there, and the one that the next record
        will have.
        """
        ...

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Say how far each partition is announced.

        Lag tools read it; where to go on, the limit events say.
        """
        ...

    def committed(self, partition: int) -> int:
        """How far the partition was last said to be announced; 0 if that was never said, or is not
        remembered.
        """
        ...


class LimitLog(Protocol):
    """The partitions of ``limit.events``."""

    def last(self, partition: int) -> Record | None:
        """The last record, None if there has never been one.

        Raises Unavailable, PartitionUnusable.
        """
        ...

    def append(self, messages: Mapping[int, Sequence[LimitMessage]]) -> Mapping[int, Exception]:
        """Append, in batches that lie there whole or not at all, in order.

        Returns once all in-sync replicas have them.

        What came back with an error may lie there or not, and nothing after it does. The errors, by
        partition: Unavailable or PartitionUnusable.
        """
        ...


@dataclass(frozen=True, slots=True)
class PartitionHealth:
    """``next_offset``: everything before it in the ledger has been announced (None: not known).

    ``detail``: why it does not announce.
    """

    state: Literal["announcing", "resuming", "stopped"]
    next_offset: int | None = None
    detail: str = ""


class Taken(NamedTuple):
    """What came of some records: what is to be announced, how far that goes, and what is wrong with
    the record there.
    """

    messages: list[LimitMessage]
    next_offset: int
    problem: str | None = None
    is_gap: bool = False


class PartitionProgress:
    """How far one partition of the ledger is announced.

    ``announced_before``: what lies there was announced, though the log of limit events has nothing.
    """

    def __init__(
        self, partition: int, announced: LimitAddress | None, announced_before: int = 0
    ) -> None:
        self.partition = partition
        self._announced_before = announced_before
        self.next_offset = 0 if announced is None else announced.offset
        self._announced = announced

    def take(self, records: Sequence[Record]) -> Taken:
        """Translate records in order, up to the first that cannot be.

        Changes nothing: `advance` does, once the messages lie in the log.
        """
        messages: list[LimitMessage] = []
        expected = self.next_offset
        for record in records:
            if record.offset < expected:
                continue
            if record.offset > expected:
                return Taken(
                    messages, expected, f"the record at offset {expected} is missing", is_gap=True
                )
            try:
                messages += self._translated(record)
            except PartitionUnusable as error:
                return Taken(messages, expected, str(error))
            expected = record.offset + 1
        return Taken(messages, expected)

    def advance(self, next_offset: int) -> None:
        """Everything before ``next_offset`` is announced."""
        self.next_offset = next_offset

    def _translated(self, record: Record) -> list[LimitMessage]:
        try:
            sealed = entry_at(record.offset, record.value)
        except NotAnEntry as error:
            raise PartitionUnusable(f"offset {record.offset} of the ledger: {error}") from None
        if sealed is not None and sealed.entry.partition != self.partition:
            raise PartitionUnusable(
                f"offset {record.offset} holds an entry of partition {sealed.entry.partition}: "
                "another ledger's"
            )
        messages = [] if sealed is None else limit_events(sealed.entry)
        announced = self._announced
        if messages and record.offset < self._announced_before:
            raise PartitionUnusable(
                "limit.events is empty, but what the ledger has up to offset "
                f"{self._announced_before} was announced: it was truncated or"
                " made anew; restore it, or, to have all limit events written again, stop the "
                "limits service and delete its consumer group"
            )
        if announced is None or record.offset != announced.offset:
            return messages
        if len(messages) != announced.crossings:
            raise PartitionUnusable(
                f"the last limit event names crossing {announced.index + 1} of "
                f"{announced.crossings} of the entry at offset "
                f"{record.offset}, which has {len(messages)}: these limit events are of another "
                "ledger"
            )
        return [message for message in messages if message.address.is_beyond(announced)]


class Announcer:
    """Announces what the entries of its partitions cross, each partition by itself: one that cannot
    go on does not hold up the others.
    """

    def __init__(
        self, feed: LedgerFeed, limit_log: LimitLog, monotonic: Callable[[], float]
    ) -> None:
        self._feed = feed
        self._limit_log = limit_log
        self._monotonic = monotonic
        self._generation: object = None
        self._running: dict[int, PartitionProgress] = {}
        self._waiting: dict[int, _Wait] = {}
        self._stopped: dict[int, str] = {}
        self._gaps: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._commit_at = self._check_at = monotonic()
        self._checked: dict[int, int] = {}
        self.announced_count = 0

    def step(self, poll_ms: int = POLL_MS) -> None:
        """Announce what comes within ``poll_ms``.

        Raises LimitsError where the process had better end.
        """
        try:
            self._follow_assignment()
            self._resume_waiting()
            polled = self._feed.poll(poll_ms)
            if self._feed.assignment().generation != self._generation:
                # A rebalance came with the poll, whose records begin wherever the group's offsets
                # say. The next step looks up in the log where to go on.
                return
            self._announce(polled)
            self._commit(is_idle=not polled)
            self._require_progress()
        except Unavailable as error:
            log.warning("Kafka is not available, the next step tries again: %s", error)
        if self._stopped and not self._running and not self._waiting:
            self.raise_if_stopped()

    def health(self) -> dict[int, PartitionHealth]:
        """The state of each partition that is this consumer's."""
        running = {
            partition: PartitionHealth("announcing", progress.next_offset)
            for partition, progress in self._running.items()
        }
        waiting = {
            partition: PartitionHealth("resuming", detail=wait.detail)
            for partition, wait in self._waiting.items()
        }
        stopped = {
            partition: PartitionHealth("stopped", detail=detail)
            for partition, detail in self._stopped.items()
        }
        return dict(sorted({**running, **waiting, **stopped}.items()))

    def raise_if_stopped(self) -> None:
        """Raise PartitionsStopped if any partition stopped."""
        if self._stopped:
            raise PartitionsStopped(
                "; ".join(
                    f"partition {partition}: {detail}"
                    for partition, detail in sorted(self._stopped.items())
                )
            )

    def _follow_assignment(self) -> None:
        generation, partitions = self._feed.assignment()
        known = self._running.keys() | self._waiting.keys() | self._stopped.keys()
        if generation == self._generation and partitions == known:
            return
        # Another consumer may have announced since, so what was known of a partition counts for
        # nothing, even if it is ours again.
        self._generation = generation
        self._running, self._stopped, self._committed, self._checked = {}, {}, {}, {}
        self._waiting = {partition: _Wait(self._monotonic()) for partition in sorted(partitions)}
        for partition in partitions:
            self._feed.pause(partition)

    def _resume_waiting(self) -> None:
        now = self._monotonic()
        for partition, wait in list(self._waiting.items()):
            if wait.until > now:
                continue
            try:
                progress = self._resumed(partition)
            except Unavailable as error:
                self._wait(partition, str(error))
                break  # the next one would wait for the same broker
            except PartitionUnusable as error:
                self._stop(partition, str(error))
            else:
                self._running[partition] = progress
                del self._waiting[partition]

    def _resumed(self, partition: int) -> PartitionProgress:
        """Find in the log where to go on."""
        last = self._limit_log.last(partition)
        place = None if last is None else _place_of(last, partition)
        progress = PartitionProgress(
            partition, place, self._feed.committed(partition) if place is None else 0
        )
        start, end = self._feed.bounds(partition)
        if progress.next_offset < start:
            raise PartitionUnusable(
                f"the ledger begins at offset {start}, but it is announced up to "
                f"{progress.next_offset} only"
            )
        if place is not None and place.offset >= end:
            raise PartitionUnusable(
                f"the ledger ends before offset {end}, but limit events name its entry at "
                f"{place.offset}"
            )
        self._feed.seek(partition, progress.next_offset)
        return progress

    def _announce(self, polled: Mapping[int, Sequence[Record]]) -> None:
        taken = {
            partition: self._running[partition].take(records)
            for partition, records in polled.items()
            if partition in self._running
        }
        messages = {partition: some.messages for partition, some in taken.items() if some.messages}
        failures = self._limit_log.append(messages) if messages else {}
        for partition, some in taken.items():
            failure = failures.get(partition)
            if isinstance(failure, PartitionUnusable):
                self._stop(partition, str(failure))
            elif failure is not None:
                self._wait(partition, str(failure))
            else:
                self.announced_count += len(some.messages)
                self._running[partition].advance(some.next_offset)
                self._look_at(partition, some)

    def _look_at(self, partition: int, taken: Taken) -> None:
        """A missing record is asked for once more (a consumer's position may have been reset); one
        that is wrong stops its partition.
        """
        if taken.problem is None:
            return
        if taken.is_gap and self._gaps.get(partition) != taken.next_offset:
            self._gaps[partition] = taken.next_offset
            self._wait(partition, taken.problem)
        else:
            self._stop(partition, taken.problem)

    def _wait(self, partition: int, detail: str) -> None:
        """Forget the partition's state and find in the log where to go on, a little later."""
        self._running.pop(partition, None)
        attempts = self._waiting[partition].attempts + 1 if partition in self._waiting else 0
        delay_s = RESUME_AGAIN_AFTER_S[min(attempts, len(RESUME_AGAIN_AFTER_S) - 1)]
        self._waiting[partition] = _Wait(self._monotonic() + delay_s, attempts, detail)
        self._feed.pause(partition)
        log.warning("partition %d: resumed from the log in %s s: %s", partition, delay_s, detail)

    def _stop(self, partition: int, detail: str) -> None:
        self._running.pop(partition, None)
        self._waiting.pop(partition, None)
        self._stopped[partition] = detail
        log.error(
            "partition %d STOPPED, nothing of it is announced any more: %s", partition, detail
        )
        self._feed.pause(partition)

    def _commit(self, *, is_idle: bool) -> None:
        new = {partition: progress.next_offset for partition, progress in self._running.items()}
        new = {
            partition: offset
            for partition, offset in new.items()
            if self._committed.get(partition) != offset
        }
        if new and (is_idle or self._monotonic() >= self._commit_at):
            self._feed.commit(new)
            self._committed.update(new)
            self._commit_at = self._monotonic() + COMMIT_EVERY_S

    def _require_progress(self) -> None:
        """Raise LimitsError, which ends the process, if a consumer silently fetches nothing."""
        now = self._monotonic()
        if now < self._check_at:
            return
        self._check_at = now + CHECK_EVERY_S
        for partition, progress in self._running.items():
            if (
                self._checked.get(partition) == progress.next_offset
                and self._feed.bounds(partition)[1] > progress.next_offset
            ):
                raise LimitsError(
                    f"partition {partition}: nothing came from offset {progress.next_offset} in "
                    f"{CHECK_EVERY_S:.0f} s"
                )
        self._checked = {
            partition: progress.next_offset for partition, progress in self._running.items()
        }


@dataclass(frozen=True, slots=True)
class _Wait:
    until: float
    attempts: int = -1
    detail: str = "not yet looked at"


def _place_of(last: Record, partition: int) -> LimitAddress:
    try:
        _, place = read_limit_event(last.value)
        if place.partition != partition:
            raise NotALimitEvent(f"it is of partition {place.partition}")
    except NotALimitEvent as error:
        raise PartitionUnusable(
            f"limit events, partition {partition}, offset {last.offset}: {error}. Nobody but the "
            "limits consumer may write to that topic; "
            "without its last event nothing says where to go on"
        ) from None
    return place
