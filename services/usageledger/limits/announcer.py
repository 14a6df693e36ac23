"""From ledger partitions to limit events, without any state but the limit events themselves.

A consumer continues after the last limit event of a partition. Two rules keep this safe when a
consumer crashes, is late or runs twice:

- **Every batch begins right after a limit event that its partition already holds**, or at the
  ledger's first entry. The partition holds the whole batch or nothing of it.
- Each limit event carries the address of its crossing.

So addresses come without gaps, and a repeat is recognised by its address. A reader drops any event
that is not beyond the last one that it has seen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from usageledger.domain.chain import SealedEntry, entry_at
from usageledger.domain.record_skip import SkippedPlace
from usageledger.ledger.limit_address import LimitAddress, NotALimitEvent, limit_event_in
from usageledger.ledger.limit_events import LimitMessage, limit_events
from usageledger.ledger.reader_rule import NO_SKIPS, RecordStops, next_entry
from usageledger.ledger.records import Record
from usageledger.log.bounded_codecs import Unreadable

COMMIT_EVERY_S = 0.5
LOOK_FOR_SKIP_EVERY_S = 5.0
CHECK_EVERY_S = 30.0
RESUME_AGAIN_AFTER_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
# A kafka-python poll that begins during a fetch can miss the records of that fetch until the next
# fetch returns. Long polls make this rare: polling every 100 ms delayed 1 % of events by 250 ms.
POLL_MS = 500

log = logging.getLogger(__name__)


class LimitsError(Exception):
    """The consumer cannot go on: its process ends with this message."""


class PartitionsStopped(LimitsError):
    """Some partitions stopped because their ledger or limit events are wrong.

    The other partitions went on until the end.
    """


class Unavailable(Exception):
    """Kafka did not answer, or refused for now. A later attempt can succeed."""


class PartitionUnusable(Exception):
    """A partition's ledger or limit events are wrong.

    The partition stops, and nothing resets it automatically.
    """


class Assignment(NamedTuple):
    """The partitions that are assigned to this consumer.

    A new ``generation`` means that another consumer may have announced in between.
    """

    generation: object
    partitions: frozenset[int]


class LedgerFeed(Protocol):
    """The ledger's partitions that are assigned to this consumer.

    Every method raises Unavailable.
    """

    def assignment(self) -> Assignment:
        """Return the current assignment."""
        ...

    def seek(self, partition: int, offset: int) -> None:
        """Read the partition on from this offset."""
        ...

    def pause(self, partition: int) -> None:
        """Read nothing of the partition until the next ``seek``."""
        ...

    def poll(self, timeout_ms: int) -> Mapping[int, Sequence[Record]]:
        """Return some records of each partition, in order."""
        ...

    def unreadable(self) -> Mapping[int, Unreadable]:
        """Return where the last poll could not read partitions on."""
        ...

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the offset of the oldest record, and the offset that the next one will have."""
        ...

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Commit how far each partition is announced.

        Lag tools read these offsets. A consumer continues where the limit events end.
        """
        ...

    def skips_after(self, partition: int, offset: int) -> frozenset[SkippedPlace]:
        """Return the records that skips beyond the offset name."""
        ...

    def committed_offset(self, partition: int) -> int:
        """Return the offset that was last committed; 0 if Kafka has none."""
        ...


class LimitLog(Protocol):
    """The partitions of ``limit.events``."""

    def newest_first(self, partition: int) -> Iterator[Record]:
        """Yield the records from the last one to the first.

        Raises Unavailable, PartitionUnusable.
        """
        ...

    def append(self, messages: Mapping[int, Sequence[LimitMessage]]) -> Mapping[int, Exception]:
        """Append the messages in order, in batches of which the log holds all or nothing.

        Returns once all in-sync replicas have them, with the errors by partition: Unavailable or
        PartitionUnusable. The log may hold the batch that failed, but nothing after it.
        """
        ...


@dataclass(frozen=True, slots=True)
class PartitionHealth:
    """Whether one partition is announced, and how far.

    Everything before ``next_offset`` in the ledger is announced; it is None while that is unknown.
    ``detail`` says why the partition is not announced.
    """

    state: Literal["announcing", "resuming", "stopped"]
    next_offset: int | None = None
    detail: str = ""


class Translation(NamedTuple):
    """The messages to announce for some records, up to the first record with a problem.

    The messages cover everything before ``next_offset``; ``problem`` is about the record there.
    ``hash`` is that of the last entry before it. ``stopped_at``: the record is an entry that stops
    every reader, unless an operator skips it.
    """

    messages: list[LimitMessage]
    next_offset: int
    hash: str | None
    problem: str | None = None
    is_gap: bool = False
    stopped_at: SkippedPlace | None = None


class PartitionProgress:
    """How far one partition of the ledger is announced.

    ``announced`` is the address of its last limit event. ``announced_before`` is the committed
    offset if there is no limit event: a crossing before it was announced, and its event was lost.
    ``skipped``: the records that operators have skipped.
    """

    def __init__(
        self,
        partition: int,
        announced: LimitAddress | None,
        announced_before: int = 0,
        skipped: frozenset[SkippedPlace] = NO_SKIPS,
    ) -> None:
        self.partition = partition
        self._skipped = skipped
        # The last limit event was announced from a valid entry, so the chain goes on from there.
        self._hash = "" if announced is None else None
        self._announced_before = announced_before
        self.next_offset = 0 if announced is None else announced.offset
        self._announced = announced

    def translate(self, records: Sequence[Record]) -> Translation:
        """Translate records in order, up to the first that cannot be translated.

        Changes nothing. `advance` records the progress once the log holds the messages.
        """
        messages: list[LimitMessage] = []
        expected, hash_ = self.next_offset, self._hash
        for record in records:
            if record.offset < expected:
                continue
            if record.offset > expected:
                problem = f"the record at offset {expected} is missing"
                return Translation(messages, expected, hash_, problem, is_gap=True)
            try:
                sealed = self._entry_of(record, hash_)
                messages += self._messages_of(record, sealed)
            except RecordStops as stop:
                return Translation(messages, expected, hash_, str(stop), stopped_at=stop.place)
            except PartitionUnusable as error:
                return Translation(messages, expected, hash_, str(error))
            expected = record.offset + 1
            hash_ = hash_ if sealed is None else sealed.hash
        return Translation(messages, expected, hash_)

    def advance(self, next_offset: int, hash_: str | None) -> None:
        """Note that everything before ``next_offset`` is announced.

        The last entry there has this hash; None if no entry was read yet.
        """
        self.next_offset, self._hash = next_offset, hash_

    def _entry_of(self, record: Record, hash_: str | None) -> SealedEntry | None:
        if hash_ is None:
            sealed = entry_at(record.offset, record.value)
            hash_ = "" if sealed is None else sealed.entry.previous_hash
        return next_entry(record, self.partition, hash_, self._skipped)

    def _messages_of(self, record: Record, sealed: SealedEntry | None) -> list[LimitMessage]:
        messages = [] if sealed is None else limit_events(sealed.entry)
        announced = self._announced
        if messages and record.offset < self._announced_before:
            raise PartitionUnusable(
                "limit.events is empty, but the ledger was announced up to offset "
                f"{self._announced_before}: the topic was truncated or recreated. Restore it; or, "
                "to have all limit events written again, stop the limits service and delete its "
                "consumer group"
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


@dataclass(frozen=True, slots=True)
class _Wait:
    """A partition to resume at ``until`` (seconds), after ``attempts`` failed lookups."""

    until: float
    attempts: int = -1
    detail: str = "not yet looked at"


@dataclass(frozen=True, slots=True)
class _Stop:
    """A partition that is not announced. Where a skip can help, it is looked for at ``until``."""

    detail: str
    at: SkippedPlace | None = None
    until: float = 0.0


@dataclass(slots=True)
class _Partition:
    """An assigned partition: it is announced, waits to be resumed, or has stopped.

    The offsets are None if there is none yet. ``gap_at``: where a record was missing.
    ``committed``: the last commit. ``checked``: where the last check for a stall found it.
    ``skipped``: the records that operators have skipped, as far as they were in the way.
    """

    state: PartitionProgress | _Wait | _Stop
    gap_at: int | None = None
    committed: int | None = None
    checked: int | None = None
    skipped: frozenset[SkippedPlace] = NO_SKIPS

    def health(self) -> PartitionHealth:
        if isinstance(self.state, PartitionProgress):
            return PartitionHealth("announcing", self.state.next_offset)
        state: Literal["resuming", "stopped"] = (
            "resuming" if isinstance(self.state, _Wait) else "stopped"
        )
        return PartitionHealth(state, detail=self.state.detail)


class Announcer:
    """Announces the limits that the entries of its partitions cross.

    A partition that cannot go on does not delay the others.
    """

    def __init__(
        self, feed: LedgerFeed, limit_log: LimitLog, monotonic: Callable[[], float]
    ) -> None:
        self._feed = feed
        self._limit_log = limit_log
        self._monotonic = monotonic
        self._generation: object = None
        self._partitions: dict[int, _Partition] = {}
        self._commit_at = self._check_at = monotonic()
        self.announced_count = 0

    def step(self, poll_ms: int = POLL_MS) -> None:
        """Announce the records that arrive within ``poll_ms``.

        Raises LimitsError if the process must end: nothing is fetched, or every partition stopped.
        """
        try:
            self._follow_assignment()
            self._resume_skipped()
            self._resume_waiting()
            polled = self._feed.poll(poll_ms)
            if self._feed.assignment().generation != self._generation:
                # A rebalance happened during the poll, so its records begin at the group's offsets.
                # The next step looks up in the log where to go on.
                return
            self._announce(polled)
            self._stop_unreadable()
            self._commit(is_idle=not polled)
            self._require_progress()
        except Unavailable as error:
            log.warning("Kafka is not available, the next step tries again: %s", error)
        if all(_is_for_good(each.state) for each in self._partitions.values()):
            self.raise_if_stopped()

    def health(self) -> dict[int, PartitionHealth]:
        """Return the state of each partition that is assigned to this consumer."""
        return {number: found.health() for number, found in sorted(self._partitions.items())}

    def raise_if_stopped(self) -> None:
        """Raise PartitionsStopped if any partition stopped."""
        stopped = [
            f"partition {number}: {found.state.detail}"
            for number, found in sorted(self._partitions.items())
            if isinstance(found.state, _Stop)
        ]
        if stopped:
            raise PartitionsStopped("; ".join(stopped))

    def _announcing(self) -> list[tuple[int, _Partition, PartitionProgress]]:
        return [
            (number, found, found.state)
            for number, found in self._partitions.items()
            if isinstance(found.state, PartitionProgress)
        ]

    def _follow_assignment(self) -> None:
        generation, partitions = self._feed.assignment()
        if generation == self._generation and partitions == self._partitions.keys():
            return
        # Another consumer may have announced since. So all progress is looked up again, even that
        # of a partition which is still assigned here. Only a gap is remembered.
        self._generation = generation
        before, now = self._partitions, self._monotonic()
        self._partitions = {
            number: _Partition(_Wait(now), before[number].gap_at if number in before else None)
            for number in sorted(partitions)
        }
        for number in partitions:
            self._feed.pause(number)

    def _resume_waiting(self) -> None:
        now = self._monotonic()
        for partition, found in self._partitions.items():
            if not isinstance(found.state, _Wait) or found.state.until > now:
                continue
            try:
                found.state = self._find_progress(partition)
            except Unavailable as error:
                self._wait(partition, str(error))
                break  # the next one would wait for the same broker
            except PartitionUnusable as error:
                self._stop(partition, str(error))

    def _resume_skipped(self) -> None:
        """Resume each stopped partition whose record an operator has skipped since."""
        now = self._monotonic()
        for partition, found in self._partitions.items():
            stop = found.state
            if not isinstance(stop, _Stop) or stop.at is None or stop.until > now:
                continue
            found.state = _Stop(stop.detail, stop.at, now + LOOK_FOR_SKIP_EVERY_S)
            skipped = self._feed.skips_after(partition, stop.at.offset)
            if stop.at in skipped:
                found.skipped |= skipped
                self._wait(partition, "an operator has skipped the record that it stopped at")

    def _find_progress(self, partition: int) -> PartitionProgress:
        """Find in the limit events how far the partition is announced, and seek there."""
        address = self._last_address(partition)
        progress = PartitionProgress(
            partition,
            address,
            self._feed.committed_offset(partition) if address is None else 0,
            self._partitions[partition].skipped,
        )
        start, end = self._feed.bounds(partition)
        if progress.next_offset < start:
            raise PartitionUnusable(
                f"the ledger begins at offset {start}, but it is announced up to "
                f"{progress.next_offset} only"
            )
        if address is not None and address.offset >= end:
            raise PartitionUnusable(
                f"the ledger ends before offset {end}, but limit events name its entry at "
                f"{address.offset}"
            )
        self._feed.seek(partition, progress.next_offset)
        return progress

    def _last_address(self, partition: int) -> LimitAddress | None:
        """The address of the last limit event; None if there has never been one.

        Bytes that are no limit event say nothing about how far the partition is announced.
        """
        for record in self._limit_log.newest_first(partition):
            try:
                return limit_event_in(record.value, partition)[1]
            except NotALimitEvent as error:
                log.error(
                    "limit record %d@%d is no limit event, and is ignored (%s): find out who may "
                    "write to that topic, see `usageledger audit verify`",
                    partition,
                    record.offset,
                    error,
                )
        return None

    def _announce(self, polled: Mapping[int, Sequence[Record]]) -> None:
        progress = {number: state for number, _, state in self._announcing()}
        translations = {
            partition: progress[partition].translate(records)
            for partition, records in polled.items()
            if partition in progress
        }
        messages = {
            partition: translation.messages
            for partition, translation in translations.items()
            if translation.messages
        }
        failures = self._limit_log.append(messages) if messages else {}
        for partition, translation in translations.items():
            failure = failures.get(partition)
            if isinstance(failure, PartitionUnusable):
                self._stop(partition, str(failure))
            elif failure is not None:
                self._wait(partition, str(failure))
            else:
                self.announced_count += len(translation.messages)
                progress[partition].advance(translation.next_offset, translation.hash)
                self._handle_problem(partition, translation)

    def _stop_unreadable(self) -> None:
        unreadable = self._feed.unreadable()
        for partition, _, progress in self._announcing():
            found = unreadable.get(partition)
            if found is not None and found.offset <= progress.next_offset:
                self._stop(
                    partition,
                    f"the ledger cannot be read from offset {found.offset} on: {found.why}",
                )

    def _handle_problem(self, partition: int, translation: Translation) -> None:
        """Read a missing record once more; stop the partition at a wrong one.

        A consumer's position may have been reset, and then the second attempt finds the record.
        """
        if translation.problem is None:
            return
        found = self._partitions[partition]
        if translation.is_gap and found.gap_at != translation.next_offset:
            found.gap_at = translation.next_offset
            self._wait(partition, translation.problem)
        else:
            self._stop(partition, translation.problem, translation.stopped_at)

    def _wait(self, partition: int, detail: str) -> None:
        """Forget the partition's progress, and look it up in the log a little later."""
        found = self._partitions[partition]
        attempts = found.state.attempts + 1 if isinstance(found.state, _Wait) else 0
        delay_s = RESUME_AGAIN_AFTER_S[min(attempts, len(RESUME_AGAIN_AFTER_S) - 1)]
        found.state = _Wait(self._monotonic() + delay_s, attempts, detail)
        self._feed.pause(partition)
        log.warning("partition %d: resumed from the log in %s s: %s", partition, delay_s, detail)

    def _stop(self, partition: int, detail: str, at: SkippedPlace | None = None) -> None:
        self._partitions[partition].state = _Stop(detail, at)
        log.error("partition %d STOPPED, it is no longer announced: %s", partition, detail)
        self._feed.pause(partition)

    def _commit(self, *, is_idle: bool) -> None:
        moved = {
            number: progress.next_offset
            for number, found, progress in self._announcing()
            if found.committed != progress.next_offset
        }
        if moved and (is_idle or self._monotonic() >= self._commit_at):
            self._feed.commit(moved)
            for number, offset in moved.items():
                self._partitions[number].committed = offset
            self._commit_at = self._monotonic() + COMMIT_EVERY_S

    def _require_progress(self) -> None:
        """Raise LimitsError, which ends the process, if a consumer silently fetches nothing."""
        now = self._monotonic()
        if now < self._check_at:
            return
        self._check_at = now + CHECK_EVERY_S
        for number, found, progress in self._announcing():
            if (
                found.checked == progress.next_offset
                and self._feed.bounds(number)[1] > progress.next_offset
            ):
                raise LimitsError(
                    f"partition {number}: nothing came from offset {progress.next_offset} in "
                    f"{CHECK_EVERY_S:.0f} s"
                )
        for found in self._partitions.values():
            state = found.state
            found.checked = state.next_offset if isinstance(state, PartitionProgress) else None


def _is_for_good(state: PartitionProgress | _Wait | _Stop) -> bool:
    """Whether a partition has stopped and this process cannot resume it."""
    return isinstance(state, _Stop) and state.at is None
