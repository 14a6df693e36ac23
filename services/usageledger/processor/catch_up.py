"""Catching up: a claimed partition's view is folded forward from where its head stands to the claim, and only then anything is decided."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress

from msgspec import MsgspecError
from msgspec.structs import replace

from usageledger.counters.view import PartitionView, Position, StoredHead, ViewChange, ViewError
from usageledger.domain.catalog import AdoptedCatalogs
from usageledger.domain.chain import NotAnEntry, SealedEntry, entry_at
from usageledger.domain.claim import decode_claim, knows_rules_of
from usageledger.domain.encoding import decode_account, decode_head, decode_identity, encode
from usageledger.domain.head import Head
from usageledger.domain.identity import window_of
from usageledger.log.deciding import Changes, PartitionBook, adopted_catalogs, asked_for_by, identities_touched_by, milliseconds, time_of
from usageledger.log.records import LedgerPartition, Record, Superseded
from usageledger.processor.catalog_log import CatalogLog

CATALOG_WAIT_S = 30.0
LOOK_BACK_RECORDS = 100

logger = logging.getLogger(__name__)


class PartitionStopped(Exception):
    """This partition must not go on until an operator has looked at it; the others do. The message says why and what to do."""


async def catch_up(book: PartitionBook, *, ledger: LedgerPartition, view: PartitionView, catalogs: CatalogLog, claimed_at: int) -> Position:
    """Fold the ledger into the view up to the claim at offset ``claimed_at``; return where the view then stands.

    Then ``book`` is ready to decide. ``book.head`` comes with the ledger's id and this worker's rules. A view that has counted what the log
    has lost is built anew beside the old one, which readers see until then.
    Raises PartitionStopped, LedgerError, ViewError.
    """
    stored = await _head_of_this_ledger(book, ledger, view, claimed_at)
    if stored is None or await _holds_all_of(stored, ledger):
        return await _fold_all(book, stored, ledger, view, catalogs, claimed_at)
    logger.error("the ledger of partition %d has lost records that its view had counted: rebuilding the view", book.partition)
    return await build_anew(book, ledger=ledger, view=view, catalogs=catalogs, claimed_at=claimed_at)


async def build_anew(
    book: PartitionBook, *, ledger: LedgerPartition, view: PartitionView, catalogs: CatalogLog, claimed_at: int
) -> Position:
    """As `catch_up`, but whatever the view is: one beside it is built from the ledger up to the claim and takes its place."""
    position = await fold_beside(book, ledger=ledger, view=view, catalogs=catalogs, until=claimed_at)
    await view.take_over(position)
    return position


async def fold_beside(book: PartitionBook, *, ledger: LedgerPartition, view: PartitionView, catalogs: CatalogLog, until: int) -> Position:
    """Build the view beside up to the record at offset ``until``, going on with what an attempt that was cut short has left.

    What does not fit this ledger is cleared away first, and that is said. Between two records of one batch ``until`` must not lie.
    """
    beside = view.beside()
    stored = await attempt_to_go_on_with(book, ledger=ledger, view=view, until=until)
    return await _fold_all(book, stored, ledger, beside, catalogs, until)


async def attempt_to_go_on_with(book: PartitionBook, *, ledger: LedgerPartition, view: PartitionView, until: int) -> StoredHead | None:
    """The head of the view beside, if it is a fold of this ledger; one that is not is cleared away."""
    try:
        stored = await _head_of_this_ledger(book, ledger, view.beside(), until)
        if stored is None or await _holds_all_of(stored, ledger):
            return stored
    except (PartitionStopped, ViewError) as error:
        if isinstance(error, ViewError) and error.retriable:
            raise
    logger.warning("partition %d: a rebuild that was cut short does not fit this ledger any more; beginning again", book.partition)
    await view.beside().clear()
    return None


async def _fold_all(
    book: PartitionBook, stored: StoredHead | None, ledger: LedgerPartition, view: PartitionView, catalogs: CatalogLog, claimed_at: int
) -> Position:
    position = await _begin(book, stored, ledger, view, catalogs)
    unfolded: list[SealedEntry] = []
    async for records in ledger.read(book.head.next_offset, claimed_at + 1):
        unfolded += [entry for record in records if (entry := _valid(book, record)) is not None]
        next_offset = records[-1].offset + 1
        if next_offset <= claimed_at and unfolded:
            # More entries of the last one's input may follow; the view never stands between two of them.
            next_offset = _last_together(unfolded)
        whole = [sealed for sealed in unfolded if sealed.entry.offset < next_offset]
        unfolded = unfolded[len(whole) :]
        if next_offset > book.head.next_offset:
            position = await _fold(book, view, catalogs, position, whole, next_offset)
    if position is None or position.next_offset < claimed_at + 1:
        position = await _commit(book, view, position, claimed_at + 1)
    return position


async def head_of(view: PartitionView) -> Head | None:
    """What a view's head says, None where it says nothing that this code can read. Raises ViewError where the store does not answer."""
    try:
        stored = await view.head()
        return None if stored is None else decode_head(stored.value)
    except MsgspecError:
        return None
    except ViewError as error:
        if error.retriable:
            raise
        return None


async def provide(
    book: PartitionBook,
    view: PartitionView,
    position: Position | None,
    accounts: Sequence[str],
    identities: Sequence[tuple[int, bytes]],
) -> None:
    """Fetch accounts and identities into the book, if the view stands where it is believed to; else raise HeadMoved."""
    if not accounts and not identities:
        return
    fetched = await view.fetch(position, accounts, identities)
    try:
        for account, blob in zip(accounts, fetched.accounts, strict=True):
            book.accounts[account] = None if blob is None else decode_account(blob)
        for (_, identity), blob in zip(identities, fetched.identities, strict=True):
            found = None if blob is None else decode_identity(blob)
            known = book.identities.setdefault(identity, found)
            # Asked about in several windows, what is known of it last counts.
            if found is not None and (known is None or found.first_appended_at > known.first_appended_at):
                book.identities[identity] = found
    except MsgspecError as error:
        raise _unreadable(book, error) from error


def view_change(head: Head, changes: Changes) -> ViewChange:
    """What a commit writes: the head, and what decisions or entries have changed."""
    identities: dict[int, dict[bytes, bytes]] = {}
    for identity, record in changes.identities.items():
        identities.setdefault(window_of(record.first_appended_at), {})[identity] = encode(record)
    return ViewChange(
        head=encode(head),
        position=Position(head.next_offset, head.hash),
        accounts={account: encode(state) for account, state in changes.accounts.items()},
        identities=identities,
        due_ms={account: None if at is None else milliseconds(at) for account, at in changes.due.items()},
        drop_windows_before=window_of(head.clock) - 1,
    )


async def _head_of_this_ledger(book: PartitionBook, ledger: LedgerPartition, view: PartitionView, claimed_at: int) -> StoredHead | None:
    """The view's head, None if it has none. Raises PartitionStopped where it is another ledger's or not ours to read, Superseded."""
    stored = await view.head()
    if stored is None:
        return None
    try:
        head = decode_head(stored.value)
    except MsgspecError as error:
        raise _unreadable(book, error) from error
    if head.ledger != book.head.ledger:
        raise PartitionStopped(
            f"the Redis view of partition {book.partition} belongs to another ledger ({head.ledger}, not {book.head.ledger}):"
            " give this ledger a Redis or a prefix of its own; or, if its topic was made anew, restore the topic"
        )
    if not knows_rules_of(head):
        raise PartitionStopped(
            f"the Redis view of partition {book.partition} was decided by newer rules ({head.decide}, tzdata {head.tzdata}):"
            " upgrade this worker"
        )
    if head.next_offset > claimed_at + 1 and head.next_offset <= await ledger.end_offset():
        raise Superseded(f"the view of partition {book.partition} is at {head.next_offset}, beyond the claim at {claimed_at}")
    return stored


async def _begin(
    book: PartitionBook, stored: StoredHead | None, ledger: LedgerPartition, view: PartitionView, catalogs: CatalogLog
) -> Position | None:
    """Take up the view's head, or begin an empty view."""
    if stored is not None:
        book.head = replace(decode_head(stored.value), decide=book.head.decide, tzdata=book.head.tzdata)
    start = await ledger.start_offset()
    if start > book.head.next_offset:
        raise PartitionStopped(
            f"partition {book.partition} of the ledger begins at offset {start}, but the view needs it from {book.head.next_offset}:"
            " the topic was truncated; restore it, for entries are missing"
        )
    if not await catalogs.holds(book.head.catalog_next, CATALOG_WAIT_S):
        raise PartitionStopped(
            f"the catalog topic does not hold what lies before offset {book.head.catalog_next}, which partition {book.partition} adopted:"
            " it was truncated or made anew; restore it, then start the processor again"
        )
    book.catalogs = adopted_catalogs(catalogs.before(book.head.catalog_next))
    if stored is None:
        return None
    # Before anything is folded: only who knows that an account was due can tell that it no longer is.
    for account, due_ms in (await view.due(stored.position)).items():
        book.due.set(account, time_of(due_ms))
    book.due.take_changed()
    return stored.position


async def _holds_all_of(stored: StoredHead, ledger: LedgerPartition) -> bool:
    """Whether the log has what the view has counted: where the view stands, the last entry before is the one that it folded last.

    Claims can have taken the place of lost entries, so that the log is long enough is not enough.
    """
    stop, hash_ = stored.position
    if stop > await ledger.end_offset():
        return False
    count = LOOK_BACK_RECORDS
    while stop > 0:
        start = max(0, stop - count)
        last = None
        async for records in ledger.read(start, stop):
            for record in records:
                with suppress(NotAnEntry):
                    last = entry_at(record.offset, record.value) or last
        if last is not None:
            return last.hash == hash_
        stop, count = start, 10 * count  # an idle partition gathers claims
    return hash_ == ""


def _unreadable(book: PartitionBook, error: MsgspecError) -> PartitionStopped:
    return PartitionStopped(
        f"the Redis view of partition {book.partition} holds what this worker cannot read ({error}): upgrade the worker;"
        f" or, if the view is damaged: usageledger rebuild --partition {book.partition}"
    )


def _last_together(entries: Sequence[SealedEntry]) -> int:
    """The offset of the first of those entries at the end that were decided together."""
    group = asked_for_by(entries[-1])
    return min(sealed.entry.offset for sealed in entries if asked_for_by(sealed) == group)


async def _fold(
    book: PartitionBook,
    view: PartitionView,
    catalogs: CatalogLog,
    position: Position | None,
    entries: Sequence[SealedEntry],
    next_offset: int,
) -> Position:
    identities = {(window_of(item.entry.appended_at), identity): None for item in entries for identity in identities_touched_by(item.entry)}
    accounts = list(dict.fromkeys(item.entry.account for item in entries if item.entry.account))
    await provide(book, view, position, accounts, list(identities))
    for sealed in entries:
        if sealed.entry.previous_hash != book.head.hash:
            raise PartitionStopped(
                f"the hash chain of partition {book.partition} breaks at offset {sealed.entry.offset}: run `usageledger audit verify`"
            )
        book.catalogs = await _with_adopted(book.catalogs, sealed, catalogs)
        try:
            book.fold(sealed)
        except Exception as error:
            raise PartitionStopped(f"the code fails on ledger entry {book.partition}-{sealed.entry.offset}: {error!r}") from error
    return await _commit(book, view, position, next_offset)


def _valid(book: PartitionBook, record: Record) -> SealedEntry | None:
    claim = decode_claim(record.value)
    if claim is not None and not knows_rules_of(claim):
        raise PartitionStopped(
            f"partition {book.partition} was claimed by a worker with newer rules ({claim.decide}, tzdata {claim.tzdata}):"
            " upgrade this worker"
        )
    try:
        return entry_at(record.offset, record.value)
    except NotAnEntry as error:
        raise PartitionStopped(f"the record at offset {record.offset} of ledger partition {book.partition} is no entry: {error}") from error


async def _with_adopted(adopted: AdoptedCatalogs, sealed: SealedEntry, catalogs: CatalogLog) -> AdoptedCatalogs:
    address = sealed.entry.input
    if address is None or address.topic != "catalog":
        return adopted
    if not await catalogs.holds(address.offset + 1, CATALOG_WAIT_S):
        raise PartitionStopped(f"the catalog topic no longer holds offset {address.offset}, which the ledger adopted")
    record = catalogs.at_or_after(address.offset)
    return adopted if record is None else adopted_catalogs([record], adopted)


async def _commit(book: PartitionBook, view: PartitionView, position: Position | None, next_offset: int) -> Position:
    book.head = replace(book.head, next_offset=next_offset)
    change = view_change(book.head, book.take_changes())
    await view.commit(position, change)
    book.accounts.clear()
    book.identities.clear()
    return change.position
