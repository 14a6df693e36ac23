"""Reading ``history.db`` for the gateway: charges, periods, use by day, accounts and refusals.

Every answer is of one moment and says how far the history reached then. Lists begin with the
newest item. A cursor names the entry after which a list goes on, so new entries shift nothing.
"""

from __future__ import annotations

import asyncio
import queue
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from usageledger.domain.account import AccountState, Period
from usageledger.domain.encoding import decode_account
from usageledger.domain.entry import InputAddress, InputRun, LedgerEntry
from usageledger.history.tables import VERSION, address_of, entry_number_of, microseconds, moment_of
from usageledger.ledger.refused_input import EventIdentity, RefusedInput

CONNECTIONS_MAX = 4
BUSY_TIMEOUT_S = 2.0

_T = TypeVar("_T")
_MILLIONTH = Decimal(1).scaleb(-6)
_ADDRESS = re.compile(r"([0-9]{1,6})-([0-9]{1,12})", re.ASCII)
_REFUSAL_CURSOR = re.compile(r"([0-9]{1,18})\.([0-9]{1,6})-([0-9]{1,12})", re.ASCII)
_entries = msgspec.json.Decoder(LedgerEntry)
_by_feature = msgspec.json.Decoder(dict[str, int])


class HistoryAbsent(Exception):
    """There is no history to read.

    Its service has not begun yet, or another release wrote the file.
    """


class MalformedCursor(ValueError):
    """A text that is no cursor of any list."""


class Reach(NamedTuple):
    """How far a partition's history reaches: up to ``next_offset``, exclusive.

    ``clock`` is when its last entry was appended; None if nothing is folded.
    """

    next_offset: int
    clock: datetime | None


class DailyUse(NamedTuple):
    """The use of one model on one day; ``model`` is None for the feature's default rate."""

    date: str
    feature: str
    model: str | None
    uses: int
    quantity: Decimal
    credits: int


class AccountHistory(NamedTuple):
    """The history of an account and of one of its periods.

    ``stored`` is the account's state, in the same bytes as in the counters. ``blocked_since`` and
    ``blocked_reason`` are those of its last `limit.reached`, or None once it was cleared.
    """

    reach: Reach
    stored: bytes | None
    blocked_since: datetime | None
    blocked_reason: str | None
    daily_use: tuple[DailyUse, ...]

    @property
    def state(self) -> AccountState | None:
        """The account as its last entry left it."""
        return None if self.stored is None else decode_account(self.stored)


class AccountListed(NamedTuple):
    """An account as its last entry left it. Roll the state over before you show it."""

    account: str
    state: AccountState
    last_used_at: datetime | None


class Page(NamedTuple, Generic[_T]):
    """Some items of a list, and the cursor after which it goes on; None at its end."""

    items: Sequence[_T]
    next_cursor: str | None


class ListedPeriod(NamedTuple):
    """A period of an account, and what grants gave it."""

    period: Period
    granted: int


class HistoryReader:
    """Reads one file, in threads beside the event loop.

    Every method raises HistoryAbsent; those with a cursor, MalformedCursor.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: queue.SimpleQueue[_Connection] = queue.SimpleQueue()

    async def account(self, account: str, partition: int, period: int) -> AccountHistory:
        """Return the history of an account and of its period of that number."""
        return await self._ask(lambda database: _account(database, account, partition, period))

    async def reaches(self) -> dict[int, Reach]:
        """Return how far the history of each partition reaches, if any of it is folded."""
        return await self._ask(_reaches)

    async def charges(
        self, account: str, *, period: int | None, cursor: str | None, limit: int
    ) -> Page[LedgerEntry]:
        """Return entries that changed an account, the newest first.

        With ``period``, only entries that count in that period.
        """
        return await self._ask(lambda database: _charges(database, account, period, cursor, limit))

    async def periods(self, account: str, *, before: int, limit: int) -> list[ListedPeriod]:
        """An account's periods with numbers below ``before``, the newest first."""
        return await self._ask(lambda database: _periods(database, account, before, limit))

    async def accounts(self, *, search: str, cursor: str | None, limit: int) -> Page[AccountListed]:
        """Return accounts whose names contain ``search`` in any case, ordered by name."""
        return await self._ask(lambda database: _accounts(database, search, cursor, limit))

    async def refusals(
        self, *, reason: str | None, is_resolved: bool | None, cursor: str | None, limit: int
    ) -> Page[RefusedInput]:
        """Refused inputs, the newest first."""
        filters = {"reason": reason, "is_resolved": is_resolved}
        return await self._ask(lambda database: _refusals(database, filters, cursor, limit))

    async def refusals_at(self, entries: Sequence[str]) -> dict[str, RefusedInput]:
        """Those of these entries (``3-1042``) that are refusals."""
        return await self._ask(lambda database: _refusals_at(database, entries))

    def close(self) -> None:
        """Close the connections that are idle."""
        while not self._idle.empty():
            self._idle.get().database.close()

    async def _ask(self, question: Callable[[sqlite3.Connection], _T]) -> _T:
        return await asyncio.to_thread(self._answer, question)

    def _answer(self, question: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            with self._connection() as database:
                database.execute("BEGIN")  # one answer shows one moment of the file
                try:
                    return question(database)
                finally:
                    database.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise HistoryAbsent(f"{self._path.name} cannot be read: {error}") from error

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        inode = self._inode()
        found: _Connection | None = None
        while found is None and not self._idle.empty():
            with suppress(queue.Empty):
                found = self._idle.get_nowait()
            if (
                found is not None and found.inode != inode
            ):  # the file was deleted, and is built anew
                found.database.close()
                found = None
        found = found or _Connection(_connect(self._path), inode)
        try:
            yield found.database
        except BaseException:
            found.database.close()
            raise
        if self._idle.qsize() < CONNECTIONS_MAX:
            self._idle.put(found)
        else:
            found.database.close()

    def _inode(self) -> int:
        try:
            return self._path.stat().st_ino
        except OSError as error:
            raise HistoryAbsent(
                f"there is no {self._path.name} yet: `usageledger service history` builds it"
            ) from error


def reach_of(path: Path) -> dict[int, int]:
    """Return the offset up to which each partition is folded, for use from another process.

    Raises HistoryAbsent.
    """
    if not path.exists():
        raise HistoryAbsent(f"there is no {path.name} yet")
    try:
        with closing(_connect(path)) as database:
            return dict(database.execute("SELECT partition, next_offset FROM positions").fetchall())
    except sqlite3.Error as error:
        raise HistoryAbsent(f"{path.name} cannot be read: {error}") from error


class _Connection(NamedTuple):
    database: sqlite3.Connection
    inode: int


def _connect(path: Path) -> sqlite3.Connection:
    """A connection through which nothing can be changed.

    Its mode is read-write, because SQLite may have to create the index of the write-ahead log.
    """
    database = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        database.execute("PRAGMA query_only = ON")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise HistoryAbsent(
                f"{path.name} has version {version}, and this release reads {VERSION}: its service "
                "builds it anew"
            )
    except BaseException:
        database.close()
        raise
    return database


def _reach(database: sqlite3.Connection, partition: int) -> Reach:
    row = database.execute(
        "SELECT next_offset, clock_us FROM positions WHERE partition = ?", (partition,)
    ).fetchone()
    return Reach(0, None) if row is None else _reach_in(*row)


def _reaches(database: sqlite3.Connection) -> dict[int, Reach]:
    rows = database.execute("SELECT partition, next_offset, clock_us FROM positions").fetchall()
    return {
        partition: _reach_in(next_offset, clock_us) for partition, next_offset, clock_us in rows
    }


def _reach_in(next_offset: int, clock_us: int) -> Reach:
    return Reach(next_offset, moment_of(clock_us) if clock_us else None)


def _account(
    database: sqlite3.Connection, account: str, partition: int, period: int
) -> AccountHistory:
    row = database.execute(
        "SELECT state, blocked_since_us, blocked_reason FROM accounts WHERE account = ?", (account,)
    ).fetchone()
    stored, since_us, reason = row or (None, None, None)
    use = database.execute(
        "SELECT date, feature, model, uses, units, millionths, credits FROM daily_use WHERE "
        "account = ? AND period = ?",
        (account, period),
    )
    return AccountHistory(
        reach=_reach(database, partition),
        stored=stored,
        blocked_since=None if since_us is None else moment_of(since_us),
        blocked_reason=reason,
        daily_use=tuple(_daily_use(*row) for row in use),
    )


def _daily_use(
    date: str, feature: str, model: str, uses: int, units: int, millionths: int, credits: int
) -> DailyUse:
    return DailyUse(date, feature, model or None, uses, units + millionths * _MILLIONTH, credits)


def _charges(
    database: sqlite3.Connection, account: str, period: int | None, cursor: str | None, limit: int
) -> Page[LedgerEntry]:
    first, last = (0, 2**62) if period is None else _numbers_of_period(database, account, period)
    if cursor is not None:
        last = min(last, _entry_number(cursor))
    rows = database.execute(
        "SELECT entry_number, entry FROM charges WHERE account = ? AND entry_number >= ?"
        " AND entry_number < ? AND (? IS NULL OR period = ?) ORDER BY entry_number DESC LIMIT ?",
        (account, first, last, period, period, limit + 1),
    ).fetchall()
    items = [_entries.decode(entry) for _, entry in rows[:limit]]
    return Page(
        items, "{}-{}".format(*address_of(rows[limit - 1][0])) if len(rows) > limit else None
    )


def _numbers_of_period(database: sqlite3.Connection, account: str, period: int) -> tuple[int, int]:
    """Return the range of entry numbers that a period's entries can have.

    Late uses and voids come while the next period runs, and none comes after that.
    """
    opened = dict(
        database.execute(
            "SELECT number, opened_by FROM periods WHERE account = ? AND number IN (?, ?)",
            (account, period, period + 2),
        ).fetchall()
    )
    return opened.get(period, 2**62), opened.get(period + 2, 2**62)


def _periods(
    database: sqlite3.Connection, account: str, before: int, limit: int
) -> list[ListedPeriod]:
    rows = database.execute(
        "SELECT number, start_us, end_us, plan, allotment, granted, used, by_feature FROM periods"
        " WHERE account = ? AND number < ? ORDER BY number DESC LIMIT ?",
        (account, before, limit),
    )
    return [_period(*row) for row in rows]


def _period(
    number: int,
    start_us: int,
    end_us: int | None,
    plan: str,
    allotment: int,
    granted: int,
    used: int,
    by_feature: str,
) -> ListedPeriod:
    end = None if end_us is None else moment_of(end_us)
    period = Period(
        number=number,
        start=moment_of(start_us),
        end=end,
        plan=plan,
        allotment=allotment,
        used=used,
        by_feature=_by_feature.decode(by_feature),
    )
    return ListedPeriod(period, granted)


def _accounts(
    database: sqlite3.Connection, search: str, cursor: str | None, limit: int
) -> Page[AccountListed]:
    # The inner query finds the names in the index alone. Only the states of this page are read.
    rows = database.execute(
        "SELECT account, state, last_used_at_us FROM accounts WHERE account IN ("
        "SELECT account FROM accounts WHERE account > ? AND instr(lower(account), lower(?)) > 0 "
        "ORDER BY account LIMIT ?"
        ") ORDER BY account",
        (cursor or "", search, limit + 1),
    ).fetchall()
    items = [
        AccountListed(name, decode_account(state), None if used_us is None else moment_of(used_us))
        for name, state, used_us in rows[:limit]
    ]
    return Page(items, items[-1].account if len(rows) > limit else None)


def _refusals(
    database: sqlite3.Connection, filters: Mapping[str, object], cursor: str | None, limit: int
) -> Page[RefusedInput]:
    wanted = {name: value for name, value in filters.items() if value is not None}
    terms = "".join(f" AND {name} = ?" for name in wanted)
    after = (2**62, 2**62) if cursor is None else _after_refusal(cursor)
    rows = database.execute(
        f"SELECT * FROM refusals WHERE (appended_at_us, entry_number) < (?, ?){terms} ORDER BY "
        "appended_at_us DESC, entry_number DESC LIMIT ?",
        (*after, *wanted.values(), limit + 1),
    ).fetchall()
    items = [_refusal(row) for row in rows[:limit]]
    return Page(
        items,
        f"{microseconds(items[-1].appended_at)}.{items[-1].entry}" if len(rows) > limit else None,
    )


def _refusals_at(database: sqlite3.Connection, entries: Sequence[str]) -> dict[str, RefusedInput]:
    rows = [
        database.execute(
            "SELECT * FROM refusals WHERE entry_number = ?", (_entry_number(entry),)
        ).fetchone()
        for entry in entries
    ]
    return {
        entry: _refusal(row) for entry, row in zip(entries, rows, strict=True) if row is not None
    }


def _refusal(row: Sequence[Any]) -> RefusedInput:
    (
        entry_number,
        appended_at_us,
        account,
        reason,
        detail,
        topic,
        input_partition,
        input_offset,
        source,
        id_,
        feature,
        model,
        run,
        is_resolved,
    ) = row
    partition, offset = address_of(entry_number)
    return RefusedInput(
        partition=partition,
        offset=offset,
        appended_at=moment_of(appended_at_us),
        account=account,
        reason=reason,
        detail=detail,
        input=InputAddress(topic=topic, partition=input_partition, offset=input_offset),
        event=None if source is None else EventIdentity(topic, account, source, id_),
        feature=feature,
        model=model,
        is_resolved=bool(is_resolved),
        run=None if run is None else msgspec.json.decode(run, type=InputRun),
    )


def _entry_number(cursor: str) -> int:
    found = _ADDRESS.fullmatch(cursor)
    if found is None:
        raise MalformedCursor(
            f"{cursor!r} is no cursor of this list: send the `next_cursor` of its last page, or "
            "none"
        )
    return entry_number_of(int(found[1]), int(found[2]))


def _after_refusal(cursor: str) -> tuple[int, int]:
    found = _REFUSAL_CURSOR.fullmatch(cursor)
    if found is None:
        raise MalformedCursor(
            f"{cursor!r} is no cursor of this list: send the `next_cursor` of its last page, or "
            "none"
        )
    return int(found[1]), entry_number_of(int(found[2]), int(found[3]))
