"""Route: the charges of an account, each explained."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from usageledger.audit.explaining import credits_of, explain, names_of
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.credits import format_credits
from usageledger.domain.entry import LedgerEntry
from usageledger.domain.quantity import format_quantity
from usageledger.domain.renewal import plan_at
from usageledger.gateway.cursors import CURSOR_DESCRIPTION, PAGE_DEFAULT, HistoryAsOf, Limit
from usageledger.gateway.dependencies import (
    AccountPath,
    MayRead,
    TheAccounts,
    TheHistory,
    TheRateLimits,
)
from usageledger.gateway.figures import CreditsText, EventShown, RateShown, rate_shown
from usageledger.gateway.history_reach import history_not_ready, history_reaches
from usageledger.gateway.problems import Problem, problems
from usageledger.history.charges import ChargeKind, charge_kind
from usageledger.history.reading import HistoryAbsent, MalformedCursor

router = APIRouter(tags=["usage meter"])

CURSOR = r"^[0-9]{1,6}-[0-9]{1,12}$"


class Charge(BaseModel):
    """A ledger entry that changed the account. Refusals and duplicates are not listed."""

    entry: str = Field(
        description="Its address in the ledger: partition-offset.", examples=["3-1042"]
    )
    appended_at: datetime
    occurred_at: datetime | None
    kind: ChargeKind
    event: EventShown | None
    period: int | None = Field(description="The number of the period in which it counts.")
    feature: str | None
    feature_name: str | None
    model: str | None
    model_name: str | None
    quantity: str | None
    unit: str | None
    credits: CreditsText = Field(
        description="The credits charged by a use, given back by a void, granted, or lapsed with a "
        "grant; never negative."
    )
    remaining_after: CreditsText | None = Field(
        description="What remained afterwards in the period in which it counts."
    )
    is_late: bool = Field(
        description="Whether it counts in the period before the one in which it arrived."
    )
    plan: str | None = Field(description="The plan that it brings; null if it changes no plan.")
    plan_name: str | None
    explanation: str = Field(description="In plain English.")
    rate: RateShown | None
    catalog_version: str | None
    reason: str | None = Field(
        description="Why it was voided, granted, suspended or resumed, as its event says."
    )


_CHARGE_EXAMPLE: dict[str, Any] = {
    "entry": "3-1042",
    "appended_at": "2026-11-25T09:59:30.250Z",
    "occurred_at": "2026-11-25T09:59:30Z",
    "kind": "usage",
    "event": {"source": "/render", "id": "gen_1"},
    "period": 4,
    "feature": "genai_video",
    "feature_name": "GenAI Video",
    "model": "veo_3",
    "model_name": "Veo 3",
    "quantity": "2",
    "unit": "generation",
    "credits": "64",
    "remaining_after": "382.5",
    "is_late": False,
    "plan": None,
    "plan_name": None,
    "explanation": "2 generations of Veo 3 at 32 credits a generation: 64 credits.",
    "rate": {"credits": "32", "unit": "generation", "per": "1", "rounding": "up"},
    "catalog_version": "2026-11",
    "reason": None,
}


class ChargePage(BaseModel):
    """A page of an account's charges, the newest first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"items": [_CHARGE_EXAMPLE], "next_cursor": "3-1042", "history_as_of": None}
            ]
        }
    )

    items: list[Charge]
    next_cursor: str | None
    history_as_of: HistoryAsOf


@router.get(
    "/v1/accounts/{account:segment}/charges", responses=problems("log_unavailable", "not_ready")
)
async def list_charges(
    account: AccountPath,
    accounts: TheAccounts,
    history: TheHistory,
    rate_limits: TheRateLimits,
    caller: MayRead,
    cursor: Annotated[str | None, Query(pattern=CURSOR, description=CURSOR_DESCRIPTION)] = None,
    limit: Limit = PAGE_DEFAULT,
    period: Annotated[
        int | None,
        Query(ge=0, le=2**31, description="Only charges that count in the period of this number."),
    ] = None,
) -> ChargePage:
    """The charges of an account, what voids gave back, its grants, and the changes of its plan.

    The newest come first, each with an explanation.
    """
    rate_limits.count_list(caller)
    found = await accounts.balance(account)
    try:
        page = await history.charges(account, period=period, cursor=cursor, limit=limit)
        as_of = await history_reaches(accounts, history, found)
    except HistoryAbsent as error:
        raise history_not_ready(error) from error
    except MalformedCursor as error:
        raise Problem("invalid_request", str(error)) from error
    return ChargePage(
        items=[charge_of(entry, found.balance.catalogs) for entry in page.items],
        next_cursor=page.next_cursor,
        history_as_of=as_of,
    )


def charge_of(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> Charge:
    """An entry as a charge, explained."""
    kind = charge_kind(entry.kind)
    assert kind is not None, "the history lists nothing but charges"
    feature_name, model_name = names_of(entry, catalogs)
    plan_id = (
        None if entry.plan_change is None else entry.plan_change.next_plan or entry.plan_change.plan
    )
    plan = None if plan_id is None else plan_at(catalogs, plan_id, entry.appended_at)
    return Charge(
        entry=f"{entry.partition}-{entry.offset}",
        appended_at=entry.appended_at,
        occurred_at=None if entry.event is None else entry.event.occurred_at,
        kind=kind,
        event=None
        if entry.event is None
        else EventShown(source=entry.event.source, id=entry.event.id),
        period=None if entry.period is None else entry.period.number,
        feature=entry.feature,
        feature_name=feature_name,
        model=entry.model,
        model_name=model_name,
        quantity=None if entry.quantity is None else format_quantity(entry.quantity),
        unit=None if entry.rate is None else entry.rate.unit,
        credits=format_credits(credits_of(entry)),
        remaining_after=None if entry.after is None else format_credits(entry.after.remaining),
        is_late=entry.is_late,
        plan=plan_id,
        plan_name=plan_id if plan is None else plan.name,
        explanation=explain(entry, catalogs),
        rate=None if entry.rate is None else rate_shown(entry.rate),
        catalog_version=entry.catalog_version,
        reason=_event_reason(entry),
    )


def _event_reason(entry: LedgerEntry) -> str | None:
    parts = (entry.voids, entry.grant, entry.suspension)
    return next((part.reason for part in parts if part is not None and part.reason), None)
