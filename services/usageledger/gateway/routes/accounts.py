"""Route: accounts by a part of their name, for the operator."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from usageledger.accounts.reader import Accounts
from usageledger.domain.bounds import NAME_LENGTH_MAX
from usageledger.domain.credits import format_credits
from usageledger.domain.head import Head
from usageledger.domain.renewal import plan_at, state_at
from usageledger.gateway.cursors import (
    PAGE_DEFAULT,
    HistoryAsOf,
    Limit,
    NameCursor,
    cursor_after,
    name_before,
)
from usageledger.gateway.dependencies import MayAdminister, TheAccounts, TheHistory
from usageledger.gateway.figures import CreditsText
from usageledger.gateway.history_reach import complete_until, history_not_ready
from usageledger.gateway.problems import problems
from usageledger.history.reading import AccountListed, HistoryAbsent

router = APIRouter(tags=["console"])


Search = Annotated[
    str,
    Query(
        max_length=NAME_LENGTH_MAX,
        description="A part of the name. A to Z match a to z. Empty: every account.",
    ),
]


class AccountShown(BaseModel):
    """An account as the history has it, with its figures at the time of the answer."""

    account: str
    plan: str
    plan_name: str
    used: CreditsText
    remaining: CreditsText
    blocked: bool
    last_used_at: datetime | None = Field(
        description="When its last use occurred; null if it has used nothing."
    )


_EXAMPLE: dict[str, Any] = {
    "account": "acct_4821",
    "plan": "max",
    "plan_name": "Max",
    "used": "123.5",
    "remaining": "396.5",
    "blocked": False,
    "last_used_at": "2026-11-25T09:59:30Z",
}


class AccountList(BaseModel):
    """A page of accounts, in the order of their names."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [_EXAMPLE], "next_cursor": None, "history_as_of": None}]
        }
    )

    items: list[AccountShown]
    next_cursor: str | None
    history_as_of: HistoryAsOf


@router.get("/v1/accounts", responses=problems("log_unavailable", "not_ready"))
async def list_accounts(
    accounts: TheAccounts,
    history: TheHistory,
    caller: MayAdminister,
    search: Search = "",
    cursor: NameCursor = None,
    limit: Limit = PAGE_DEFAULT,
) -> AccountList:
    """Accounts whose names contain the search text, in the order of their names.

    The figures are the history's, carried forward to now. The usage meter of an account has the
    exact ones.
    """
    # The heads are read first: what the history has folded by the time of the list includes them.
    heads = await accounts.heads()
    try:
        reaches = await history.reaches()
        page = await history.accounts(search=search, cursor=name_before(cursor), limit=limit)
    except HistoryAbsent as error:
        raise history_not_ready(error) from error
    return AccountList(
        items=[await _account_row(accounts, heads, found) for found in page.items],
        next_cursor=None if page.next_cursor is None else cursor_after(page.next_cursor),
        history_as_of=complete_until(heads, reaches),
    )


async def _account_row(
    accounts: Accounts, heads: Mapping[int, Head], found: AccountListed
) -> AccountShown:
    head = heads[accounts.partition(found.account)]
    at, catalogs = accounts.clock.at(head), await accounts.catalogs(head)
    state = found.state
    # Counters that are being rebuilt can be behind the history, and lack a plan that was published
    # since.
    if plan_at(catalogs, state.next_plan or state.plan, at) is not None:
        state = state_at(state, found.account, at, catalogs)
    plan = plan_at(catalogs, state.plan, at)
    return AccountShown(
        account=found.account,
        plan=state.plan,
        plan_name=state.plan if plan is None else plan.name,
        used=format_credits(state.period.used),
        remaining=format_credits(state.remaining),
        blocked=state.is_blocked,
        last_used_at=found.last_used_at,
    )
