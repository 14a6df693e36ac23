"""Route: the blocked accounts, and the limit events after which the list was made."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from usageledger.gateway.cursors import PAGE_DEFAULT, Limit, NameCursor, cursor_after, name_before
from usageledger.gateway.dependencies import (
    MayRead,
    RequireCurrentLimits,
    TheLimits,
    TheStoreThread,
)
from usageledger.gateway.figures import CreditsText, UpgradeShown
from usageledger.gateway.problems import problems
from usageledger.gateway.streams.limit_store import BlockedAccount

router = APIRouter(tags=["limit events"])


class Blocked(BaseModel):
    """A blocked account, as its `limit.reached` event describes it."""

    account: str
    since: datetime
    reason: str
    plan: str
    remaining: CreditsText = Field(description="What remained when it was blocked.")
    upgrade: UpgradeShown | None
    suspension: str | None = Field(description="Why it is suspended, if the suspension blocks it.")
    event_id: str


class FollowedFrom(BaseModel):
    """The limit events that the list includes; later ones follow it."""

    last_event_ids: dict[str, str] = Field(
        description="The id of the last limit event that the list includes, by partition."
    )


class BlockedList(BaseModel):
    """A page of the blocked accounts, in the order of their names."""

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
    limits: TheLimits,
    thread: TheStoreThread,
    require_current_limits: RequireCurrentLimits,
    caller: MayRead,
    cursor: NameCursor = None,
    limit: Limit = PAGE_DEFAULT,
) -> BlockedList:
    """The accounts that are blocked: an app reads this list first and then listens.

    Whatever changes after the list was made comes as a limit event after those in `from`. Open an
    account's stream with the id of its partition as `Last-Event-ID`. If the list has several pages,
    use `from` of the first.
    """
    require_current_limits()
    # Read before the list: an event in between is in both, and a repeat does no harm.
    positions = await thread.run(limits.positions)
    found = await thread.run(limits.blocked, name_before(cursor), limit + 1)
    items = [_blocked_row(account) for account in found[:limit]]
    last_event_ids = {
        str(partition): position.address.id for partition, position in sorted(positions.items())
    }
    next_cursor = cursor_after(items[-1].account) if len(found) > limit else None
    return BlockedList.model_validate(
        {"items": items, "next_cursor": next_cursor, "from": {"last_event_ids": last_event_ids}}
    )


def _blocked_row(blocked: BlockedAccount) -> Blocked:
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
