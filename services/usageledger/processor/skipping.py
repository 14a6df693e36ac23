"""An operator leaves out the one input at which a partition is stopped.

The operator's process is the partition's owner for that moment, by the rules that hold for every
owner. Its claim is in the log and names the process. Entries that another owner still appends are
at wrong offsets, and the entry of the skip is the record of what was done. No message to a running
processor is needed, so none can be lost. A stopped owner sees the claim and claims again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from usageledger.counters.view import PartitionView, ViewError
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.chain import SealedEntry
from usageledger.domain.entry import InputAddress
from usageledger.domain.head import Head
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
    """The input is not one to skip. Nothing was skipped; the message says why not."""


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
) -> SealedEntry:
    """Append the skip of the input that the partition would decide next, if this code fails on it,
    and return the entry.

    ``inputs`` feeds both inputs from a given offset, as for an owner; their first records are
    enough. A stopped owner that sees our claim claims too. Then we give way, and try again. Raises
    SkipRefused, and as an owner does PartitionStopped, LedgerError and ViewError.
    """
    if address.topic == "catalog" or not reason.strip():
        raise SkipRefused("a usage or an account event can be skipped, and for a reason")
    appended: list[SealedEntry] = []
    for pause_s in (*ATTEMPT_PAUSES_S, None):
        try:
            return await _skip_once(
                address,
                reason,
                partition_count=partition_count,
                ledger=ledger,
                view=view,
                inputs=inputs,
                catalogs=catalogs,
                operator=operator,
                merge=Merge(inputs, catalogs, is_importing=lambda: is_importing, now=now),
                appended=appended,
            )
        except SkipRefused:
            for skipped in appended:
                if await _lies_in_its_place(skipped, ledger):
                    return skipped
            raise
        except (LedgerError, ViewError) as error:
            if not error.retriable or pause_s is None:
                raise
            await asyncio.sleep(pause_s)
    raise AssertionError("the last attempt returns or raises")


async def _skip_once(
    address: InputAddress,
    reason: str,
    *,
    partition_count: int,
    ledger: LedgerPartition,
    view: PartitionView,
    inputs: InputBuffer,
    catalogs: CatalogLog,
    operator: str,
    merge: Merge,
    appended: list[SealedEntry],
) -> SealedEntry:
    """One attempt.

    The entries that it appends are in ``appended``, also if it fails afterwards: they may be in the
    log all the same.
    """
    decided = await head_of(view)
    if decided is not None:
        _refuse_what_was_decided(address, decided)
    rules = await current_rules(decided, ledger)
    claim, claimed_at = await claim_partition(
        ledger,
        address.partition,
        partition_count,
        operator,
        _no_new_ledger(address.partition),
        rules,
    )
    head = Head(ledger=claim.ledger, decide=claim.decide, tzdata=claim.tzdata)
    book = PartitionBook(address.partition, partition_count, head, AdoptedCatalogs())
    position = await catch_up(
        book, ledger=ledger, view=view, catalogs=catalogs, claimed_at=claimed_at
    )
    _refuse_what_was_decided(address, book.head)
    await inputs.seek({Source.USAGE: book.head.usage_next, Source.ACCOUNT: book.head.account_next})
    record = _asked_for(address, await _next_step(merge, book))
    accounts, identities = book.needed_to_decide(decoded := book.decode(address.topic, [record]))
    await provide(book, view, position, accounts, identities)
    try:
        book.decide_input(decoded[0])
    except Undecidable as error:
        detail = repr(error.error)
    else:
        raise SkipRefused(
            f"{_named(address)} is decided without a fault by this release: it is not skipped, "
            "start the processor again"
        )
    (skipped,) = book.skip(address.topic, record, reason=reason, detail=detail)
    appended.append(skipped)
    await ledger.append(
        skipped.entry.offset, [[KeyedValue(skipped.entry.account.encode() or None, skipped.value)]]
    )
    with suppress(
        ViewError
    ):  # it lies in the log, which is the truth: the view's next owner folds it
        await view.commit(position, view_change(book.head, book.take_changes()))
    return skipped


async def _lies_in_its_place(sealed: SealedEntry, ledger: LedgerPartition) -> bool:
    offset = sealed.entry.offset
    if offset >= await ledger.end_offset():
        return False
    async for records in ledger.read(offset, offset + 1):
        if any(record.offset == offset and record.value == sealed.value for record in records):
            return True
    return False


def _refuse_what_was_decided(address: InputAddress, head: Head) -> None:
    """Also before anything is claimed: the view is never ahead of the ledger, so what it has
    counted was decided.
    """
    if head.next_of(address.topic) > address.offset:
        raise SkipRefused(
            f"{_named(address)} has been decided: `usageledger ledger show` has its entry"
        )


def _asked_for(address: InputAddress, step: NextStep) -> Record:
    """The record that is asked for, if it is what the partition decides next."""
    if not isinstance(step, NextRecords):
        what = "a catalog to adopt" if isinstance(step, NextCatalog) else "accounts that are due"
        raise SkipRefused(
            f"before {_named(address)} there is {what}: start the processor again and see whether "
            "it still stops"
        )
    first = step.records[0]
    if step.source.value == address.topic and first.offset < address.offset:
        # By the record, not by the offset after the last one: Kafka can have a transaction's mark
        # there.
        raise SkipRefused(
            f"the partition has not come to {_named(address)}: of that topic it decides offset "
            f"{first.offset} next"
        )
    if (step.source.value, first.offset) != (address.topic, address.offset):
        raise SkipRefused(
            f"before {_named(address)} the partition decides {step.source.value} "
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


def _named(address: InputAddress) -> str:
    return f"{address.topic} {address.partition}@{address.offset}"
