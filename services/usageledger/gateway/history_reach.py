"""How far the history reaches, and what lists answer while it is behind the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from usageledger.accounts.queries import AccountBalance
from usageledger.accounts.reader import Accounts
from usageledger.domain.head import Head
from usageledger.gateway.problems import Problem
from usageledger.history.reading import AccountHistory, HistoryAbsent, HistoryReader, Reach

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def history_not_ready(error: HistoryAbsent) -> Problem:
    """The problem that lists answer with while there is no history to list from."""
    detail = f"{error}. Ask again in a moment; the usage meter's figures are there meanwhile"
    return Problem("not_ready", detail, headers={"Retry-After": "5"})


async def history_reaches(
    accounts: Accounts, history: HistoryReader, found: AccountBalance
) -> datetime | None:
    """Until when an account's history is complete; see `history_as_of`. Raises HistoryAbsent."""
    balance = found.balance
    partition = accounts.partition(balance.account)
    known = await history.account(balance.account, partition, balance.period.number)
    return history_as_of(found, known)


def history_as_of(found: AccountBalance, history: AccountHistory) -> datetime | None:
    """Until when an account's history is complete; None if it is up to date.

    It is up to date if it has come to everything in the counters, or has the account's state as
    they have it. A history that has nothing of the period yet is complete until the period's start.
    """
    if history.reach.next_offset >= found.ledger_next or history.stored == found.stored:
        return None
    return history.reach.clock or found.balance.period.start


def complete_until(heads: Mapping[int, Head], reaches: Mapping[int, Reach]) -> datetime | None:
    """Until when the history of all partitions is complete; None if it is up to date everywhere."""
    nothing = Reach(0, None)
    behind = [
        reach
        for partition, head in heads.items()
        if (reach := reaches.get(partition, nothing)).next_offset < head.next_offset
    ]
    return min((reach.clock or _BEGINNING for reach in behind), default=None)
