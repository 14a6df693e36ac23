"""How far the history reaches, and what lists answer while it is not up to date."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from usageledger.accounts.reader import AccountNow
from usageledger.domain.head import Head
from usageledger.gateway.dependencies import Gateway
from usageledger.gateway.problems import Problem
from usageledger.history.reading import AccountHistory, HistoryAbsent, Reach


def history_not_ready(error: HistoryAbsent) -> Problem:
    """The problem that lists answer with while there is no history to list from."""
    detail = f"{error}. Ask again in a moment; the usage meter's figures are there meanwhile"
    return Problem("not_ready", detail, headers={"Retry-After": "5"})


async def history_reaches(gateway: Gateway, now: AccountNow) -> datetime | None:
    """See `history_as_of`. Raises HistoryAbsent."""
    partition = gateway.accounts.partition(now.account)
    return history_as_of(
        now, await gateway.history.account(now.account, partition, now.state.period.number)
    )


def history_as_of(now: AccountNow, history: AccountHistory) -> datetime | None:
    """Until when the history is complete, where it is not up to date: it has come to all that the
    counters have, or has the account's state as they do. Where nothing of the period is there yet,
    its start.
    """
    if history.reach.next_offset >= now.ledger_next or history.stored == now.stored:
        return None
    return history.reach.clock or now.state.period.start


_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def complete_until(heads: Mapping[int, Head], reaches: Mapping[int, Reach]) -> datetime | None:
    """Until when the history of all partitions is complete; None where it has all that the counters
    have.
    """
    nothing = Reach(0, None)
    behind = [
        reach
        for partition, head in heads.items()
        if (reach := reaches.get(partition, nothing)).next_offset < head.next_offset
    ]
    return min((reach.clock or _BEGINNING for reach in behind), default=None)
