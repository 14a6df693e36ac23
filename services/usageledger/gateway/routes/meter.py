"""Routes: the usage meter of an account, and its past periods."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from usageledger.gateway.cursors import HistoryAsOf, Limit, NumberCursor
from usageledger.gateway.dependencies import (
    AccountPath,
    MayRead,
    TheAccounts,
    TheHistory,
    TheRateLimits,
)
from usageledger.gateway.history_reach import history_as_of, history_not_ready
from usageledger.gateway.meter import ended_periods, meter_of, period_listed
from usageledger.gateway.meter_models import PERIOD_EXAMPLE, Meter, PeriodListed
from usageledger.gateway.problems import problems
from usageledger.history.reading import AccountHistory, HistoryAbsent, Reach

router = APIRouter(tags=["usage meter"])


_PERIODS_DEFAULT = 24


class PeriodPage(BaseModel):
    """A page of an account's past periods, the newest first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [PERIOD_EXAMPLE], "next_cursor": None, "history_as_of": None}]
        }
    )

    items: list[PeriodListed]
    next_cursor: str | None
    history_as_of: HistoryAsOf


@router.get(
    "/v1/accounts/{account:segment}/meter", responses=problems("log_unavailable", "not_ready")
)
async def read_meter(
    account: AccountPath, accounts: TheAccounts, history: TheHistory, caller: MayRead
) -> Meter:
    """The usage meter of an account.

    It shows what the account has and has used in its current period, by feature, model and day, its
    pace and its renewal. The figures are always up to date. While the history is not,
    `history_as_of` says until when features, models and days are complete.
    """
    found = await accounts.balance(account)
    try:
        known = await history.account(
            account, accounts.partition(account), found.balance.period.number
        )
    except HistoryAbsent:
        known = AccountHistory(Reach(0, None), None, None, None, ())
    return meter_of(found, known)


@router.get(
    "/v1/accounts/{account:segment}/periods", responses=problems("log_unavailable", "not_ready")
)
async def list_periods(
    account: AccountPath,
    accounts: TheAccounts,
    history: TheHistory,
    rate_limits: TheRateLimits,
    caller: MayRead,
    cursor: NumberCursor = None,
    limit: Limit = _PERIODS_DEFAULT,
) -> PeriodPage:
    """An account's past periods, the newest first, with their credits and their use."""
    rate_limits.count_list(caller)
    found = await accounts.balance(account)
    balance = found.balance
    current = balance.period.number
    before = current if cursor is None else min(int(cursor), current)
    partition = accounts.partition(account)
    try:
        known = await history.account(account, partition, current)
        stored = await history.periods(account, before=before, limit=limit + 1)
    except HistoryAbsent as error:
        raise history_not_ready(error) from error
    ended = ended_periods(balance, known.state, stored, before)[: limit + 1]
    items = [period_listed(each, balance.catalogs) for each in ended[:limit]]
    as_of = history_as_of(found, known)
    return PeriodPage(
        items=items,
        next_cursor=str(items[-1].number) if len(ended) > limit else None,
        history_as_of=as_of,
    )
