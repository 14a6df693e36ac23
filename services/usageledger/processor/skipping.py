"""Skipping the one input at which a partition has stopped, for an operator.

The operator's process becomes the partition's owner for a moment, by the rules that hold for every
owner. Its claim is in the log and names the process. Entries that another owner still appends have
wrong offsets, so they do not count. The entry of the skip records who skipped what, and why.
No message to a running processor is needed, so none can be lost: a stopped owner sees the claim
and claims again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from usageledger.counters.view import PartitionView, Position, ViewError
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.chain import SealedEntry
from usageledger.domain.entry import InputAddress
from usageledger.domain.head import Head
from usageledger.ledger.decoded_input import DecodedInput
from usageledger.ledger.partition_book import PartitionBook, Undecidable
from usageledger.ledger.records import KeyedValue, LedgerError, LedgerPartition, Record
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.catch_up import PartitionStopped, catch_up, head_of, provide, view_change
from usageledger.processor.claiming import claim_partition, current_rules
from usageledger.processor.inputs import InputBuffer, Source
from usageledger.processor.merge import Merge, NextCatalog, NextRecords, NextStep

NEXT_STEP_TIMEOUT_S = 30.0
ATTEMPT_PAUSES_S = (0.2, 1.0, 3.0, 6.0)


class SkipRefused(Exception):
    """The input may not be skipped. Nothing was skipped; the message says why not."""


class UnreadableBatch(NamedTuple):
    """The batch with which an input goes on, and why it cannot be read."""

    offsets: range
    why: str


async def skip_input(
    address: InputAddress,
    reason: str,
    *,
    partition_count: int,
    ledger: LedgerPartition,
    view: PartitionView,
    inputs: InputBuffer,
    catalogs: CatalogLog,
    operator: str,
    is_importing: bool,
    now: Callable[[], datetime],
    unreadable: Callable[[Source], UnreadableBatch | None] = lambda _: None,
) -> SealedEntry:
    """Append the skip of the input that the partition would decide next; return the entry.

    ``inputs`` feeds both inputs from a given offset, as for an owner; their first records are
    enough. ``unreadable`` says whether an input cannot be read from there on: then the whole batch
    is skipped. A stopped owner that sees our claim claims too. Then we give way, and try again.

    Raises SkipRefused unless this code fails on the input or cannot read it; PartitionStopped,
    LedgerError and ViewError as an owner does.
    """
    if address.topic == "catalog" or not reason.strip():
        raise SkipRefused(
            "only a usage or an account event can be skipped, and only with a reason: give one"
        )
    skip = _Skip(
        address=address,
        reason=reason,
        partition_count=partition_count,
        ledger=ledger,
        view=view,
        inputs=inputs,
        operator=operator,
        new_merge=lambda: Merge(inputs, catalogs, is_importing=lambda: is_importing, now=now),
        catalogs=catalogs,
        unreadable=unreadable,
    )
    for pause_s in (*ATTEMPT_PAUSES_S, None):
        try:
            return await skip.attempt()
        except SkipRefused:
            if (skipped := await skip.entry_in_log()) is not None:
                return skipped
            raise
        except (LedgerError, ViewError) as error:
            if not error.retriable or pause_s is None:
                raise
            await asyncio.sleep(pause_s)
    raise AssertionError("the last attempt returns or raises")


@dataclass(slots=True, kw_only=True)
class _Skip:
    """One skip over all of its attempts."""

    address: InputAddress
    reason: str
    partition_count: int
    ledger: LedgerPartition
    view: PartitionView
    inputs: InputBuffer
    catalogs: CatalogLog
    operator: str
    new_merge: Callable[[], Merge]
    unreadable: Callable[[Source], UnreadableBatch | None]
    sent: list[SealedEntry] = field(default_factory=list)
    """The skips that were sent to the log. An attempt that failed may have appended its own."""

    async def attempt(self) -> SealedEntry:
        """Claim the partition, catch up and append the skip. Raises what `skip_input` raises."""
        book, position = await self._claimed_book()
        await self.inputs.seek(
            {Source.USAGE: book.head.usage_next, Source.ACCOUNT: book.head.account_next}
        )
        batch = self.unreadable(Source(self.address.topic))
        skipped = (
            await self._skip_record(book, position)
            if batch is None
            else self._skip_unreadable(book, batch)
        )
        self.sent.append(skipped)
        key = skipped.entry.account.encode() or None
        await self.ledger.append(skipped.entry.offset, [[KeyedValue(key, skipped.value)]])
        # The log is the truth and has the skip. If this fails, the next owner folds it.
        with suppress(ViewError):
            await self.view.commit(position, view_change(book.head, book.take_changes()))
        return skipped

    async def _skip_record(self, book: PartitionBook, position: Position) -> SealedEntry:
        record = _record_at(self.address, await _next_step(self.new_merge(), book))
        topic = self.address.topic
        decoded = book.decode(topic, [record])
        accounts, identities = book.needed_to_decide(decoded)
        await provide(book, self.view, position, accounts, identities)
        detail = self._failure_to_decide(book, decoded[0])
        (skipped,) = book.skip(topic, record, reason=self.reason, detail=detail)
        return skipped

    def _skip_unreadable(self, book: PartitionBook, batch: UnreadableBatch) -> SealedEntry:
        """Skip the batch that begins where the partition stopped."""
        topic, offsets = self.address.topic, batch.offsets
        if self.address.offset not in offsets:
            raise SkipRefused(
                f"of {topic} the offsets {offsets[0]} to {offsets[-1]} are next, a batch that "
                f"cannot be read ({batch.why}): name {self.address.partition}@{offsets[0]}"
            )
        (skipped,) = book.skip_unreadable(topic, offsets, reason=self.reason, detail=batch.why)
        return skipped

    async def entry_in_log(self) -> SealedEntry | None:
        """The skip that an earlier attempt appended though its answer was lost; None if none did.

        Raises LedgerError.
        """
        for skipped in self.sent:
            if await _is_in_log(skipped, self.ledger):
                return skipped
        return None

    async def _claimed_book(self) -> tuple[PartitionBook, Position]:
        """Claim the partition; return its book, ready to decide, and the view's position."""
        partition = self.address.partition
        head = await head_of(self.view)
        # Checked before the claim too, so that a needless command supersedes no owner. The view is
        # never ahead of the ledger: whatever it has counted was decided.
        if head is not None:
            self._require_undecided(head)
        claim, claimed_at = await claim_partition(
            self.ledger,
            partition,
            self.partition_count,
            self.operator,
            _no_new_ledger(partition),
            await current_rules(head, self.ledger),
        )
        rules = Head(ledger=claim.ledger, decide=claim.decide, tzdata=claim.tzdata)
        book = PartitionBook(partition, self.partition_count, rules, AdoptedCatalogs())
        position = await catch_up(
            book,
            ledger=self.ledger,
            view=self.view,
            catalogs=self.catalogs,
            claimed_at=claimed_at,
        )
        self._require_undecided(book.head)
        return book, position

    def _require_undecided(self, head: Head) -> None:
        if head.next_of(self.address.topic) > self.address.offset:
            raise SkipRefused(
                f"{_input_name(self.address)} has been decided: `usageledger ledger show` has its "
                "entry"
            )

    def _failure_to_decide(self, book: PartitionBook, decoded: DecodedInput) -> str:
        """The error that this code raises on the input. Raises SkipRefused if it raises none."""
        try:
            book.decide_input(decoded)
        except Undecidable as error:
            return repr(error.error)
        raise SkipRefused(
            f"{_input_name(self.address)} is decided without a fault by this release: it is not "
            "skipped, start the processor again"
        )


async def _is_in_log(sealed: SealedEntry, ledger: LedgerPartition) -> bool:
    """Whether the log has this very entry at the entry's offset. Raises LedgerError."""
    offset = sealed.entry.offset
    if offset >= await ledger.end_offset():
        return False
    async for records in ledger.read(offset, offset + 1):
        if any(record.offset == offset and record.value == sealed.value for record in records):
            return True
    return False


def _record_at(address: InputAddress, step: NextStep) -> Record:
    """The record at this address. Raises SkipRefused if the partition decides another step next."""
    if not isinstance(step, NextRecords):
        what = "a catalog to adopt" if isinstance(step, NextCatalog) else "accounts that are due"
        raise SkipRefused(
            f"before {_input_name(address)} there is {what}: start the processor again and see "
            "whether it still stops"
        )
    first = step.records[0]
    if step.source.value == address.topic and first.offset < address.offset:
        # Compared by the record's offset: the offset after the last decided record may be the mark
        # of a transaction.
        raise SkipRefused(
            f"the partition has not come to {_input_name(address)}: of that topic it decides "
            f"offset {first.offset} next"
        )
    if (step.source.value, first.offset) != (address.topic, address.offset):
        raise SkipRefused(
            f"before {_input_name(address)} the partition decides {step.source.value} "
            f"{address.partition}@{first.offset}"
        )
    return first


async def _next_step(merge: Merge, book: PartitionBook) -> NextStep:
    try:
        async with asyncio.timeout(NEXT_STEP_TIMEOUT_S):
            return await merge.next(book)
    except TimeoutError:
        raise SkipRefused(
            "the partition has nothing to decide, or no catalog to decide by"
        ) from None


def _no_new_ledger(partition: int) -> Callable[[], str]:
    def refuse() -> str:
        raise PartitionStopped(
            f"partition {partition} of the ledger is empty: nothing was ever decided there"
        )

    return refuse


def _input_name(address: InputAddress) -> str:
    return f"{address.topic} {address.partition}@{address.offset}"
