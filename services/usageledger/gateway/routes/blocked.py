"""Route: who is blocked, and where limit events go on after that."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from usageledger.gateway.access.app_keys import Caller
from usageledger.gateway.cursors import PAGE_DEFAULT, Limit, NameCursor, cursor_after, name_before
from usageledger.gateway.dependencies import Needs, Parts
from usageledger.gateway.figures import CreditsText, UpgradeShown
from usageledger.gateway.problems import Problem, problems
from usageledger.gateway.streams.limit_store import BlockedAccount

router = APIRouter(tags=["limit events"])


class Blocked(BaseModel):
    """A blocked account, as its `limit.reached` has it."""

    account: str
    since: datetime
    reason: str
    plan: str
    remaining: CreditsText = Field(description="When it was blocked.")
    upgrade: UpgradeShown | None
    suspension: str | None = Field(description="Why it is suspended, where that is what blocks it.")
    event_id: str


class FollowedFrom(BaseModel):
    """Where limit events go on after this list."""

    last_event_ids: dict[str, str] = Field(
        description="The last limit event that the list knows of, by partition."
    )


class BlockedList(BaseModel):
    """Who is blocked, by name."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "account": "acct_4821",
                            "since": "2026-11-25T10:00:00Z",
                            "reason": "usage",
                            "plan": "max",
                            "remaining": "-4.5",
                            "upgrade": {
                                "plan": "scale",
                                "name": "Scale",
                                "price_cents": 15000,
                                "allotment": "1400",
                            },
                            "suspension": None,
                            "event_id": "3-1042-0",
                        }
                    ],
                    "next_cursor": None,
                    "from": {"last_event_ids": {"0": "0-998-0", "3": "3-1042-0"}},
                }
            ]
        }
    )

    items: list[Blocked]
    next_cursor: str | None
    from_: FollowedFrom = Field(alias="from")


@router.get("/v1/blocked", responses=problems("not_ready"))
async def list_blocked(
    gateway: Parts,
    caller: Annotated[Caller, Depends(Needs("read"))],
    cursor: NameCursor = None,
    limit: Limit = PAGE_DEFAULT,
) -> BlockedList:
    """Who is blocked: what an app begins with before it listens.

    Whatever changes after the list was made comes as a limit event after those in `from`: an
    account's stream takes that of its partition as `Last-Event-ID`. Where the list has several
    pages, `from` of the first one counts.
    """
    trouble = gateway.limits_trouble()
    if trouble is not None:
        raise Problem(
            "not_ready", f"{trouble}: ask again in a moment", headers={"Retry-After": "1"}
        )
    # Asked before the list: what comes in between is in both, and a repeat does no harm.
    positions = await gateway.store_thread.run(gateway.limits.positions)
    found = await gateway.store_thread.run(gateway.limits.blocked, name_before(cursor), limit + 1)
    more = len(found) > limit
    shown = [_shown(one) for one in found[:limit]]
    last_event_ids = {
        str(partition): position.place.id for partition, position in sorted(positions.items())
    }
    next_cursor = cursor_after(shown[-1].account) if more else None
    return BlockedList.model_validate(
        {"items": shown, "next_cursor": next_cursor, "from": {"last_event_ids": last_event_ids}}
    )


def _shown(blocked: BlockedAccount) -> Blocked:
    event: dict[str, Any] = json.loads(blocked.event)
    data = event["data"]
    return Blocked(
        account=blocked.account,
        since=event["time"],
        reason=data["reason"],
        plan=data["plan"],
        remaining=data["remaining"],
        upgrade=data["upgrade"],
        suspension=(data.get("suspension") or {}).get("reason"),
        event_id=event["id"],
    )
