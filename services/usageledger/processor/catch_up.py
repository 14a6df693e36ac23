"""Catching up: a claimed partition's view is folded forward from where its head stands to the
claim, and only then anything is decided.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

from msgspec import MsgspecError
from msgspec.structs import replace

from usageledger.counters.view import PartitionView, Position, StoredHead, ViewChange, ViewError
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.chain import NotAnEntry, SealedEntry, entry_at
from usageledger.domain.claim import decode_claim, knows_rules_of
from usageledger.domain.encoding import decode_account, decode_head, decode_identity, encode
from usageledger.domain.head import Head
from usageledger.domain.identity import window_of
from usageledger.ledger.adoption import adopted_catalogs
from usageledger.ledger.partition_book import (
    Changes,
    PartitionBook,
    Undecidable,
    group_key,
    needed_to_fold,
)
from usageledger.ledger.records import LedgerPartition, Record, Superseded
from usageledger.ledger.timestamps import milliseconds, time_of
from usageledger.processor.catalog_log import CatalogLog

CATALOG_WAIT_S = 30.0
LOOK_BACK_RECORDS = 100
RECORDS_PER_COMMIT = 5_000
"""An account is encoded once in so many; more would hold the server up for longer, and others with
it.
"""
ACCOUNTS_KEPT_MAX = 20_000
"""How many accounts stay in memory from one commit to the next, so that they need not be fetched
again.
"""

logger = logging.getLogger(__name__)


class PartitionStopped(Exception):
    """This partition must not go on until an operator has looked at it; the others do.

    The message says why and what to do.
    """


async def catch_up(
    book: PartitionBook,
    *,
    ledger: LedgerPartition,
    view: PartitionView,
    catalogs: CatalogLog,
    claimed_at: int,
) -> Position:
    """Fold the ledger into the view up to the claim at offset ``claimed_at``; return where the view
    then stands.

    Then ``book`` is ready to decide. ``book.head`` comes with the ledger's id and this worker's
    rules. A view that has counted what the log has lost is built anew beside the old one, which
    readers see until then. Raises PartitionStopped, LedgerError, ViewError.
    """
    stored = await _head_of_this_ledger(book, ledger, view, claimed_at)
    if stored is None or await _holds_all_of(stored, ledger):
        return await _fold_all(book, stored, ledger, view, catalogs, claimed_at)
    logger.error(
        "the ledger of partition %d lost records that its view had counted: rebuilding the view",
        book.partition,
    )
    return await build_anew(
        book, ledger=ledger, view=view, catalogs=catalogs, claimed_at=claimed_at
    )


async def build_anew(
    book: PartitionBook,
    *,
    ledger: LedgerPartition,
    view: PartitionView,
    catalogs: CatalogLog,
    claimed_at: int,
) -> Position:
    """As `catch_up`, but whatever the view is: one beside it is built from the ledger up to the
    claim and takes its place.
    """
    position = await fold_beside(
        book, ledger=ledger, view=view, catalogs=catalogs, until=claimed_at
    )
    await view.take_over(position)
    return position


async def fold_beside(
    book: PartitionBook,
    *,
    ledger: LedgerPartition,
    view: PartitionView,
    catalogs: CatalogLog,
    until: int,
) -> Position:
    """Build the view beside up to the record at offset ``until``, going on with what an attempt
    that was cut short has left.

    What does not fit this ledger is cleared away first, and that is said. Between two records of
    one batch ``until`` must not lie.
    """
    beside = view.beside()
    stored = await attempt_to_go_on_with(book, ledger=ledger, view=view, until=until)
    return await _fold_all(book, stored, ledger, beside, catalogs, until)


async def attempt_to_go_on_with(
    book: PartitionBook, *, ledger: LedgerPartition, view: PartitionView, until: int
) -> StoredHead | None:
    """The head of the view beside, if it is a fold of this ledger; one that is not is cleared
    away.
    """
    try:
        stored = await _head_of_this_ledger(book, ledger, view.beside(), until)
        if stored is None or await _holds_all_of(stored, ledger):
            return stored
    except (PartitionStopped, ViewError) as error:
        if isinstance(error, ViewError) and error.retriable:
            raise
    logger.warning(
        "partition %d: a rebuild that was cut short does not fit this ledger any more; beginning "
        "again",
        book.partition,
    )
    await view.beside().clear()
    return None


async def _fold_all(
    book: PartitionBook,
    stored: StoredHead | None,
    ledger: LedgerPartition,
    view: PartitionView,
    catalogs: CatalogLog,
    claimed_at: int,
) -> Position:
    position = await _begin(book, stored, ledger, view, catalogs)
    unfolded: list[SealedEntry] = []
    async for records in ledger.read(book.head.next_offset, claimed_at + 1):
        unfolded += _valid(book, records)
        next_offset = records[-1].offset + 1
        # More entries of the last one's input may follow; the view never stands between two of
        # them.
        whole = len(unfolded) if next_offset > claimed_at else _place_of_last_together(unfolded)
        await _fold(book, view, catalogs, position, unfolded[:whole])
        unfolded = unfolded[whole:]
        book.head = replace(
            book.head, next_offset=unfolded[0].entry.offset if unfolded else next_offset
        )
        if (
            book.head.next_offset - (0 if position is None else position.next_offset)
            >= RECORDS_PER_COMMIT
        ):
            position = await _commit(book, view, position)
    book.head = replace(book.head, next_offset=claimed_at + 1)
    if position is None or position.next_offset < claimed_at + 1:
        position = await _commit(book, view, position)
    book.accounts.clear()
    return position


async def head_of(view: PartitionView) -> Head | None:
    """What a view's head says, None where it says nothing that this code can read.

    Raises ViewError where the store does not answer.
    """
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
    """Fetch accounts and identities into the book, if the view stands where it is believed to; else
    raise HeadMoved.
    """
    if not accounts and not identities:
        return
    if position is None:
        # An empty view has nothing to give; whether it still is empty, the commit finds out.
        book.accounts.update(dict.fromkeys(accounts))
        book.identities.update({identity: None for _, identity in identities})
        return
    fetched = await view.fetch(position, accounts, identities)
    try:
        for account, blob in zip(accounts, fetched.accounts, strict=True):
            book.accounts[account] = None if blob is None else decode_account(blob)
        for (_, identity), blob in zip(identities, fetched.identities, strict=True):
            found = None if blob is None else decode_identity(blob)
            known = book.identities.setdefault(identity, found)
            # Asked about in several windows, what is known of it last counts.
            if found is not None and (
                known is None or found.first_appended_at > known.first_appended_at
            ):
                book.identities[identity] = found
    except MsgspecError as error:
        raise _unreadable(book, error) from error


def view_change(head: Head, changes: Changes, *, is_behind: bool = False) -> ViewChange:
    """What a commit writes: the head, and what decisions or entries have changed.

    ``is_behind``: the ledger goes on. Then the view is of the time of its last entry: last month's
    figures are not to pass for today's.
    """
    identities: dict[int, dict[bytes, bytes]] = defaultdict(dict)
    for identity, record in changes.identities.items():
        identities[window_of(record.first_appended_at)][identity] = encode(record)
    return ViewChange(
        head=encode(head),
        position=Position(head.next_offset, head.hash),
        accounts={account: encode(state) for account, state in changes.accounts.items()},
        identities=identities,
        due_ms={
            account: None if at is None else milliseconds(at) for account, at in changes.due.items()
        },
        settled_holds=tuple(changes.settled_holds),
        as_of_ms=milliseconds(head.clock) if is_behind else None,
        drop_windows_before=window_of(head.clock) - 1,
    )


async def _head_of_this_ledger(
    book: PartitionBook, ledger: LedgerPartition, view: PartitionView, claimed_at: int
) -> StoredHead | None:
    """The view's head, None if it has none.

    Raises PartitionStopped where it is another ledger's or not ours to read, Superseded.
    """
    stored = await view.head()
    if stored is None:
        return None
    try:
        head = decode_head(stored.value)
    except MsgspecError as error:
        raise _unreadable(book, error) from error
    if head.ledger != book.head.ledger:
        raise PartitionStopped(
            f"the Redis view of partition {book.partition} belongs to another ledger "
            f"({head.ledger}, not {book.head.ledger}):"
            " give this ledger a Redis or a prefix of its own; or, if its topic was made anew, "
            "restore the topic"
        )
    if not knows_rules_of(head):
        raise PartitionStopped(
            f"the Redis view of partition {book.partition} was decided by newer rules "
            f"({head.decide}, tzdata {head.tzdata}):"
            " upgrade this worker"
        )
    if head.next_offset > claimed_at + 1 and head.next_offset <= await ledger.end_offset():
        raise Superseded(
            f"the view of partition {book.partition} is at {head.next_offset}, beyond the claim at "
            f"{claimed_at}"
        )
    return stored


async def _begin(
    book: PartitionBook,
    stored: StoredHead | None,
    ledger: LedgerPartition,
    view: PartitionView,
    catalogs: CatalogLog,
) -> Position | None:
    """Take up the view's head, or begin an empty view."""
    if stored is not None:
        book.head = replace(
            decode_head(stored.value), decide=book.head.decide, tzdata=book.head.tzdata
        )
    start = await ledger.start_offset()
    if start > book.head.next_offset:
        raise PartitionStopped(
            f"partition {book.partition} of the ledger begins at offset {start}, but the view "
            f"needs it from {book.head.next_offset}:"
            " the topic was truncated; restore it, for entries are missing"
        )
    if not await catalogs.holds(book.head.catalog_next, CATALOG_WAIT_S):
        raise PartitionStopped(
            f"the catalog topic does not hold what lies before offset {book.head.catalog_next}, "
            f"which partition {book.partition} adopted:"
            " it was truncated or made anew; restore it, then start the processor again"
        )
    book.catalogs = adopted_catalogs(catalogs.before(book.head.catalog_next))
    if stored is None:
        return None
    # Before anything is folded: only who knows that an account was due can tell that it no longer
    # is.
    for account, due_ms in (await view.due(stored.position)).items():
        book.due.set(account, time_of(due_ms))
    book.due.take_changed()
    return stored.position


async def _holds_all_of(stored: StoredHead, ledger: LedgerPartition) -> bool:
    """Whether the log has what the view has counted: where the view stands, the last entry before
    is the one that it folded last.

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
        f"the Redis view of partition {book.partition} holds what this worker cannot read "
        f"({error}): upgrade the worker;"
        f" or, if the view is damaged: usageledger rebuild --partition {book.partition}"
    )


def _place_of_last_together(entries: Sequence[SealedEntry]) -> int:
    """Where those entries at the end begin that were decided together."""
    place = len(entries)
    while place > 0 and group_key(entries[place - 1]) == group_key(entries[-1]):
        place -= 1
    return place


async def _fold(
    book: PartitionBook,
    view: PartitionView,
    catalogs: CatalogLog,
    position: Position | None,
    entries: Sequence[SealedEntry],
) -> None:
    accounts, identities = needed_to_fold(entries)
    await provide(
        book,
        view,
        position,
        [account for account in accounts if account not in book.accounts],
        [pair for pair in identities if pair[1] not in book.identities],
    )
    begin, hash_ = 0, book.head.hash
    for place, sealed in enumerate(entries):
        if sealed.entry.previous_hash != hash_:
            raise PartitionStopped(
                f"the hash chain of partition {book.partition} breaks at offset "
                f"{sealed.entry.offset}: run `usageledger audit verify`"
            )
        hash_ = sealed.hash
        address = sealed.entry.input
        if address is not None and address.topic == "catalog":
            # What came before it was decided without it.
            _fold_run(book, entries[begin:place])
            book.catalogs, begin = (
                await _with_adopted(book.catalogs, address.offset, catalogs),
                place,
            )
    _fold_run(book, entries[begin:])


def _fold_run(book: PartitionBook, entries: Sequence[SealedEntry]) -> None:
    try:
        book.fold(entries)
    except Undecidable as error:
        raise PartitionStopped(f"the code fails on {error}") from error


def _valid(book: PartitionBook, records: Sequence[Record]) -> list[SealedEntry]:
    valid: list[SealedEntry] = []
    for record in records:
        try:
            sealed = entry_at(record.offset, record.value)
        except NotAnEntry as error:
            raise PartitionStopped(
                f"the record at offset {record.offset} of ledger partition {book.partition} is no "
                f"entry: {error}"
            ) from error
        if sealed is not None:
            valid.append(sealed)
        elif (claim := decode_claim(record.value)) is not None and not knows_rules_of(claim):
            raise PartitionStopped(
                f"partition {book.partition} was claimed by a worker with newer rules "
                f"({claim.decide}, tzdata {claim.tzdata}):"
                " upgrade this worker"
            )
    return valid


async def _with_adopted(
    adopted: AdoptedCatalogs, offset: int, catalogs: CatalogLog
) -> AdoptedCatalogs:
    if not await catalogs.holds(offset + 1, CATALOG_WAIT_S):
        raise PartitionStopped(
            f"the catalog topic no longer holds offset {offset}, which the ledger adopted"
        )
    record = catalogs.at_or_after(offset)
    return adopted if record is None else adopted_catalogs([record], adopted)


async def _commit(book: PartitionBook, view: PartitionView, position: Position | None) -> Position:
    change = view_change(book.head, book.take_changes(), is_behind=True)
    await view.commit(position, change)
    book.identities.clear()
    if len(book.accounts) > ACCOUNTS_KEPT_MAX:
        book.accounts.clear()
    return change.position
