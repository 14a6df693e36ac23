"""The invariants of one partition at every moment.

They are checked incrementally: each record of the ledger is read once, as it is appended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from math import inf
from typing import NamedTuple

from msgspec.structs import replace

from usageledger.audit.replay import Difference, PartitionReplay, ReadInput, ReadSkips
from usageledger.counters.view import Position, ViewChange
from usageledger.domain.account import AccountState
from usageledger.domain.encoding import decode_head
from usageledger.domain.entry import LedgerEntry, PlanChange
from usageledger.domain.evolve import evolve
from usageledger.domain.head import Head
from usageledger.domain.identity import IDENTITY_LIFE
from usageledger.domain.renewal import state_at
from usageledger.ledger.limit_address import LimitAddress, NotALimitEvent, read_limit_event
from usageledger.ledger.limit_events import LimitMessage, limit_events
from usageledger.ledger.partition_book import Changes, group_key
from usageledger.ledger.records import Record
from usageledger.processor.catch_up import view_change

CREDIT = 1_000_000
FREE_ONCE = 200 * CREDIT
ALLOTMENTS = {"pro": 200, "max": 500, "scale": 1_400, "scale_2x": 2_800, "scale_4x": 5_600}


class Broken(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant


class Group(NamedTuple):
    """The entries of one input, or of one account that was due.

    It has their changes to a view and the head after them.
    """

    first: int
    head: Head
    changes: Changes


class PartitionOracle:
    """Sees each record that is appended to a partition of the ledger and of the limit events, and
    each commit of its view.
    """

    def __init__(
        self,
        partition: int,
        partition_count: int,
        read_input: ReadInput,
        undecided_before: Callable[[datetime], bool],
        read_skips: ReadSkips,
    ) -> None:
        self.partition = partition
        self.replay = PartitionReplay(partition, partition_count, read_input, read_skips)
        self.limits = LimitsReader()
        self.ignored = 0
        """Entries at another offset than they name. For every reader they do not exist."""
        self._undecided_before = undecided_before
        self._groups: list[Group] = []
        self._groups_up_to = {"": 0}
        self._lives: dict[str, _Life] = {}

    @property
    def last_hash(self) -> str:
        """The hash of the last valid entry."""
        return self.replay.book.head.hash

    def unannounced_ends(self) -> list[int]:
        """The offsets after whole groups that were not announced yet.

        A log that has lost its last batches may end at any of them.
        """
        seen = self.limits.seen
        return [
            group.head.next_offset
            for group in self._groups
            if seen is None or group.head.next_offset > seen.offset
        ]

    def ledger_appended(self, records: Sequence[Record]) -> None:
        """Decide the appended records again and fold them.

        Check that nothing is charged twice and that no credits are free.
        """
        claims, entries, asked_for = len(self.replay.claims), 0, None
        try:
            for sealed in self.replay.verified_entries(records):
                entry, entries = sealed.entry, entries + 1
                if group_key(sealed) != asked_for:
                    asked_for = group_key(sealed)
                    self._begin_group(entry)
                self.limits.expect(limit_events(entry))
                if entry.account and entry.kind not in ("refusal", "duplicate"):
                    self._lives.setdefault(entry.account, _Life()).fold(entry)
                if entry.input is None and self._undecided_before(entry.appended_at):
                    raise Broken(
                        "what is due comes after what was appended before it",
                        f"{entry.kind} of {entry.account}",
                    )
        except Difference as difference:
            raise Broken("the audit decides the same", str(difference)) from difference
        self.ignored += len(records) - entries - (len(self.replay.claims) - claims)
        if entries:
            self._check_fold()

    def view_commits(
        self, position_before: Position | None, due_ms: Mapping[str, int], change: ViewChange
    ) -> None:
        """Check that a commit moves the view from one fold of the valid ledger to a later one."""
        start = 0 if position_before is None else self._groups_up_to.get(position_before.hash)
        stop = self._groups_up_to.get(change.position.hash)
        if start is None or stop is None or stop < start:
            raise Broken(
                "the view is a prefix of the ledger",
                f"it moves from {position_before} to {change.position}",
            )
        begins = self._groups[stop - 1].head.next_offset if stop else 0
        ends = self._groups[stop].first if stop < len(self._groups) else inf
        if not begins <= change.position.next_offset <= ends:
            raise Broken(
                "the view is a prefix of the ledger",
                f"{change.position} is not between {begins} and {ends}",
            )
        head = decode_head(change.head)
        expected = self._fold_between(start, stop, head)
        pairs = {
            name: (getattr(change, name), getattr(expected, name))
            for name in ("accounts", "identities", "drop_windows_before")
        }
        pairs["settled_holds"] = set(change.settled_holds), set(expected.settled_holds)
        pairs["head"] = head, decode_head(expected.head)
        # A fold notes a date after each entry, a decision only after the last entry of an input. So
        # a date that is there already may be written again.
        pairs["due_ms"] = _due_dates_after(due_ms, change), _due_dates_after(due_ms, expected)
        for name, (there, wanted) in pairs.items():
            if there != wanted:
                raise Broken(
                    "the view is the fold up to its head",
                    f"{name} of {change.position}: {_difference(there, wanted)}",
                )

    def check_nobody_is_blocked_after_the_period(self, now: datetime) -> None:
        """On a live ledger at rest, an account that is blocked in the ledger is blocked now."""
        book = self.replay.book
        for account, state in book.accounts.items():
            if (
                state is not None
                and state.is_blocked
                and not state_at(state, account, now, book.catalogs).is_blocked
            ):
                raise Broken(
                    "nobody stays blocked after the period has ended", f"{account} at {now}"
                )

    def _begin_group(self, entry: LedgerEntry) -> None:
        """Note a group. The replay decides all of it before it yields the first of its entries."""
        book = self.replay.book
        self._groups.append(Group(entry.offset, book.head, book.take_changes()))
        self._groups_up_to[book.head.hash] = len(self._groups)

    def _fold_between(self, start: int, stop: int, committed: Head) -> ViewChange:
        changes = Changes({}, {}, {}, {})
        for group in self._groups[start:stop]:
            changes.accounts.update(group.changes.accounts)
            changes.identities.update(group.changes.identities)
            changes.due.update(group.changes.due)
            changes.settled_holds.update(group.changes.settled_holds)
        head = self._groups[stop - 1].head if stop else Head(ledger="")
        ledger = self.replay.claims[0].ledger
        rules = {
            "ledger": ledger,
            "next_offset": committed.next_offset,
            "decide": committed.decide,
            "tzdata": committed.tzdata,
        }
        return view_change(replace(head, **rules), changes)

    def _check_fold(self) -> None:
        for account in self._groups[-1].changes.accounts:
            if self._lives[account].state != self.replay.book.accounts[account]:
                raise Broken(
                    "the fold of the ledger is the state",
                    f"{account} after offset {self._groups[-1].first}",
                )


class _Life:
    """The facts about one account that follow from its entries alone."""

    def __init__(self) -> None:
        self.state: AccountState | None = None
        self._counted_at: dict[tuple[str, str, str], datetime] = {}
        self._credits_of: dict[int, int] = {}
        self._free_had = FREE_ONCE
        self._used: dict[int, int] = {}
        self._free_periods: dict[int, int] = {}

    def fold(self, entry: LedgerEntry) -> None:
        """Fold one entry."""
        self._check_identity(entry)
        self._check_credits(entry)
        if entry.plan_change is not None:
            self._check_paid(entry, entry.plan_change)
        self.state = evolve(self.state, entry)
        after = entry.after
        if after is not None and after.remaining != after.allotment + after.granted - after.used:
            raise Broken(
                "remaining = allotment + granted - used", f"{entry.kind} at {entry.offset}"
            )

    def _check_identity(self, entry: LedgerEntry) -> None:
        event = entry.event
        if event is None or event.content is None or entry.input is None:
            return
        identity = (entry.input.topic, event.source, event.id)
        before = self._counted_at.get(identity)
        if before is not None and entry.appended_at - before <= IDENTITY_LIFE:
            raise Broken(
                "no identity counts twice",
                f"{event.id} of {entry.account} at offset {entry.offset}",
            )
        self._counted_at[identity] = entry.appended_at

    def _check_credits(self, entry: LedgerEntry) -> None:
        if entry.kind == "usage":
            self._credits_of[entry.offset] = entry.credits
        voided = None if entry.voids is None else entry.voids.entry_offset
        if voided is not None and self._credits_of.pop(voided, None) != -entry.credits:
            raise Broken(
                "a use is voided once, for what it cost",
                f"{entry.account} at offset {entry.offset}",
            )
        if entry.period is not None:
            self._used[entry.period.number] = self._used.get(entry.period.number, 0) + entry.credits

    def _check_paid(self, entry: LedgerEntry, change: PlanChange) -> None:
        """A cycle begins when the last one has ended, or when an account leaves Free.

        It brings the allotment of its plan. Free's credits are given once.
        """
        opens = change.opens
        if change.allotment is not None and change.allotment != ALLOTMENTS[change.plan] * CREDIT:
            self._raise_unpaid(entry)
        if opens is None:
            return
        self._used[opens.number] = opens.used
        if self.state is None:
            self._free_had = FREE_ONCE if opens.is_free else change.free_left or 0
        elif not opens.is_free:
            ended = self.state.period
            is_due = entry.kind == "renewal" and opens.start == ended.end
            if opens.allotment != ALLOTMENTS[change.plan] * CREDIT or not (is_due or ended.is_free):
                self._raise_unpaid(entry)
        if opens.is_free:
            taken = sum(
                min(allotment, max(0, self._used[number]))
                for number, allotment in self._free_periods.items()
            )
            if opens.allotment > self._free_had - taken:
                self._raise_unpaid(entry)
            self._free_periods[opens.number] = opens.allotment

    def _raise_unpaid(self, entry: LedgerEntry) -> None:
        raise Broken(
            "nobody has more credits than were paid for",
            f"{entry.kind} of {entry.account} at offset {entry.offset}",
        )


class LimitsReader:
    """An app that reads one partition of the limit events and drops repeats."""

    def __init__(self) -> None:
        self.expected: list[LimitMessage] = []
        self.announced = 0
        self.repeats = 0
        self._index: dict[LimitAddress, int] = {}
        self.seen: LimitAddress | None = None
        self._blocked: dict[str, bool] = {}

    def expect(self, messages: Sequence[LimitMessage]) -> None:
        """Expect these to be announced next, because their entry is in the ledger."""
        for message in messages:
            self._index[message.address] = len(self.expected)
            self.expected.append(message)

    def read(self, value: bytes) -> None:
        """Read a value that was appended."""
        try:
            event, place = read_limit_event(value)
        except NotALimitEvent as error:
            raise Broken("limit events can be read", str(error)) from error
        index = self._index.get(place)
        if index is None or value != self.expected[index].value:
            raise Broken("a limit event is what its entry says, and comes after it", f"{place.id}")
        if not place.is_beyond(self.seen):
            self.repeats += 1
            return
        if index != self.announced:
            due = self.expected[self.announced].address.id
            raise Broken(
                "each crossing is announced once, in order", f"{place.id} comes where {due} was due"
            )
        self.announced, self.seen = index + 1, place
        if event["type"] != "limit.threshold":
            is_blocked = event["type"] == "limit.reached"
            if self._blocked.get(event["subject"], False) == is_blocked:
                raise Broken("reached and cleared alternate", f"{place.id}")
            self._blocked[event["subject"]] = is_blocked


def _due_dates_after(due_ms: Mapping[str, int], change: ViewChange) -> Mapping[str, int]:
    return {account: ms for account, ms in {**due_ms, **change.due_ms}.items() if ms is not None}


def _difference(there: object, wanted: object) -> str:
    if not (isinstance(there, Mapping) and isinstance(wanted, Mapping)):
        return f"{there} is not {wanted}"
    keys = [
        key
        for key in sorted({*there, *wanted}, key=str)
        if there.get(key, "-") != wanted.get(key, "-")
    ]
    return "; ".join(
        f"{key!r} is {there.get(key, 'not there')!r}, not {wanted.get(key, 'there')!r}"
        for key in keys[:3]
    )
