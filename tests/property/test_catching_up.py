"""Catching up makes the same view as deciding.

This is true wherever it begins, for any chunks of the log, and however often it commits.
"""

from __future__ import annotations

import asyncio
from functools import cache
from itertools import pairwise
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.benchmarks.made_up_ledger import CLAIMS, LEDGER_ID, MadeUpLedger, make_ledger
from usageledger.counters.memory import MemoryView
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.chain import entry_at
from usageledger.domain.claim import claim_of
from usageledger.domain.encoding import encode
from usageledger.domain.head import Head
from usageledger.domain.identity import window_of
from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.timestamps import milliseconds
from usageledger.log import memory
from usageledger.log.memory import MemoryLedgerPartition
from usageledger.processor import catch_up as catching_up
from usageledger.processor.owner_settings import DEFAULT_SETTINGS, OwnerSettings

ENTRIES = 600


@cache
def _ledger() -> MadeUpLedger:
    return make_ledger(ENTRIES, accounts=12)


@given(
    records_per_read=st.integers(1, ENTRIES),
    records_per_commit=st.integers(1, ENTRIES),
    accounts_kept=st.integers(0, 12),
    claims=st.sets(st.integers(0, CLAIMS - 1), max_size=3),
)
def test_a_view_that_was_caught_up_is_to_the_byte_what_was_decided(
    records_per_read: int, records_per_commit: int, accounts_kept: int, claims: set[int]
) -> None:
    """It may take several steps: earlier workers may have caught up to some of the claims."""
    made, view = _ledger(), MemoryView()
    settings = OwnerSettings(records_per_commit=records_per_commit, accounts_kept_max=accounts_kept)
    with patch.object(memory, "READ_CHUNK_RECORDS", records_per_read):
        for number in sorted(claims):
            asyncio.run(_catch_up(made, view, made.claims[number], settings))
        book = asyncio.run(_catch_up(made, view, made.claims[-1], settings))
    live = made.book
    assert book.head == replace(live.head, decide=book.head.decide, tzdata=book.head.tzdata)
    assert view.stored_accounts == {
        account: encode(state) for account, state in live.accounts.items() if state is not None
    }
    assert view.due_ms == {account: milliseconds(at) for account, at in live.due.all().items()}
    assert book.due.all() == live.due.all()
    assert [catalog.version for catalog in book.catalogs] == [
        catalog.version for catalog in live.catalogs
    ]
    since = window_of(live.head.clock) - 1
    remembered = {
        key: encode(known)
        for key, known in live.identities.items()
        if known and window_of(known.first_appended_at) >= since
    }
    assert {
        key: blob for window in view.identities.values() for key, blob in window.items()
    } == remembered


@given(st.lists(st.integers(0, ENTRIES), max_size=5))
def test_a_run_of_entries_folds_to_what_they_fold_to_one_by_one(cuts: list[int]) -> None:
    entries = [
        sealed
        for record in _ledger().log.records
        if (sealed := entry_at(record.offset, record.value)) is not None
    ]
    whole, single = (
        PartitionBook(0, 1, Head(ledger=LEDGER_ID), _ledger().book.catalogs) for _ in range(2)
    )
    places = [0, *sorted(cuts), len(entries)]
    for begin, end in pairwise(places):
        whole.fold(entries[begin:end])
    for sealed in entries:
        single.fold([sealed])
    assert (whole.head, whole.accounts, whole.identities) == (
        single.head,
        single.accounts,
        single.identities,
    )
    assert whole.due.all() == single.due.all()
    ours, theirs = whole.take_changes(), single.take_changes()
    assert (ours.accounts, ours.identities, ours.settled_holds) == (
        theirs.accounts,
        theirs.identities,
        theirs.settled_holds,
    )


async def _catch_up(
    made: MadeUpLedger,
    view: MemoryView,
    claimed_at: int,
    settings: OwnerSettings = DEFAULT_SETTINGS,
) -> PartitionBook:
    """Catch a view up to a claim in the log, as if it were the worker's own."""
    claim = claim_of(0, LEDGER_ID, "worker")
    book = PartitionBook(
        0, 1, Head(ledger=LEDGER_ID, decide=claim.decide, tzdata=claim.tzdata), AdoptedCatalogs()
    )
    ledger = MemoryLedgerPartition(made.log)
    await catching_up.catch_up(
        book,
        ledger=ledger,
        view=view,
        catalogs=made.catalogs,
        claimed_at=claimed_at,
        settings=settings,
    )
    return book
