"""A ledger, its limit events, and a Kafka that goes wrong on request, for the tests of the limits
consumer and of its readers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from usageledger.domain.chain import seal
from usageledger.domain.claim import claim_of, encode_claim
from usageledger.domain.entry import Crossing, EventReference, Figures, LedgerEntry, PeriodReference
from usageledger.domain.head import Head
from usageledger.domain.record_skip import (
    RecordSkip,
    SkippedPlace,
    encode_skip,
    place_of,
    places_skipped,
)
from usageledger.ledger.limit_address import LimitAddress, read_limit_event
from usageledger.ledger.limit_events import LimitMessage
from usageledger.ledger.records import Record
from usageledger.limits.announcer import Announcer, Assignment, Unavailable
from usageledger.log.bounded_codecs import Unreadable

START = datetime(2026, 11, 1, tzinfo=UTC)
CREDIT = 1_000_000

Fate = Literal["no", "refused", "answer_lost", "late"]
"""What becomes of an append: it succeeds, or it fails in one of three ways."""

Kind = Literal["limit.threshold", "limit.reached", "limit.cleared"]


def crossing(kind: Kind, *, remaining: int = 0) -> Crossing:
    """A crossing on Pro, with figures that fit ``remaining`` (credits)."""
    figures = Figures(
        allotment=200 * CREDIT,
        granted=0,
        used=(200 - remaining) * CREDIT,
        remaining=remaining * CREDIT,
    )
    return Crossing(
        type=kind,
        reason="usage",
        plan="pro",
        period=PeriodReference(number=0, start=START, end=START + timedelta(days=30)),
        figures=figures,
        threshold="0.8" if kind == "limit.threshold" else None,
        action=None if kind == "limit.cleared" else "block",
    )


class Ledger:
    """The records of one ledger partition, made as an owner makes them."""

    def __init__(self, partition: int = 0) -> None:
        self.partition = partition
        self.records: list[Record] = []
        self.addresses: list[LimitAddress] = []
        """The crossings to announce, in order."""
        self._head = Head(ledger="5f0c61a2")

    def claim(self) -> None:
        """A worker claims the partition."""
        self._head = Head(
            ledger="5f0c61a2", next_offset=len(self.records) + 1, hash=self._head.hash
        )
        self._put(encode_claim(claim_of(self.partition, "5f0c61a2", "worker")))

    def entry(self, *kinds: Kind, account: str = "acct") -> Record:
        """A use whose entry crosses these limits."""
        draft = LedgerEntry(
            kind="usage",
            appended_at=START + timedelta(seconds=len(self.records)),
            account=account,
            event=EventReference(
                source="/render", id=f"gen_{len(self.records)}", occurred_at=START, content="c"
            ),
            crossings=tuple(crossing(kind) for kind in kinds),
        )
        (sealed,), self._head = seal([draft], self._head, self.partition)
        self.addresses += [
            LimitAddress(self.partition, sealed.entry.offset, index, len(kinds))
            for index in range(len(kinds))
        ]
        return self._put(sealed.value)

    def ignored_entry(self, *kinds: Kind) -> None:
        """Append an entry of a superseded owner: its offset is higher than the one it names."""
        draft = LedgerEntry(
            kind="usage",
            appended_at=START,
            account="acct",
            crossings=tuple(crossing(kind) for kind in kinds),
        )
        (sealed,), _ = seal(
            [draft],
            Head(ledger="5f0c61a2", next_offset=max(0, len(self.records) - 1)),
            self.partition,
        )
        self._put(sealed.value)
        self.claim()

    def junk(self) -> None:
        """Bytes that no processor wrote."""
        self._put(b'{"type":"ledger.entry","data":{"kind":"usage"}}')

    def forgery(self, *kinds: Kind) -> None:
        """An entry at its own offset that does not continue the chain."""
        draft = LedgerEntry(
            kind="usage",
            appended_at=START,
            account="acct",
            crossings=tuple(crossing(kind) for kind in kinds),
        )
        forged_head = Head(ledger="5f0c61a2", next_offset=len(self.records), hash="0" * 64)
        (sealed,), _ = seal([draft], forged_head, self.partition)
        self._put(sealed.value)

    def skip(self, offset: int) -> None:
        """An operator skips a record."""
        place = place_of("ledger", self.partition, offset, self.records[offset].value)
        self._put(encode_skip(RecordSkip(place=place, reason="a test", operator="operator")))

    def _put(self, value: bytes) -> Record:
        record = Record(len(self.records), 0, b"acct", value)
        self.records.append(record)
        return record


class World:
    """Ledger partitions and what has been announced of them.

    ``faults`` is asked before each call on either topic; it may raise.
    """

    def __init__(self, *ledgers: Ledger) -> None:
        self.ledgers = {ledger.partition: ledger for ledger in ledgers}
        self.limit_events: dict[int, list[bytes]] = {ledger.partition: [] for ledger in ledgers}
        self.committed: dict[int, int] = {}
        self.now_s = 0.0
        self.first_offset = 0

    def announcer(
        self, **faults: Callable[[str], None]
    ) -> tuple[Announcer, MemoryFeed, MemoryLimitLog]:
        """A consumer of all partitions."""
        feed, limit_log = MemoryFeed(self, **faults), MemoryLimitLog(self, **faults)
        return Announcer(feed, limit_log, lambda: self.now_s), feed, limit_log

    def run(self, announcer: Announcer, steps: int = 60) -> None:
        """Step, and let time pass so that what waits is tried again."""
        for _ in range(steps):
            announcer.step()
            self.now_s += 1.0

    def reader_addresses(self, partition: int = 0) -> list[LimitAddress]:
        """Return the addresses that a reader sees: it drops any that is not beyond the last."""
        seen: list[LimitAddress] = []
        for value in self.limit_events[partition]:
            _, address = read_limit_event(value)
            if address.is_beyond(seen[-1] if seen else None):
                seen.append(address)
        return seen


def no_faults(_call: str) -> None:
    """Nothing goes wrong."""


class MemoryFeed:
    """A `LedgerFeed` of a world."""

    def __init__(
        self,
        world: World,
        before: Callable[[str], None] = no_faults,
        after: Callable[[str], None] = no_faults,
    ) -> None:
        self._world = world
        self._before, self._after = before, after
        self.positions: dict[int, int] = {}
        self.generation = 1
        self.partitions = frozenset(world.ledgers)
        self.records_per_poll = 3
        self.paused: set[int] = set()

    def assignment(self) -> Assignment:
        return Assignment(self.generation, self.partitions)

    def seek(self, partition: int, offset: int) -> None:
        self.positions[partition] = offset
        self.paused.discard(partition)

    def pause(self, partition: int) -> None:
        self.paused.add(partition)

    def poll(self, timeout_ms: int) -> dict[int, list[Record]]:
        self._before("poll")
        polled: dict[int, list[Record]] = {}
        for partition, position in self.positions.items():
            if partition in self.paused or partition not in self.partitions:
                continue
            records = self._world.ledgers[partition].records[
                position : position + self.records_per_poll
            ]
            self.positions[partition] += len(records)
            if records:
                polled[partition] = records
        self._after("poll")
        return polled

    def unreadable(self) -> Mapping[int, Unreadable]:
        return {}

    def bounds(self, partition: int) -> tuple[int, int]:
        self._before("bounds")
        return self._world.first_offset, len(self._world.ledgers[partition].records)

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        self._before("commit")
        self._world.committed.update(next_offsets)
        self._after("commit")

    def skips_after(self, partition: int, offset: int) -> frozenset[SkippedPlace]:
        self._before("skips_after")
        records = self._world.ledgers[partition].records[offset + 1 :]
        return places_skipped(record.value for record in records)

    def committed_offset(self, partition: int) -> int:
        return self._world.committed.get(partition, 0)


class MemoryLimitLog:
    """A `LimitLog` of a world.

    A batch that a fault delays lands when `late_batches_arrive` is called.
    """

    def __init__(
        self,
        world: World,
        before: Callable[[str], None] = no_faults,
        after: Callable[[str], None] = no_faults,
    ) -> None:
        self._world = world
        self._before, self._after = before, after
        self.batch_size = 2
        self._on_their_way: list[tuple[int, list[bytes]]] = []
        self.loses_next: Fate = "no"

    def newest_first(self, partition: int) -> Iterator[Record]:
        self._before("newest_first")
        values = self._world.limit_events[partition]
        for offset in reversed(range(len(values))):
            yield Record(offset, 0, b"acct", values[offset])

    def append(self, messages: Mapping[int, Sequence[LimitMessage]]) -> dict[int, Exception]:
        failures: dict[int, Exception] = {}
        for partition, some in messages.items():
            for start in range(0, len(some), self.batch_size):
                self._before("append")
                values = [message.value for message in some[start : start + self.batch_size]]
                fate, self.loses_next = self.loses_next, "no"
                if fate in ("no", "answer_lost"):
                    self._world.limit_events[partition] += values
                elif fate == "late":
                    self._on_their_way.append((partition, values))
                self._after("append")
                if fate != "no":
                    failures[partition] = Unavailable(fate)
                    break
        return failures

    def late_batches_arrive(self) -> None:
        """A request that was given up on reaches the broker after all."""
        for partition, values in self._on_their_way:
            self._world.limit_events[partition] += values
        self._on_their_way = []
