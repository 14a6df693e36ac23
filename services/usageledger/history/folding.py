"""Folding a ledger partition's records into ``history.db``, a batch in each transaction.

The transaction also records how far the partition is folded. An account's state is folded by
`evolve`, as everywhere. All other rows follow from the entries alone: the same entries make the
same rows, in whatever batches they come.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, assert_never

import msgspec
from msgspec.structs import replace

from usageledger.domain.account import AccountState, Period
from usageledger.domain.chain import SealedEntry
from usageledger.domain.cycle import zone
from usageledger.domain.encoding import decode_account, encode
from usageledger.domain.entry import LedgerEntry
from usageledger.domain.evolve import evolve
from usageledger.domain.record_skip import SkippedPlace
from usageledger.history.charges import ChargeKind, charge_kind
from usageledger.history.tables import entry_number_of, microseconds
from usageledger.ledger.reader_rule import NO_SKIPS, next_entry
from usageledger.ledger.records import Record
from usageledger.ledger.refused_input import EventIdentity, event_identity

STATES_KEPT_MAX = 50_000

_MILLIONTHS = 1_000_000
_encoder = msgspec.json.Encoder(decimal_format="string")
_entries = msgspec.json.Decoder(LedgerEntry)


class Position(NamedTuple):
    """How far a partition is folded: up to ``next_offset``, exclusive.

    The last valid entry before it is at ``entry_offset``.
    """

    next_offset: int = 0
    entry_offset: int = -1
    entry_hash: str = ""


class FoldFailed(Exception):
    """The fold cannot continue with these records of a partition, and folded none of them.

    The message says why.
    """


class AnotherLedger(FoldFailed):
    """The history was folded from another log than the one that Kafka holds now."""


class _Use(NamedTuple):
    """Where a use counts in ``daily_use``."""

    account: str
    period: int
    date: str
    feature: str
    model: str


class _Noted(NamedTuple):
    """A period as an entry left it. ``entry_number``: the one that opened it, if new."""

    period: Period
    granted: int
    entry_number: int


@dataclass(slots=True)
class _Account:
    """An account as its last entry left it."""

    state: AccountState
    blocked_since_us: int | None = None
    blocked_reason: str | None = None
    last_used_at_us: int | None = None


@dataclass(slots=True)
class _Batch:
    """The changes that some entries of one partition make."""

    partition: int
    charges: dict[int, tuple[str, int | None, str | None, bytes]] = field(default_factory=dict)
    daily_use: dict[_Use, list[int]] = field(default_factory=dict)
    periods: dict[tuple[str, int], _Noted] = field(default_factory=dict)
    accounts: dict[str, _Account] = field(default_factory=dict)
    refusals: dict[int, LedgerEntry] = field(default_factory=dict)
    unresolved: dict[EventIdentity, list[int]] = field(default_factory=dict)
    resolved: set[int] = field(default_factory=set)
    accepted: dict[EventIdentity, None] = field(default_factory=dict)


class HistoryFold:
    """Writes ``history.db``. Only one thread of one process may use it."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._known: dict[str, _Account] = {}
        self._positions = {
            partition: Position(*rest)
            for partition, *rest in database.execute(
                "SELECT partition, next_offset, entry_offset, entry_hash FROM positions"
            )
        }

    def position(self, partition: int) -> Position:
        """How far the partition is folded."""
        return self._positions.get(partition, Position())

    def add(
        self,
        partition: int,
        records: Sequence[Record],
        skipped: Collection[SkippedPlace] = NO_SKIPS,
    ) -> int:
        """Fold records that begin at the partition's position, and count their valid entries.

        Raises RecordStops, FoldFailed or sqlite3.Error, and then none of the records is folded.
        """
        position = self.position(partition)
        sealed = _valid_entries(position, partition, records, skipped)
        batch = _Batch(partition)
        try:
            for item in sealed:
                self._apply(batch, item.entry)
        except sqlite3.Error:
            raise
        except Exception as error:
            raise FoldFailed(
                f"the entry at offset {item.entry.offset} cannot be folded: "
                f"{type(error).__name__}: {error}"
            ) from error
        last = sealed[-1] if sealed else None
        moved = Position(
            records[-1].offset + 1, *((last.entry.offset, last.hash) if last else position[1:])
        )
        self._write(batch, moved, None if last is None else last.entry.appended_at)
        self._positions[partition] = moved
        self._remember(batch.accounts)
        return len(sealed)

    def _apply(self, batch: _Batch, entry: LedgerEntry) -> None:
        _note_refusal(batch, entry)
        if not entry.changes_its_account:
            return
        account = batch.accounts.get(entry.account) or self._account(entry.account)
        state = evolve(None if account is None else account.state, entry)
        if state is None:
            return
        if account is None:
            account = _Account(state)
        account.state = state
        batch.accounts[entry.account] = account
        _note_limits(account, entry)
        _note_periods(batch, entry, state)
        kind = charge_kind(entry.kind)
        if kind is None:
            return
        date = self._count(batch, kind, entry, account)
        entry_number = entry_number_of(batch.partition, entry.offset)
        number = None if entry.period is None else entry.period.number
        batch.charges[entry_number] = (
            entry.account,
            number,
            date,
            _encoder.encode(_charge_of(entry)),
        )

    def _count(
        self, batch: _Batch, kind: ChargeKind, entry: LedgerEntry, account: _Account
    ) -> str | None:
        """Count a use, or a void of one, in the day of the use. Return the day if it is a use."""
        match kind:
            case "usage":
                assert entry.event is not None, "a use is an event"
                occurred_at = min(entry.event.occurred_at, entry.appended_at)
                account.last_used_at_us = max(
                    account.last_used_at_us or 0, microseconds(occurred_at)
                )
                date = local_date(occurred_at, account.state.time_zone)
                if not entry.is_void_on_arrival:
                    _add(batch, entry, date, sign=1)
                return date
            case "void":
                assert entry.voids is not None, "a void names a use"
                if entry.voids.entry_offset is not None:
                    usage, date = self._charge_at(batch, entry.voids.entry_offset)
                    _add(batch, usage, date, sign=-1)
                return None
            case (
                "grant"
                | "grant_expired"
                | "renewal"
                | "plan_change"
                | "account_opened"
                | "suspension"
                | "resumption"
            ):
                return None
            case _:
                assert_never(kind)

    def _charge_at(self, batch: _Batch, offset: int) -> tuple[LedgerEntry, str]:
        """The use at an offset of the partition, and the day that it counts in."""
        entry_number = entry_number_of(batch.partition, offset)
        row = batch.charges.get(entry_number)
        if row is not None:
            date, entry = row[2], row[3]
        else:
            date, entry = self._database.execute(
                "SELECT date, entry FROM charges WHERE entry_number = ?", (entry_number,)
            ).fetchone()
        assert date is not None, "a void names the entry of a use"
        return _entries.decode(entry), date

    def _account(self, account: str) -> _Account | None:
        """The account before this batch."""
        known = self._known.get(account)
        if known is not None:
            return _Account(
                known.state, known.blocked_since_us, known.blocked_reason, known.last_used_at_us
            )
        row = self._database.execute(
            "SELECT state, blocked_since_us, blocked_reason, last_used_at_us FROM accounts WHERE "
            "account = ?",
            (account,),
        ).fetchone()
        return None if row is None else _Account(decode_account(row[0]), *row[1:])

    def _remember(self, accounts: dict[str, _Account]) -> None:
        if len(self._known) + len(accounts) > STATES_KEPT_MAX:
            self._known.clear()
        self._known.update(accounts)

    def _write(self, batch: _Batch, position: Position, clock: datetime | None) -> None:
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        try:
            database.executemany(
                "INSERT INTO charges VALUES (?, ?, ?, ?, ?)",
                ((entry_number, *row) for entry_number, row in batch.charges.items()),
            )
            database.executemany(
                _ADD_DAILY_USE, ((*use, *sums) for use, sums in batch.daily_use.items())
            )
            database.executemany(
                _WRITE_PERIOD,
                (_period_row(account, noted) for (account, _), noted in batch.periods.items()),
            )
            database.executemany(
                _WRITE_ACCOUNT,
                (_account_row(name, account) for name, account in batch.accounts.items()),
            )
            self._write_refusals(batch)
            database.execute(
                _MOVE, (batch.partition, *position, None if clock is None else microseconds(clock))
            )
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise

    def _write_refusals(self, batch: _Batch) -> None:
        """Write the refusals of the batch, and resolve earlier ones that it accepted.

        A refusal of this batch is already resolved if the batch later accepted the same event.
        """
        (has_unresolved,) = self._database.execute(
            "SELECT EXISTS (SELECT 1 FROM refusals WHERE is_resolved = 0)"
        ).fetchone()
        if has_unresolved:
            self._database.executemany(_RESOLVE, batch.accepted)
        rows = (
            _refusal_row(entry_number, entry, entry_number in batch.resolved)
            for entry_number, entry in batch.refusals.items()
        )
        self._database.executemany(f"INSERT INTO refusals VALUES ({', '.join('?' * 14)})", rows)


_ADD_DAILY_USE = """
INSERT INTO daily_use VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET uses = uses + excluded.uses, units = units + excluded.units,
  millionths = millionths + excluded.millionths, credits = credits + excluded.credits
"""
_WRITE_PERIOD = """
INSERT INTO periods VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET end_us = excluded.end_us, plan = excluded.plan,
  allotment = excluded.allotment, granted = excluded.granted, used = excluded.used,
  by_feature = excluded.by_feature
"""
_WRITE_ACCOUNT = """
INSERT INTO accounts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET state = excluded.state, plan = excluded.plan, used = excluded.used,
  remaining = excluded.remaining, is_blocked = excluded.is_blocked,
  blocked_since_us = excluded.blocked_since_us, blocked_reason = excluded.blocked_reason,
  last_used_at_us = excluded.last_used_at_us
"""
_RESOLVE = (
    "UPDATE refusals SET is_resolved = 1 WHERE is_resolved = 0 AND topic = ? AND account = ? AND "
    "source = ? AND id = ?"
)
_MOVE = """
INSERT INTO positions VALUES (?, ?, ?, ?, coalesce(?, 0))
ON CONFLICT DO UPDATE SET next_offset = excluded.next_offset, entry_offset = excluded.entry_offset,
  entry_hash = excluded.entry_hash, clock_us = max(clock_us, excluded.clock_us)
"""


def local_date(at: datetime, time_zone: str) -> str:
    """The day of a time in that zone: ``2026-11-25``."""
    return (
        at.date().isoformat()
        if time_zone == "UTC"
        else at.astimezone(zone(time_zone)).date().isoformat()
    )


def _valid_entries(
    position: Position,
    partition: int,
    records: Sequence[Record],
    skipped: Collection[SkippedPlace],
) -> list[SealedEntry]:
    """The entries among records that begin at the position. Raises FoldFailed, RecordStops."""
    expected, hash_ = position.next_offset, position.entry_hash
    found: list[SealedEntry] = []
    for record in records:
        if record.offset != expected:
            raise FoldFailed(f"the record at offset {expected} is missing")
        expected += 1
        sealed = next_entry(record, partition, hash_, skipped)
        if sealed is not None:
            hash_ = sealed.hash
            found.append(sealed)
    return found


def _note_refusal(batch: _Batch, entry: LedgerEntry) -> None:
    """Note a refusal, or resolve the refusals of the event that this entry accepts.

    Any later entry of the event resolves them, unless it is another refusal. The rule is that of
    `operations.refusals.refused_inputs`.
    """
    if entry.input is None:
        return
    identity = event_identity(entry)
    if entry.kind == "refusal":
        entry_number = entry_number_of(batch.partition, entry.offset)
        batch.refusals[entry_number] = entry
        if identity is not None:
            batch.unresolved.setdefault(identity, []).append(entry_number)
    elif identity is not None:
        batch.resolved.update(batch.unresolved.pop(identity, ()))
        batch.accepted[identity] = None


def _note_limits(account: _Account, entry: LedgerEntry) -> None:
    for crossing in entry.crossings:
        match crossing.type:
            case "limit.reached":
                account.blocked_since_us = microseconds(entry.appended_at)
                account.blocked_reason = crossing.reason
            case "limit.cleared":
                account.blocked_since_us, account.blocked_reason = None, None
            case "limit.threshold":
                pass
            case _:
                assert_never(crossing.type)


def _note_periods(batch: _Batch, entry: LedgerEntry, state: AccountState) -> None:
    """Note the periods that an entry can have changed.

    These are the current one, and the previous one if it has just ended or had a late use.
    """
    opens = entry.plan_change is not None and entry.plan_change.opens is not None
    entry_number = entry_number_of(batch.partition, entry.offset)
    _note_period(batch, entry.account, state.period, state.granted, entry_number)
    if state.previous is not None and (opens or entry.is_late):
        _note_period(batch, entry.account, state.previous, state.previous.settled, entry_number)


def _note_period(
    batch: _Batch, account: str, period: Period, granted: int, entry_number: int
) -> None:
    noted = batch.periods.get((account, period.number))
    batch.periods[account, period.number] = _Noted(
        period, granted, entry_number if noted is None else noted.entry_number
    )


def _add(batch: _Batch, usage: LedgerEntry, date: str, *, sign: int) -> None:
    assert usage.period is not None and usage.quantity is not None, (
        "a use has a period and a quantity"
    )
    use = _Use(usage.account, usage.period.number, date, usage.feature or "", usage.model or "")
    units = int(usage.quantity)
    millionths = 0 if usage.quantity == units else int((usage.quantity - units) * _MILLIONTHS)
    sums = batch.daily_use.setdefault(use, [0, 0, 0, 0])
    sums[0] += sign
    sums[1] += sign * units
    sums[2] += sign * millionths
    sums[3] += sign * usage.credits


def _charge_of(entry: LedgerEntry) -> LedgerEntry:
    """An entry as the table ``charges`` holds it, without the fields that only decisions need."""
    before = entry.before if entry.kind != "usage" else None
    return replace(entry, input=None, hold_id=None, before=before, crossings=(), previous_hash="")


def _period_row(account: str, noted: _Noted) -> tuple[object, ...]:
    period = noted.period
    return (
        account,
        period.number,
        microseconds(period.start),
        None if period.end is None else microseconds(period.end),
        period.plan,
        period.allotment,
        noted.granted,
        period.used,
        _encoder.encode(period.by_feature).decode(),
        noted.entry_number,
    )


def _account_row(name: str, account: _Account) -> tuple[object, ...]:
    state = account.state
    return (
        name,
        encode(state),
        state.plan,
        state.period.used,
        state.remaining,
        state.is_blocked,
        account.blocked_since_us,
        account.blocked_reason,
        account.last_used_at_us,
    )


def _refusal_row(entry_number: int, entry: LedgerEntry, is_resolved: bool) -> tuple[object, ...]:
    assert entry.input is not None, "every refusal is of an input"
    event = entry.event
    return (
        entry_number,
        microseconds(entry.appended_at),
        entry.account,
        entry.reason or "",
        entry.detail or "",
        entry.input.topic,
        entry.input.partition,
        entry.input.offset,
        None if event is None else event.source,
        None if event is None else event.id,
        entry.feature,
        entry.model,
        None if entry.run is None else _encoder.encode(entry.run).decode(),
        is_resolved,
    )
