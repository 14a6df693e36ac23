"""The owner of one ledger partition: claim, catch up, then look up, decide, append, commit, for as
long as the log says that it is ours.

The ledger is the truth and comes first; the view follows. Whatever goes wrong, the owner forgets
what it held in memory and claims again. `catch_up` says how the view is brought up to the claim,
`merge` what is decided next, `ledger.partition_book` what becomes of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from math import inf
from random import Random
from typing import Literal

from usageledger.counters.view import PartitionView, Position, ViewChange, ViewError
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.chain import SealedEntry
from usageledger.domain.head import Head
from usageledger.ledger.partition_book import Changes, PartitionBook, Undecidable
from usageledger.ledger.records import (
    GroupTooLarge,
    KeyedValue,
    LedgerError,
    LedgerPartition,
    Record,
)
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.catch_up import PartitionStopped, catch_up, provide, view_change
from usageledger.processor.claiming import claim_partition
from usageledger.processor.inputs import InputBuffer, Source
from usageledger.processor.merge import DUE_PER_CHUNK, Merge, NextDue, NextRecords, NextStep
from usageledger.runtime.backoff import Backoff
from usageledger.runtime.tasks import cancel_and_wait, is_being_cancelled, raise_first_failure

VERIFY_INTERVAL_S = 1.0
CHUNKS_IN_FLIGHT = 2
CLAIM_AGAIN = Backoff.doubling(0.05, 5.0, spread=(0.5, 1.5))

logger = logging.getLogger(__name__)

OwnerState = Literal["claiming", "catching_up", "waiting_for_a_catalog", "running", "stopped"]


@dataclass(slots=True, eq=False)
class _Chunk:
    """What is decided and committed together: groups of entries to append at ``expected_offset``,
    and what the view then becomes.
    """

    expected_offset: int
    groups: list[list[SealedEntry]] = field(default_factory=list)
    changes: Changes = field(default_factory=lambda: Changes({}, {}, {}, {}))
    change: ViewChange | None = None
    uses: list[str | bytes] = field(default_factory=list)
    """The accounts and identities that must stay in memory until it is committed."""
    decided: dict[Source, int] = field(default_factory=dict)
    stop: PartitionStopped | None = None
    """Why nothing is decided after it."""


class InputGap(LedgerError):
    """Something is missing between what was decided last and what was fed next.

    Reading the input anew can help.
    """


class PartitionOwner:
    """Runs one partition.

    All ports are given, and so is the wall clock: nothing here knows Kafka, Redis or Faust.
    """

    def __init__(
        self,
        *,
        partition: int,
        partition_count: int,
        ledger: LedgerPartition,
        view: PartitionView,
        inputs: InputBuffer,
        catalogs: CatalogLog,
        worker: str,
        is_importing: Callable[[], bool],
        now: Callable[[], datetime],
        new_ledger_id: Callable[[], str],
    ) -> None:
        self.partition = partition
        self.inputs = inputs
        self.state: OwnerState = "claiming"
        self.stopped_because: str | None = None
        self.ledger_end: int | None = None
        """Where the ledger ends by what this owner has claimed and appended: what lies beyond is
        another's. None without a claim.
        """
        self._partition_count = partition_count
        self._ledger = ledger
        self._view = view
        self._catalogs = catalogs
        self._worker = worker
        self._new_merge = partial(Merge, inputs, catalogs, is_importing=is_importing, now=now)
        self._new_ledger_id = new_ledger_id
        self._spread = Random(worker)
        self._catching_up: tuple[PartitionBook, int] | None = None
        self._gap: tuple[Source, int] | None = None
        self._has_transactions: set[Source] = set()

    @property
    def catch_up_progress(self) -> tuple[int, int] | None:
        """While the view is caught up: the ledger offset that it has come to, and the one where
        that ends.
        """
        if self._catching_up is None:
            return None
        book, end = self._catching_up
        return book.head.next_offset, end

    async def run(self) -> None:
        """Own the partition until cancelled.

        Returns only where an operator has to look at it, with ``stopped_because``.
        """
        self.state, self.stopped_because = "claiming", None
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._own()
            except PartitionStopped as stopped:
                return self.stop(str(stopped))
            except (LedgerError, ViewError) as error:
                if not error.retriable:
                    return self.stop(str(error))
                if is_being_cancelled():
                    # A client library can swallow a cancellation that comes together with its
                    # answer.
                    raise asyncio.CancelledError from error
                logger.info(
                    "partition %d: claiming again after %s: %s",
                    self.partition,
                    type(error).__name__,
                    error,
                )
            except asyncio.CancelledError:
                if is_being_cancelled():
                    raise
                # A client library that is closed cancels what it was asked for; ending here would
                # leave the partition without an owner.
                logger.info(
                    "partition %d: claiming again after what it waited for was cancelled",
                    self.partition,
                )
            is_settled_in = asyncio.get_running_loop().time() - began > 2 * CLAIM_AGAIN.delays_s[-1]
            failures = 1 if is_settled_in else failures + 1
            self.state, self._catching_up = "claiming", None
            # Two that supersede each other would otherwise do so again at the same moment, and
            # again.
            await asyncio.sleep(CLAIM_AGAIN.delay_s(failures, self._spread.random()))

    def check_for_gaps(self, source: Source, expected: int, records: Sequence[Record]) -> None:
        """Raise InputGap where an offset is missing before or between records: what lay there would
        never be decided.

        Kafka itself leaves out offsets only where a producer uses transactions. A gap that is there
        again once the input has been read anew, from that very offset, is such a one; from then on
        this input may have them.
        """
        if records[-1].offset - expected + 1 == len(records) or source in self._has_transactions:
            return
        offsets = [record.offset for record in records]
        found = next(
            offset
            for offset, wanted in zip(
                offsets, range(expected, expected + len(offsets)), strict=True
            )
            if offset != wanted
        )
        if self._gap == (source, found):
            self._has_transactions.add(source)
            return
        self._gap = (source, found)
        raise InputGap(
            f"{source.value}: before offset {found} something is missing; reading it anew"
        )

    def stop(self, reason: str) -> None:
        """Do nothing more until an operator has looked at it."""
        self.state, self.stopped_because = "stopped", reason
        logger.error("partition %d stopped: %s", self.partition, reason)

    async def _own(self) -> None:
        self.ledger_end = None
        claim, claimed_at = await claim_partition(
            self._ledger, self.partition, self._partition_count, self._worker, self._new_ledger_id
        )
        self.state, self.ledger_end = "catching_up", claimed_at + 1
        head = Head(ledger=claim.ledger, decide=claim.decide, tzdata=claim.tzdata)
        book = PartitionBook(self.partition, self._partition_count, head, AdoptedCatalogs())
        self._catching_up = book, claimed_at + 1
        position = await catch_up(
            book,
            ledger=self._ledger,
            view=self._view,
            catalogs=self._catalogs,
            claimed_at=claimed_at,
        )
        self._catching_up = None
        await self.inputs.seek(
            {Source.USAGE: book.head.usage_next, Source.ACCOUNT: book.head.account_next}
        )
        self.state = "running" if book.catalogs else "waiting_for_a_catalog"
        await _Tenure(self, book, position).run()


class _Tenure:
    """From one catch-up to whatever ends it: chunks are decided while the ones before are being
    appended and committed.
    """

    def __init__(self, owner: PartitionOwner, book: PartitionBook, position: Position) -> None:
        self._owner = owner
        self._ledger, self._view, self._inputs, self._merge = (
            owner._ledger,
            owner._view,
            owner.inputs,
            owner._new_merge(),
        )
        self._book = book
        self._position = position
        self._view_calls = asyncio.Lock()
        self._in_flight: asyncio.Queue[_Chunk] = asyncio.Queue(CHUNKS_IN_FLIGHT)
        self._last_use: dict[str | bytes, _Chunk] = {}
        self._committed_at = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Decide, append and verify side by side; the first to fail ends all three."""
        tasks = [
            asyncio.create_task(work)
            for work in (self._decide_all(), self._append_all(), self._verify_when_idle())
        ]
        try:
            await raise_first_failure(tasks)
        finally:
            await cancel_and_wait(tasks)

    async def _decide_all(self) -> None:
        while True:
            chunk = _Chunk(self._book.head.next_offset)
            await self._decide(chunk, await self._merge.next(self._book))
            await self._fill(chunk)
            chunk.change = view_change(self._book.head, chunk.changes)
            if chunk.groups:
                self._owner.state = "running"
                await self._in_flight.put(chunk)
            if chunk.stop is not None:
                await self._in_flight.join()
                raise chunk.stop

    async def _fill(self, chunk: _Chunk) -> None:
        """Add what else is at hand while the chunk would have to wait for its turn anyhow.

        Where the inputs alternate or accounts come due, a step is a record or two: what a partition
        decides in a second would depend on how far away Kafka is.
        """
        while self._in_flight.full() and chunk.stop is None and len(chunk.groups) < DUE_PER_CHUNK:
            step = await self._merge.next_at_hand(self._book)
            if step is None:
                return
            await self._decide(chunk, step)

    async def _decide(self, chunk: _Chunk, step: NextStep) -> None:
        try:
            if isinstance(step, NextRecords):
                await self._decide_records(chunk, step)
            elif isinstance(step, NextDue):
                self._check_what_is_at_hand()
                await self._provide(chunk, self._book.due.until(step.until, DUE_PER_CHUNK), [])
                self._act_on_due(chunk, step.until, DUE_PER_CHUNK)
            else:
                chunk.groups.append(self._book.adopt(step.record))
        except Undecidable as error:
            # What came before it is decided and lies in the chunk.
            chunk.stop = PartitionStopped(
                f"the code fails on {error}; it is neither decided nor refused: mend the code, "
                f"then start again{_or_skip(error)}"
            )
            logger.error(
                "partition %d: the code fails on an input", self._owner.partition, exc_info=error
            )
        changes = self._book.take_changes()
        self._reserve(chunk, [*changes.accounts, *changes.identities])
        chunk.changes.accounts.update(changes.accounts)
        chunk.changes.identities.update(changes.identities)
        chunk.changes.due.update(changes.due)
        chunk.changes.settled_holds.update(changes.settled_holds)

    async def _decide_records(self, chunk: _Chunk, step: NextRecords) -> None:
        self._owner.check_for_gaps(
            step.source, self._book.head.next_of(step.source.value), step.records
        )
        inputs = self._book.decode(step.source.value, step.records)
        accounts, identities = self._book.needed_to_decide(inputs)
        await self._provide(chunk, accounts, identities)
        for item in inputs:
            self._act_on_due(chunk, item.appended_at)
            chunk.groups.append(self._book.decide_input(item))
            chunk.decided[step.source] = item.offset + 1

    def _check_what_is_at_hand(self) -> None:
        """What is due is found so by the records at hand: one that is missing before them may be of
        a time before it.
        """
        for source in Source:
            record = self._inputs.peek(source)
            if record is not None:
                self._owner.check_for_gaps(source, self._book.head.next_of(source.value), [record])

    def _act_on_due(self, chunk: _Chunk, until: datetime, groups_max: float = inf) -> None:
        """Act on what is due, in order, as far as its accounts are at hand; an account's next date
        may come before another's.
        """
        while len(chunk.groups) < groups_max:
            due = self._book.due.next()
            if due is None or due[0] > until or due[1] not in self._book.accounts:
                return
            chunk.groups.append(self._book.decide_due(due[1], due[0]))

    async def _provide(
        self, chunk: _Chunk, accounts: Sequence[str], identities: Sequence[tuple[int, bytes]]
    ) -> None:
        """Fetch what is not in memory.

        What is stays there, even if the chunk that brought it is committed while we wait.
        """
        self._reserve(chunk, [*accounts, *(identity for _, identity in identities)])
        missing_accounts = [account for account in accounts if account not in self._book.accounts]
        missing_identities = [pair for pair in identities if pair[1] not in self._book.identities]
        async with self._view_calls:
            await provide(
                self._book, self._view, self._position, missing_accounts, missing_identities
            )

    def _reserve(self, chunk: _Chunk, keys: Sequence[str | bytes]) -> None:
        chunk.uses += keys
        self._last_use.update(dict.fromkeys(keys, chunk))

    async def _append_all(self) -> None:
        while True:
            chunk = await self._in_flight.get()
            assert chunk.change is not None
            try:
                await self._ledger.append(
                    chunk.expected_offset,
                    [[_keyed(entry) for entry in group] for group in chunk.groups],
                )
            except GroupTooLarge as error:
                raise PartitionStopped(
                    f"{error}. The largest are those of {_largest(chunk.groups)}"
                ) from error
            self._owner.ledger_end = chunk.change.position.next_offset
            async with self._view_calls:
                await self._view.commit(self._position, chunk.change)
                self._position = chunk.change.position
                self._committed_at = asyncio.get_running_loop().time()
            self._forget(chunk)
            for source, next_offset in chunk.decided.items():
                self._inputs.control.committed(source, next_offset)
            self._in_flight.task_done()

    def _forget(self, chunk: _Chunk) -> None:
        """Drop what the view now holds, except what a later chunk uses."""
        for key in chunk.uses:
            if self._last_use.get(key) is chunk:
                del self._last_use[key]
                self._book.accounts.pop(key, None) if isinstance(
                    key, str
                ) else self._book.identities.pop(key, None)

    async def _verify_when_idle(self) -> None:
        """Redis may fail over and lose its last second while nothing flows: nobody would notice
        until the next event came.
        """
        while True:
            await asyncio.sleep(VERIFY_INTERVAL_S)
            if asyncio.get_running_loop().time() - self._committed_at < VERIFY_INTERVAL_S:
                continue
            async with self._view_calls:
                await self._view.verify(self._position)


def _keyed(sealed: SealedEntry) -> KeyedValue:
    return KeyedValue(sealed.entry.account.encode() or None, sealed.value)


def _or_skip(error: Undecidable) -> str:
    place = error.input
    if place is None or place.topic == "catalog":
        return ""
    return (
        f"; or leave it out: usageledger processor skip {place.partition}@{place.offset} --topic "
        f"{place.topic} --reason TEXT"
    )


def _largest(groups: Sequence[Sequence[SealedEntry]]) -> str:
    first = max(groups, key=lambda group: sum(len(sealed.value) for sealed in group))[0].entry
    return (
        f"account {first.account!r}, due"
        if first.input is None
        else f"{first.input.topic} {first.input.partition}-{first.input.offset}"
    )
