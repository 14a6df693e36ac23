"""Catching up: the ledger is folded into a claimed partition's view, up to the claim.

Only then is anything decided.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

from msgspec import MsgspecError
from msgspec.structs import replace

from usageledger.counters.view import PartitionView, Position, StoredHead, ViewChange, ViewError
from usageledger.domain.chain import SealedEntry
from usageledger.domain.claim import knows_rules_of
from usageledger.domain.encoding import decode_account, decode_head, decode_identity, encode
from usageledger.domain.head import Head
from usageledger.domain.identity import window_of
from usageledger.domain.record_skip import SkippedPlace, places_skipped
from usageledger.ledger.adoption import adopted_catalogs
from usageledger.ledger.partition_book import (
    Changes,
    PartitionBook,
    Undecidable,
    group_key,
    needed_to_fold,
)
from usageledger.ledger.reader_rule import (
    NO_SKIPS,
    HeadSearch,
    RecordStops,
    check_rules,
    kind_of_record,
    next_entry,
)
from usageledger.ledger.records import LedgerPartition, Record, Superseded
from usageledger.ledger.timestamps import milliseconds, time_of
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.owner_settings import DEFAULT_SETTINGS, OwnerSettings

log = logging.getLogger(__name__)


class PartitionStopped(Exception):
    """This partition must not go on until an operator has looked at it; the others go on.

    The message says why and what to do.
    """


async def catch_up(
    book: PartitionBook,
    *,
    ledger: LedgerPartition,
    view: PartitionView,
    catalogs: CatalogLog,
    claimed_at: int,
    settings: OwnerSettings = DEFAULT_SETTINGS,
) -> Position:
    """Fold the ledger into the view up to the claim at ``claimed_at``; return the view's position.

    ``book.head`` comes with the ledger's id and this worker's rules; afterwards ``book`` is ready
    to decide. If the view has counted entries that the log has lost, another view is built beside
    it. Readers see the old one until then. Raises PartitionStopped, LedgerError,
    ViewError.
    """
    fold = _ViewFold(book, ledger, view, catalogs, settings)
    stored = await fold.head_of_this_ledger(claimed_at)
    if stored is None or await fold.has_ledger_all_of(stored):
        return await fold.run(stored, claimed_at)
    log.error(
        "the ledger of partition %d lost records that its view had counted: rebuilding the view",
        book.partition,
    )
    return await build_anew(
        book, ledger=ledger, view=view, catalogs=catalogs, claimed_at=claimed_at, settings=settings
    )


async def build_anew(
    book: PartitionBook,
    *,
    ledger: LedgerPartition,
    view: PartitionView,
    catalogs: CatalogLog,
    claimed_at: int,
    settings: OwnerSettings = DEFAULT_SETTINGS,
) -> Position:
    """As `catch_up`, whatever the view holds: a view beside it is built and replaces it."""
    position = await fold_beside(
        book, ledger=ledger, view=view, catalogs=catalogs, until=claimed_at, settings=settings
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
    settings: OwnerSettings = DEFAULT_SETTINGS,
) -> Position:
    """Build the view beside up to the record at ``until``, going on from an earlier attempt.

    An earlier attempt that does not fit this ledger is cleared first, which is logged. ``until``
    must not be between two records of one batch.
    """
    stored = await attempt_to_go_on_with(
        book, ledger=ledger, view=view, until=until, settings=settings
    )
    fold = _ViewFold(book, ledger, view.beside(), catalogs, settings)
    return await fold.run(stored, until)


async def attempt_to_go_on_with(
    book: PartitionBook,
    *,
    ledger: LedgerPartition,
    view: PartitionView,
    until: int,
    settings: OwnerSettings = DEFAULT_SETTINGS,
) -> StoredHead | None:
    """The head of the view beside, if that is a fold of this ledger; otherwise it is cleared."""
    fold = _ViewFold(book, ledger, view.beside(), CatalogLog(), settings)
    try:
        stored = await fold.head_of_this_ledger(until)
        if stored is None or await fold.has_ledger_all_of(stored):
            return stored
    except (PartitionStopped, ViewError) as error:
        if isinstance(error, ViewError) and error.retriable:
            raise
    log.warning(
        "partition %d: a rebuild that was cut short does not fit this ledger any more; beginning "
        "again",
        book.partition,
    )
    await view.beside().clear()
    return None


async def head_of(view: PartitionView) -> Head | None:
    """A view's head; None where it has none that this code can read.

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
    """Fetch accounts and identities into the book.

    Raises HeadMoved if the view is at another position; ViewError, PartitionStopped.
    """
    if not accounts and not identities:
        return
    if position is None:
        # An empty view has nothing. The commit finds out whether it still is empty.
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
            # An identity may be found in several windows; its latest record counts.
            if found is not None and (
                known is None or found.first_appended_at > known.first_appended_at
            ):
                book.identities[identity] = found
    except MsgspecError as error:
        raise _unreadable(book, error) from error


def view_change(head: Head, changes: Changes, *, is_behind: bool = False) -> ViewChange:
    """The change that a commit writes: the head, and whatever decisions or entries have changed.

    ``is_behind``: the ledger goes on after it. The view then says that it is as of its last entry's
    time, so that nobody mistakes last month's figures for today's.
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


class _ViewFold:
    """Folds one ledger partition into one view: the one that readers see, or the one beside it."""

    def __init__(
        self,
        book: PartitionBook,
        ledger: LedgerPartition,
        view: PartitionView,
        catalogs: CatalogLog,
        settings: OwnerSettings,
    ) -> None:
        self._book = book
        self._ledger = ledger
        self._view = view
        self._catalogs = catalogs
        self._settings = settings
        self._position: Position | None = None
        self._read_hash = ""
        """The hash of the last entry that was read, folded or not."""
        self._skipped: frozenset[SkippedPlace] | None = None
        """The records that operators have skipped; None until one of them is in the way."""

    async def run(self, stored: StoredHead | None, until: int) -> Position:
        """Fold from the ``stored`` head up to the record at ``until``; return the position."""
        book = self._book
        await self._begin(stored)
        self._read_hash = book.head.hash
        unfolded: list[SealedEntry] = []
        async for records in self._ledger.read(book.head.next_offset, until + 1):
            unfolded += await self._entries_in(records, until)
            next_offset = records[-1].offset + 1
            # More entries of the last entry's input may follow. The view never ends between two of
            # them.
            whole = len(unfolded) if next_offset > until else last_group_start(unfolded)
            await self._fold(unfolded[:whole])
            unfolded = unfolded[whole:]
            book.head = replace(
                book.head, next_offset=unfolded[0].entry.offset if unfolded else next_offset
            )
            committed = 0 if self._position is None else self._position.next_offset
            if book.head.next_offset - committed >= self._settings.records_per_commit:
                await self._commit()
        book.head = replace(book.head, next_offset=until + 1)
        if self._position is None or self._position.next_offset < until + 1:
            await self._commit()
        book.accounts.clear()
        assert self._position is not None
        return self._position

    async def head_of_this_ledger(self, claimed_at: int) -> StoredHead | None:
        """The view's head; None if it has none.

        Raises PartitionStopped where the view is another ledger's or not ours to read, Superseded.
        """
        book = self._book
        stored = await self._view.head()
        if stored is None:
            return None
        try:
            head = decode_head(stored.value)
        except MsgspecError as error:
            raise _unreadable(book, error) from error
        if head.ledger != book.head.ledger:
            raise PartitionStopped(
                f"the Redis view of partition {book.partition} belongs to another ledger "
                f"({head.ledger}, not {book.head.ledger}): give this ledger a Redis or a prefix of "
                "its own; or, if its topic was made anew, restore the topic"
            )
        if not knows_rules_of(head):
            raise PartitionStopped(
                f"the Redis view of partition {book.partition} was decided by newer rules "
                f"({head.decide}, tzdata {head.tzdata}): upgrade this worker"
            )
        if head.next_offset > claimed_at + 1 and (
            head.next_offset <= await self._ledger.end_offset()
        ):
            raise Superseded(
                f"the view of partition {book.partition} is at {head.next_offset}, beyond the "
                f"claim at {claimed_at}"
            )
        return stored

    async def has_ledger_all_of(self, stored: StoredHead) -> bool:
        """Whether the log has all that the view has counted.

        The last entry before the view's position must be the one that it folded last. The log's
        length says too little: claims may have the offsets of lost entries.
        """
        stop, hash_ = stored.position
        if stop > await self._ledger.end_offset():
            return False
        count, search = self._settings.look_back_records, HeadSearch(hash_)
        while stop > 0 and not search.is_over:
            start = max(0, stop - count)
            async for records in self._ledger.read(start, stop):
                search.see(records)
            stop, count = start, 10 * count  # an idle partition gathers claims
        return search.is_last

    async def _begin(self, stored: StoredHead | None) -> None:
        """Load the view's head, adopted catalogs and due accounts into the book."""
        book, catalogs = self._book, self._catalogs
        if stored is not None:
            book.head = replace(
                decode_head(stored.value), decide=book.head.decide, tzdata=book.head.tzdata
            )
        start = await self._ledger.start_offset()
        if start > book.head.next_offset:
            raise PartitionStopped(
                f"partition {book.partition} of the ledger begins at offset {start}, but the view "
                f"needs it from {book.head.next_offset}: the topic was truncated; restore it, for "
                "entries are missing"
            )
        if not await catalogs.holds(book.head.catalog_next, self._settings.catalog_wait_s):
            raise PartitionStopped(
                "the catalog topic does not hold the records before offset "
                f"{book.head.catalog_next}, which partition {book.partition} adopted: it was "
                "truncated or made anew; restore it, then start the processor again"
            )
        book.catalogs = adopted_catalogs(catalogs.before(book.head.catalog_next))
        if stored is None:
            return
        # Loaded before anything is folded. A fold reports that an account is no longer due only
        # if the book knows that it was.
        for account, due_ms in (await self._view.due(stored.position)).items():
            book.due.set(account, time_of(due_ms))
        book.due.take_changed()
        self._position = stored.position

    async def _entries_in(self, records: Sequence[Record], until: int) -> list[SealedEntry]:
        """The entries among records. Raises PartitionStopped at one that stops every reader."""
        entries: list[SealedEntry] = []
        for record in records:
            try:
                sealed = self._entry_of(record)
            except RecordStops as stop:
                if self._skipped is None:
                    self._skipped = await self._skips_after(record.offset, until)
                try:
                    sealed = self._entry_of(record)
                except RecordStops:
                    raise PartitionStopped(str(stop)) from None
            if sealed is not None:
                entries.append(sealed)
                self._read_hash = sealed.hash
        return entries

    def _entry_of(self, record: Record) -> SealedEntry | None:
        partition, skipped = self._book.partition, self._skipped or NO_SKIPS
        sealed = next_entry(record, partition, self._read_hash, skipped)
        if sealed is None:
            check_rules(record, partition, skipped)
            if kind_of_record(record) == "invalid":
                log.error(
                    "ledger record %d@%d is neither an entry nor a claim, and decides nothing: "
                    "find out who may write to that topic, see `usageledger audit verify`",
                    partition,
                    record.offset,
                )
        return sealed

    async def _skips_after(self, offset: int, until: int) -> frozenset[SkippedPlace]:
        found: frozenset[SkippedPlace] = frozenset()
        async for records in self._ledger.read(offset + 1, until + 1):
            found |= places_skipped(record.value for record in records)
        return found

    async def _fold(self, entries: Sequence[SealedEntry]) -> None:
        book = self._book
        accounts, identities = needed_to_fold(entries)
        await provide(
            book,
            self._view,
            self._position,
            [account for account in accounts if account not in book.accounts],
            [pair for pair in identities if pair[1] not in book.identities],
        )
        begin = 0
        for index, sealed in enumerate(entries):
            address = sealed.entry.input
            if address is not None and address.topic == "catalog":
                # The entries before it were decided without it.
                _fold_run(book, entries[begin:index])
                await self._adopt(address.offset)
                begin = index
        _fold_run(book, entries[begin:])

    async def _adopt(self, offset: int) -> None:
        if not await self._catalogs.holds(offset + 1, self._settings.catalog_wait_s):
            raise PartitionStopped(
                f"the catalog topic no longer holds offset {offset}, which the ledger adopted: "
                "restore it, then start the processor again"
            )
        record = self._catalogs.at_or_after(offset)
        if record is not None:
            self._book.catalogs = adopted_catalogs([record], self._book.catalogs)

    async def _commit(self) -> None:
        change = view_change(self._book.head, self._book.take_changes(), is_behind=True)
        await self._view.commit(self._position, change)
        self._book.identities.clear()
        if len(self._book.accounts) > self._settings.accounts_kept_max:
            self._book.accounts.clear()
        self._position = change.position


def _unreadable(book: PartitionBook, error: MsgspecError) -> PartitionStopped:
    return PartitionStopped(
        f"the Redis view of partition {book.partition} holds data that this worker cannot read "
        f"({error}): upgrade the worker;"
        f" or, if the view is damaged: usageledger rebuild --partition {book.partition}"
    )


def last_group_start(entries: Sequence[SealedEntry]) -> int:
    """The index at which the last group begins: the last entries that were decided together."""
    index = len(entries)
    while index > 0 and group_key(entries[index - 1]) == group_key(entries[-1]):
        index -= 1
    return index


def _fold_run(book: PartitionBook, entries: Sequence[SealedEntry]) -> None:
    try:
        book.fold(entries)
    except Undecidable as error:
        raise PartitionStopped(f"the code fails on {error}") from error
