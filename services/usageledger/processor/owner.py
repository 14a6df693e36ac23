"""The owner of one ledger partition: claim, catch up, then look up, decide, append and commit.

It goes on for as long as the log says that the partition is its own. The ledger is the truth and
comes first; the view follows. While the view's store refuses or does not answer, the owner waits.
After any other failure it clears its memory and claims again.
`catch_up` brings the view up to the claim, `merge` chooses the next step, and
`ledger.partition_book` decides it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
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
from usageledger.processor.merge import Merge, NextDue, NextRecords, NextStep
from usageledger.processor.owner_settings import DEFAULT_SETTINGS, OwnerSettings
from usageledger.processor.patient_view import PatientView, Waiting
from usageledger.processor.reused_ids import ReusedIds
from usageledger.runtime.tasks import cancel_and_wait, is_being_cancelled, raise_first_failure

log = logging.getLogger(__name__)

OwnerState = Literal[
    "claiming", "catching_up", "waiting_for_a_catalog", "waiting_for_redis", "running", "stopped"
]


@dataclass(slots=True, eq=False)
class _Batch:
    """Decisions that are appended and committed together.

    Groups of entries to append at ``expected_offset``, and the change of the view after them.
    """

    expected_offset: int
    groups: list[list[SealedEntry]] = field(default_factory=list)
    changes: Changes = field(default_factory=lambda: Changes({}, {}, {}, {}))
    change: ViewChange | None = None
    accounts: set[str] = field(default_factory=set)
    """The accounts that must stay in memory until it is committed."""
    identities: set[bytes] = field(default_factory=set)
    """The identities that must stay in memory until it is committed."""
    decided: dict[Source, int] = field(default_factory=dict)
    stop: PartitionStopped | None = None
    """If set, why nothing is decided after this batch."""


class InputGap(LedgerError):
    """A record is missing between the last decided one and the next one fed.

    Reading the input again can help.
    """


class PartitionOwner:
    """Runs one partition.

    The caller passes all ports and the wall clock: nothing here knows Kafka, Redis or Faust.
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
        settings: OwnerSettings = DEFAULT_SETTINGS,
    ) -> None:
        self.partition = partition
        self.inputs = inputs
        self._step: OwnerState = "claiming"
        self.stopped_because: str | None = None
        self.ledger_end: int | None = None
        """The end of the ledger as this owner has claimed and appended it; None without a claim.

        Records at or after it are another's.
        """
        self.reused_ids = ReusedIds()
        self._partition_count = partition_count
        self._ledger = ledger
        self._spread = Random(worker)
        self._waiting = Waiting(partition)
        self._view = PatientView(
            view, self._waiting, again=settings.view_again, spread=self._spread
        )
        self._catalogs = catalogs
        self._worker = worker
        self._settings = settings
        self._new_merge = partial(
            Merge,
            inputs,
            catalogs,
            is_importing=is_importing,
            now=now,
            records_per_step=settings.records_per_step,
        )
        self._new_ledger_id = new_ledger_id
        self._catching_up: tuple[PartitionBook, int] | None = None
        self._gap: tuple[Source, int] | None = None
        self._has_transactions: set[Source] = set()

    @property
    def state(self) -> OwnerState:
        """The step it is at, or that it waits for the view's store."""
        return self._step if self.waiting_because is None else "waiting_for_redis"

    @state.setter
    def state(self, step: OwnerState) -> None:
        self._step = step

    @property
    def waiting_because(self) -> str | None:
        """Why it waits for the view's store; None if it does not."""
        return None if self._step == "stopped" else self._waiting.because

    @property
    def catch_up_progress(self) -> tuple[int, int] | None:
        """While the view catches up: the ledger offset that it has reached, and where that ends."""
        if self._catching_up is None:
            return None
        book, end = self._catching_up
        return book.head.next_offset, end

    async def run(self) -> None:
        """Own the partition until cancelled.

        Returns only when an operator has to look at it; ``stopped_because`` then says why.
        """
        self.state, self.stopped_because = "claiming", None
        self._waiting.because = None
        backoff, failures = self._settings.claim_again, 0
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
                    # A client library can swallow a cancellation that arrives together with its
                    # answer.
                    raise asyncio.CancelledError from error
                log.info(
                    "partition %d: claiming again after %s: %s",
                    self.partition,
                    type(error).__name__,
                    error,
                )
            except asyncio.CancelledError:
                if is_being_cancelled():
                    raise
                # A client library that is closed cancels its pending answers. Ending here would
                # leave the partition without an owner.
                log.info(
                    "partition %d: claiming again after a library cancelled an answer",
                    self.partition,
                )
            owned_s = asyncio.get_running_loop().time() - began
            failures = 1 if owned_s > 2 * backoff.delays_s[-1] else failures + 1
            self.state, self._catching_up = "claiming", None
            self._waiting.because = None
            await asyncio.sleep(backoff.delay_s(failures, self._spread.random()))

    def note_gaps(self, source: Source, expected: int, records: Sequence[Record]) -> None:
        """Raise InputGap the first time that an offset is missing before or between records.

        A record that was missed would never be decided. Kafka itself leaves out offsets only where
        a producer uses transactions. So a gap that shows again, after the input was read again from
        that very offset, is one of those. From then on this input may have gaps.
        """
        if records[-1].offset - expected + 1 == len(records) or source in self._has_transactions:
            return
        offsets = [record.offset for record in records]
        found = next(
            offset
            for offset, contiguous in zip(
                offsets, range(expected, expected + len(offsets)), strict=True
            )
            if offset != contiguous
        )
        if self._gap == (source, found):
            self._has_transactions.add(source)
            return
        self._gap = (source, found)
        raise InputGap(
            f"{source.value}: before offset {found} a record is missing; reading it again"
        )

    def stop(self, reason: str) -> None:
        """Stop until an operator has looked at the partition."""
        self.state, self.stopped_because = "stopped", reason
        log.error("partition %d stopped: %s", self.partition, reason)

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
            settings=self._settings,
        )
        self._catching_up = None
        await self.inputs.seek(
            {Source.USAGE: book.head.usage_next, Source.ACCOUNT: book.head.account_next}
        )
        self.state = "running" if book.catalogs else "waiting_for_a_catalog"
        await _Ownership(self, book, position).run()


class _Ownership:
    """One time of owning the partition, from the end of a catch-up to the first failure.

    Batches are decided while earlier ones are being appended and committed.
    """

    def __init__(self, owner: PartitionOwner, book: PartitionBook, position: Position) -> None:
        self._owner = owner
        self._settings = owner._settings
        self._ledger, self._view = owner._ledger, owner._view
        self._inputs, self._merge = owner.inputs, owner._new_merge()
        self._book = book
        self._position = position
        self._view_calls = asyncio.Lock()
        self._in_flight: asyncio.Queue[_Batch] = asyncio.Queue(self._settings.batches_in_flight)
        # By account and by identity: the last batch that needs it in memory.
        self._last_batch_of_account: dict[str, _Batch] = {}
        self._last_batch_of_identity: dict[bytes, _Batch] = {}
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
            batch = _Batch(self._book.head.next_offset)
            await self._decide(batch, await self._merge.next(self._book))
            await self._fill(batch)
            batch.change = view_change(self._book.head, batch.changes)
            if batch.groups:
                self._owner.state = "running"
                await self._in_flight.put(batch)
            if batch.stop is not None:
                await self._in_flight.join()
                raise batch.stop

    async def _fill(self, batch: _Batch) -> None:
        """Add further steps to a batch that would have to wait for its turn anyway.

        Where the inputs alternate or accounts come due, a step is only a record or two. Without
        this, the round trip to Kafka would bound what a partition decides in a second.
        """
        groups_max = self._settings.due_per_step
        while self._in_flight.full() and batch.stop is None and len(batch.groups) < groups_max:
            step = await self._merge.next_buffered(self._book)
            if step is None:
                return
            await self._decide(batch, step)

    async def _decide(self, batch: _Batch, step: NextStep) -> None:
        try:
            if isinstance(step, NextRecords):
                await self._decide_records(batch, step)
            elif isinstance(step, NextDue):
                self._note_gaps_before_buffered()
                groups_max = self._settings.due_per_step
                await self._provide(batch, self._book.due.until(step.until, groups_max), [])
                self._act_on_due(batch, step.until, groups_max)
            else:
                batch.groups.append(self._book.adopt(step.record))
        except Undecidable as error:
            # The inputs before it are decided and in the batch.
            batch.stop = PartitionStopped(
                f"the code fails on {error}; it is neither decided nor refused: fix the code, "
                f"then start again{_skip_hint(error)}"
            )
            log.error(
                "partition %d: the code fails on an input", self._owner.partition, exc_info=error
            )
        changes = self._book.take_changes()
        self._reserve(batch, changes.accounts, changes.identities)
        batch.changes.accounts.update(changes.accounts)
        batch.changes.identities.update(changes.identities)
        batch.changes.due.update(changes.due)
        batch.changes.settled_holds.update(changes.settled_holds)

    async def _decide_records(self, batch: _Batch, step: NextRecords) -> None:
        self._owner.note_gaps(step.source, self._book.head.next_of(step.source.value), step.records)
        inputs = self._book.decode(step.source.value, step.records)
        accounts, identities = self._book.needed_to_decide(inputs)
        await self._provide(batch, accounts, identities)
        for item in inputs:
            self._act_on_due(batch, item.appended_at)
            batch.groups.append(self._book.decide_input(item))
            batch.decided[step.source] = item.offset + 1

    def _note_gaps_before_buffered(self) -> None:
        """Look for a gap before the buffered records, whose timestamps say which accounts are due.

        A missing record may be older than they are.
        """
        for source in Source:
            record = self._inputs.peek(source)
            if record is not None:
                self._owner.note_gaps(source, self._book.head.next_of(source.value), [record])

    def _act_on_due(self, batch: _Batch, until: datetime, groups_max: int | None = None) -> None:
        """Act on due accounts in order, up to the first that is not in memory.

        An account's next due date may be before another's, so the order is looked up each time.
        """
        while groups_max is None or len(batch.groups) < groups_max:
            due = self._book.due.next()
            if due is None or due[0] > until or due[1] not in self._book.accounts:
                return
            batch.groups.append(self._book.decide_due(due[1], due[0]))

    async def _provide(
        self, batch: _Batch, accounts: Sequence[str], identities: Sequence[tuple[int, bytes]]
    ) -> None:
        """Fetch accounts and identities that are not in memory.

        The others stay there, even if the batch that needed them is committed meanwhile.
        """
        self._reserve(batch, accounts, [identity for _, identity in identities])
        missing_accounts = [account for account in accounts if account not in self._book.accounts]
        missing_identities = [pair for pair in identities if pair[1] not in self._book.identities]
        async with self._view_calls:
            await provide(
                self._book, self._view, self._position, missing_accounts, missing_identities
            )

    def _reserve(self, batch: _Batch, accounts: Iterable[str], identities: Iterable[bytes]) -> None:
        """Keep these in memory until the batch is committed."""
        batch.accounts.update(accounts)
        batch.identities.update(identities)
        self._last_batch_of_account.update(dict.fromkeys(accounts, batch))
        self._last_batch_of_identity.update(dict.fromkeys(identities, batch))

    async def _append_all(self) -> None:
        while True:
            batch = await self._in_flight.get()
            assert batch.change is not None
            try:
                await self._ledger.append(
                    batch.expected_offset,
                    [[_keyed_value(entry) for entry in group] for group in batch.groups],
                )
            except GroupTooLarge as error:
                raise PartitionStopped(
                    f"{error}. The largest are those of {_name_of_largest(batch.groups)}"
                ) from error
            self._owner.ledger_end = batch.change.position.next_offset
            self._owner.reused_ids.note(batch.groups)
            async with self._view_calls:
                await self._view.commit(self._position, batch.change)
                self._position = batch.change.position
                self._committed_at = asyncio.get_running_loop().time()
            self._forget(batch)
            for source, next_offset in batch.decided.items():
                self._inputs.control.acknowledge(source, next_offset)
            self._in_flight.task_done()

    def _forget(self, batch: _Batch) -> None:
        """Drop from memory what the view now holds, except what a later batch needs."""
        for account in batch.accounts:
            if self._last_batch_of_account.get(account) is batch:
                del self._last_batch_of_account[account]
                self._book.accounts.pop(account, None)
        for identity in batch.identities:
            if self._last_batch_of_identity.get(identity) is batch:
                del self._last_batch_of_identity[identity]
                self._book.identities.pop(identity, None)

    async def _verify_when_idle(self) -> None:
        """Verify the view's position while nothing is committed.

        Redis may fail over and lose its last second. On an idle partition nobody would notice
        before the next event.
        """
        interval_s = self._settings.verify_interval_s
        while True:
            await asyncio.sleep(interval_s)
            if asyncio.get_running_loop().time() - self._committed_at < interval_s:
                continue
            async with self._view_calls:
                await self._view.verify(self._position)


def _keyed_value(sealed: SealedEntry) -> KeyedValue:
    return KeyedValue(sealed.entry.account.encode() or None, sealed.value)


def _skip_hint(error: Undecidable) -> str:
    address = error.input
    if address is None or address.topic == "catalog":
        return ""
    return (
        f"; or leave it out: usageledger processor skip {address.partition}@{address.offset} "
        f"--topic {address.topic} --reason TEXT"
    )


def _name_of_largest(groups: Sequence[Sequence[SealedEntry]]) -> str:
    first = max(groups, key=lambda group: sum(len(sealed.value) for sealed in group))[0].entry
    return (
        f"account {first.account!r}, due"
        if first.input is None
        else f"{first.input.topic} {first.input.partition}-{first.input.offset}"
    )
