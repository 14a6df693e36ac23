"""Ways to break the code under simulation: each removes one thing that exactness depends on.

Some invariant must then break. A check that cannot fail proves nothing. A schedule that never
reaches the place where a rule matters proves nothing about that rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import pytest

from tests.simulation import limits as limits_module
from tests.simulation.ports import LedgerHandle
from tests.simulation.servers import SimulatedView
from usageledger.counters.memory import MemoryView
from usageledger.domain.chain import NotAnEntry, SealedEntry, entry_at, unseal
from usageledger.ledger import due_list, partition_book
from usageledger.ledger.limit_address import LimitAddress
from usageledger.ledger.reader_rule import next_entry
from usageledger.ledger.records import LedgerError, Record
from usageledger.limits import announcer
from usageledger.processor import catch_up, feed, owner, patient_view
from usageledger.processor.inputs import InputBuffer, Source
from usageledger.processor.merge import Merge, NextDue


class Breakage(NamedTuple):
    """``breaks``: the invariants of which one must break. ``first_seed``: the seed to try first."""

    apply: Callable[[pytest.MonkeyPatch], None]
    breaks: frozenset[str]
    first_seed: int = 1


PREFIX = "the view is a prefix of the ledger"
FOLD = "the view is the fold up to its head"
AUDIT = "the audit decides the same"
STOPS = "no partition stops"
SETTLES = "everything settles"
ONCE = "no identity counts twice"
ANNOUNCED = "each crossing is announced once, in order"
DUE = "what is due comes after what was appended before it"
FAILS = "the code fails on nothing"
LOOPS = "nobody claims in a loop"


def appends_without_looking_where_they_lie(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LedgerHandle, "check_offsets", lambda *_: None)


def entries_are_valid_wherever_they_lie(patch: pytest.MonkeyPatch) -> None:
    def wherever(record: Record, partition: int, hash_: str, skipped: Any) -> SealedEntry | None:
        sealed = _entry_of(record)
        if sealed is not None and sealed.entry.previous_hash == hash_:
            return sealed
        return next_entry(record, partition, hash_, skipped)

    patch.setattr(catch_up, "next_entry", wherever)


def _entry_of(record: Record) -> SealedEntry | None:
    try:
        return unseal(record.value or b"")
    except NotAnEntry:
        return None


def looks_up_without_the_head(patch: pytest.MonkeyPatch) -> None:
    fetch = MemoryView.fetch

    async def unchecked(view: MemoryView, expected: Any, accounts: Any, identities: Any) -> Any:
        there = view.stored_head.position if view.stored_head is not None else None
        return await fetch(view, there, accounts, identities)

    patch.setattr(SimulatedView, "fetch", unchecked, raising=False)


def commits_without_comparing_the_head(patch: pytest.MonkeyPatch) -> None:
    commit = SimulatedView.commit

    async def unchecked(view: SimulatedView, expected: Any, change: Any) -> None:
        await commit(view, view.position, change)

    patch.setattr(SimulatedView, "commit", unchecked)


def commits_before_it_appends(patch: pytest.MonkeyPatch) -> None:
    async def append_all(ownership: Any) -> None:
        while True:
            batch = await ownership._in_flight.get()
            async with ownership._view_calls:
                await ownership._view.commit(ownership._position, batch.change)
                ownership._position = batch.change.position
            await ownership._ledger.append(
                batch.expected_offset,
                [[owner._keyed_value(entry) for entry in group] for group in batch.groups],
            )
            ownership._forget(batch)
            for source, next_offset in batch.decided.items():
                ownership._inputs.control.acknowledge(source, next_offset)
            ownership._in_flight.task_done()

    patch.setattr(owner._Ownership, "_append_all", append_all)


def commits_what_was_not_appended(patch: pytest.MonkeyPatch) -> None:
    append = LedgerHandle.append

    async def careless(handle: LedgerHandle, expected_offset: int, groups: Any) -> None:
        link = handle._link
        try:
            await append(handle, expected_offset, groups)
        except LedgerError:
            handle._link = link

    patch.setattr(LedgerHandle, "append", careless)


def forgets_batches_before_they_are_committed(patch: pytest.MonkeyPatch) -> None:
    decide = owner._Ownership._decide

    async def forgetful(ownership: Any, batch: Any, step: Any) -> None:
        await decide(ownership, batch, step)
        ownership._book.accounts.clear()
        ownership._book.identities.clear()

    patch.setattr(owner._Ownership, "_decide", forgetful)


def claims_again_when_the_store_refuses(patch: pytest.MonkeyPatch) -> None:
    async def impatient(_: Any, call: Any) -> Any:
        return await call()

    patch.setattr(patient_view.PatientView, "_until_answered", impatient)


def never_verifies(patch: pytest.MonkeyPatch) -> None:
    async def sleep(_: Any) -> None:
        await asyncio.sleep(1e9)

    patch.setattr(owner._Ownership, "_verify_when_idle", sleep)


def acts_on_whoever_was_due(patch: pytest.MonkeyPatch) -> None:
    """It trusts the list that it asked for, and does not check whether an account is still due."""
    act_on_due = owner._Ownership._act_on_due

    def act(ownership: Any, batch: Any, until: datetime, groups_max: int | None = None) -> None:
        if groups_max is None:
            return act_on_due(ownership, batch, until)
        for account in list(ownership._book.accounts):
            if ownership._book.accounts[account] is not None:
                batch.groups.append(ownership._book.decide_due(account, until))

    patch.setattr(owner._Ownership, "_act_on_due", act)


def acts_on_what_is_due_with_inputs_still_to_come(patch: pytest.MonkeyPatch) -> None:
    async def due_by_wall_clock(merge: Any, due: Any) -> NextDue | None:
        if due is None or merge._is_importing() or due[0] > merge._now():
            return None
        return NextDue(merge._now())

    patch.setattr(Merge, "_due_by_wall_clock", due_by_wall_clock)


def never_acts_on_what_is_due_without_an_input(patch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> None:
        return None

    patch.setattr(Merge, "_due_by_wall_clock", nothing)


def knows_nothing_of_what_was_due_when_it_catches_up(patch: pytest.MonkeyPatch) -> None:
    """The due list is read after the fold, so dates that the fold has ended stay in it."""
    begin = catch_up._ViewFold._begin

    async def forgetful(fold: Any, *rest: Any) -> None:
        await begin(fold, *rest)
        fold._book.due = due_list.DueList()

    patch.setattr(catch_up._ViewFold, "_begin", forgetful)


def leaves_the_view_between_two_entries_of_an_input(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(catch_up, "last_group_start", len)


def settles_no_holds_when_it_catches_up(patch: pytest.MonkeyPatch) -> None:
    """The holds of entries that were appended and not committed would stay beside the charge.

    They would stay until they expire.
    """
    fold = partition_book.PartitionBook.fold

    def forgetful(book: Any, entries: Any) -> None:
        before = dict(book._settled_holds)
        fold(book, entries)
        book._settled_holds = before

    patch.setattr(partition_book.PartitionBook, "fold", forgetful)


def looks_identities_up_in_their_window_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        MemoryView,
        "_find",
        lambda view, window, identity: view.identities.get(window, {}).get(identity),
    )


def overlooks_gaps_in_what_it_is_fed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(owner.PartitionOwner, "note_gaps", lambda *_: None)


def accepts_fetches_in_any_order(patch: pytest.MonkeyPatch) -> None:
    def accept(self: Any, fetch: Any, inputs: InputBuffer, ack: Any) -> None:
        if not self._is_closed and fetch.epoch == self._epoch:
            source = self._source_of(fetch.topic_partition)
            self._fed[source] = fetch.records[-1].offset + 1
            inputs.put(source, fetch.records)

    patch.setattr(feed.PartitionFeed, "accept", accept)
    patch.setattr(owner.PartitionOwner, "note_gaps", lambda *_: None)


def accepts_fetches_of_an_earlier_seek(patch: pytest.MonkeyPatch) -> None:
    accept = feed.PartitionFeed.accept

    def any_epoch(self: Any, fetch: Any, inputs: InputBuffer, ack: Any) -> None:
        source = self._source_of(fetch.topic_partition)
        accept(
            self, fetch._replace(epoch=self._epoch, serial=self._serials[source] + 1), inputs, ack
        )

    patch.setattr(feed.PartitionFeed, "accept", any_epoch)
    patch.setattr(owner.PartitionOwner, "note_gaps", lambda *_: None)


def seeks_from_what_is_buffered(patch: pytest.MonkeyPatch) -> None:
    async def seek(self: InputBuffer, positions: dict[Source, int]) -> None:
        self._next.update(positions)
        await self.control.seek(positions)

    patch.setattr(InputBuffer, "seek", seek)


def announces_from_committed_offsets(patch: pytest.MonkeyPatch) -> None:
    """The offsets are committed as records are polled, as consumers do by default."""
    poll = limits_module._Feed.poll

    def committing(self: Any, timeout_ms: int) -> Any:
        polled = poll(self, timeout_ms)
        self.group.committed.update(
            {partition: records[-1].offset + 1 for partition, records in polled.items()}
        )
        return polled

    def resumed(self: Any, partition: int) -> Any:
        start = self._feed.group.committed.get(partition, 0)
        progress = announcer.PartitionProgress(partition, None)
        progress.next_offset = start
        self._feed.seek(partition, start)
        return progress

    patch.setattr(limits_module._Feed, "poll", committing)
    patch.setattr(announcer.Announcer, "_find_progress", resumed)


def goes_on_announcing_after_a_failed_append(patch: pytest.MonkeyPatch) -> None:
    append = limits_module._LimitLog.append

    def careless(self: Any, messages: Any) -> dict[int, Exception]:
        append(self, messages)
        return {}

    patch.setattr(limits_module._LimitLog, "append", careless)


def announces_an_entry_again_from_its_first_crossing(patch: pytest.MonkeyPatch) -> None:
    """It goes on after that entry, however many of its crossings were announced."""
    init = announcer.PartitionProgress.__init__

    def behind(self: Any, partition: int, announced: LimitAddress | None, *rest: Any) -> None:
        init(self, partition, announced, *rest)
        if announced is not None:
            self.next_offset = announced.offset + 1

    patch.setattr(announcer.PartitionProgress, "__init__", behind)


def overlooks_gaps_in_the_ledger(patch: pytest.MonkeyPatch) -> None:
    """Neither the offsets nor the hash chain tell it of a missing record."""
    translate = announcer.PartitionProgress.translate

    def careless(self: Any, records: Sequence[Any]) -> Any:
        if records and records[0].offset > self.next_offset:
            self.next_offset = records[0].offset
        return translate(self, records)

    patch.setattr(announcer.PartitionProgress, "translate", careless)
    patch.setattr(announcer, "next_entry", lambda record, *_: entry_at(record.offset, record.value))


def announces_what_no_reader_sees(patch: pytest.MonkeyPatch) -> None:
    """It announces entries of superseded owners, which are at other offsets than they name."""
    patch.setattr(announcer, "next_entry", lambda record, *_: _entry_of(record))


BREAKAGES = {
    breakage.apply.__name__: breakage
    for breakage in (
        Breakage(appends_without_looking_where_they_lie, frozenset({PREFIX, FOLD}), first_seed=4),
        Breakage(
            entries_are_valid_wherever_they_lie, frozenset({STOPS, PREFIX, FOLD}), first_seed=4
        ),
        Breakage(looks_up_without_the_head, frozenset({FOLD, AUDIT, ONCE}), first_seed=2),
        Breakage(commits_without_comparing_the_head, frozenset({PREFIX, FOLD}), first_seed=5),
        Breakage(commits_before_it_appends, frozenset({PREFIX})),
        Breakage(commits_what_was_not_appended, frozenset({PREFIX, FOLD}), first_seed=4),
        Breakage(forgets_batches_before_they_are_committed, frozenset({AUDIT, FAILS, STOPS, FOLD})),
        Breakage(claims_again_when_the_store_refuses, frozenset({LOOPS})),
        Breakage(never_verifies, frozenset({SETTLES})),
        Breakage(acts_on_whoever_was_due, frozenset({AUDIT, STOPS})),
        Breakage(acts_on_what_is_due_with_inputs_still_to_come, frozenset({DUE}), first_seed=6),
        Breakage(never_acts_on_what_is_due_without_an_input, frozenset({SETTLES})),
        Breakage(
            knows_nothing_of_what_was_due_when_it_catches_up, frozenset({FOLD, AUDIT, SETTLES})
        ),
        Breakage(leaves_the_view_between_two_entries_of_an_input, frozenset({PREFIX})),
        Breakage(settles_no_holds_when_it_catches_up, frozenset({FOLD})),
        Breakage(looks_identities_up_in_their_window_alone, frozenset({AUDIT, ONCE, FOLD})),
        Breakage(overlooks_gaps_in_what_it_is_fed, frozenset({AUDIT}), first_seed=2),
        Breakage(accepts_fetches_in_any_order, frozenset({AUDIT}), first_seed=9),
        Breakage(accepts_fetches_of_an_earlier_seek, frozenset({AUDIT}), first_seed=61),
        Breakage(seeks_from_what_is_buffered, frozenset({AUDIT, SETTLES}), first_seed=3),
        Breakage(announces_from_committed_offsets, frozenset({ANNOUNCED, SETTLES}), first_seed=8),
        Breakage(
            goes_on_announcing_after_a_failed_append,
            frozenset({ANNOUNCED, STOPS, SETTLES}),
            first_seed=100,
        ),
        Breakage(
            announces_an_entry_again_from_its_first_crossing,
            frozenset({ANNOUNCED, SETTLES}),
            first_seed=28,
        ),
        Breakage(overlooks_gaps_in_the_ledger, frozenset({ANNOUNCED, SETTLES}), first_seed=91),
        Breakage(
            announces_what_no_reader_sees,
            frozenset(
                {"a limit event is what its entry says, and comes after it", ANNOUNCED, STOPS}
            ),
            first_seed=19,
        ),
    )
}
