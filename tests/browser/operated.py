"""Answers of the console's routes, by method and path, about a ledger with a bit of everything."""

from __future__ import annotations

from typing import Any

from tests.browser.made_up import SCALE

HOOK = "wh_0a1b2c3d"


def answers() -> dict[str, Any]:
    """The answers, for `GatewayOnStage.answers`."""
    accounts = [_account("acct_4821", "300", "220"), _account("acct_17", "503", "-3", blocked=True)]
    blocked = [
        _blocked("acct_17", "usage", None),
        _blocked("acct_9", "suspended", "payment_failed"),
    ]
    refusals = [
        _refusal(
            "3-1042",
            "unknown_model",
            "catalog 'captions-2026-11' has no rate for model 'veo_9' of feature 'genai_video'",
        ),
        _refusal("5-77", "invalid_event", "data.quantity: a decimal from 0 with at most 6 places"),
    ]
    webhooks = [
        _webhook(HOOK, "https://app.example/hooks/limits", "active"),
        _webhook("wh_2", "https://old.example/hook", "failing"),
    ]
    deliveries = [
        _delivery("d1", "delivered", 200, None),
        _delivery("d2", "dead", 500, "the receiver answered with 500"),
    ]
    return {
        "GET /v1/accounts": _page(accounts),
        "GET /v1/blocked": _page(blocked),
        "GET /v1/refusals": _page(refusals),
        "POST /v1/refusals/resend": {"items": [{"entry": "3-1042", "result": "sent"}]},
        "GET /v1/lag": {
            "services": [
                {"name": "processor", "records": 0},
                {"name": "limits", "records": 0},
                {"name": "history", "records": 12},
            ],
            "partitions": [
                {
                    "partition": 0,
                    "state": "running/idle",
                    "undecided": 0,
                    "detail": "",
                    "needs_somebody": False,
                    "worker": "eu-1/7",
                },
                {"partition": 1, "state": "running/behind", "undecided": 418, "detail": ""},
                {
                    "partition": 2,
                    "state": "stopped",
                    "undecided": 3,
                    "detail": "the ledger's rules are newer than this worker",
                },
            ],
        },
        "GET /v1/catalogs": {
            "items": [
                _catalog("captions-2026-11", "32", "200"),
                _catalog("captions-2027-01", "28", "250"),
            ],
            "partitions": 3,
        },
        "GET /v1/webhooks": {"items": webhooks},
        f"GET /v1/webhooks/{HOOK}/deliveries": _page(deliveries),
        f"POST /v1/webhooks/{HOOK}/deliveries/d2/resend": {},
        f"POST /v1/webhooks/{HOOK}/test": {},
    }


def _page(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"items": items, "next_cursor": None}


def _account(name: str, used: str, remaining: str, *, blocked: bool = False) -> dict[str, Any]:
    return {
        "account": name,
        "plan": "max",
        "used": used,
        "remaining": remaining,
        "blocked": blocked,
        "last_used_at": "2026-11-25T09:49:00Z",
    }


def _blocked(name: str, reason: str, suspension: str | None) -> dict[str, Any]:
    known = {
        "account": name,
        "since": "2026-11-25T09:53:00Z",
        "reason": reason,
        "plan": "max",
        "remaining": "-3",
        "event_id": "0-12-0",
    }
    return known | {"upgrade": None if suspension else SCALE, "suspension": suspension}


def _refusal(entry: str, reason: str, detail: str) -> dict[str, Any]:
    known = {
        "entry": entry,
        "account": "acct_4821",
        "reason": reason,
        "detail": detail,
        "appended_at": "2026-11-25T09:00:00Z",
    }
    use = {
        "event": {"source": "/render", "id": "gen_1"},
        "feature": "genai_video",
        "model": "veo_9",
    }
    return known | use | {"is_resolved": False, "place": "usage.events.v1 3/812"}


def _catalog(version: str, rate: str, pro: str) -> dict[str, Any]:
    def per(credits: str, unit: str) -> dict[str, str]:
        return {"credits": credits, "unit": unit, "per": "1", "rounding": "up"}

    models = [{"id": "veo_3", "name": "Veo 3", "rate": per(rate, "generation")}]
    plans = [("pro", "Pro", 999, pro), ("max", "Max", 2499, "500")]
    features = [
        {
            "id": "ai_edit",
            "name": "AI Edit",
            "section": "Costs",
            "rate": per("14", "edit"),
            "models": [],
        },
        {
            "id": "genai_video",
            "name": "GenAI Video",
            "section": "Add-ons",
            "rate": None,
            "models": models,
        },
    ]
    return {
        "version": version,
        "effective_from": f"{version.removeprefix('captions-')}-01T00:00:00Z",
        "plans": [
            {
                "id": id_,
                "name": name,
                "price_cents": cents,
                "allotment": allotment,
                "renews": True,
                "thresholds": None,
            }
            for id_, name, cents, allotment in plans
        ],
        "features": features,
        "thresholds": ["0.8"],
        "unknown_accounts": "free",
        "is_in_force": version == "captions-2026-11",
        "adopted_by": 3,
    }


def _webhook(hook: str, url: str, state: str) -> dict[str, Any]:
    counts = {"pending": 0 if state == "active" else 7, "dead": 0 if state == "active" else 2}
    failure = (
        None
        if state == "active"
        else {"at": "2026-11-25T09:53:00Z", "detail": "the receiver answered with 500"}
    )
    times = {
        "created_at": "2026-11-01T09:53:00Z",
        "last_success_at": "2026-11-25T09:53:00Z",
        "last_failure": failure,
    }
    return (
        {
            "id": hook,
            "url": url,
            "types": ["limit.reached", "limit.cleared"],
            "accounts": [],
            "state": state,
        }
        | counts
        | times
    )


def _delivery(delivery: str, state: str, status: int, error: str | None) -> dict[str, Any]:
    known = {
        "id": delivery,
        "event_id": "0-12-0",
        "type": "limit.reached",
        "account": "acct_17",
        "state": state,
        "attempts": 1,
    }
    return known | {
        "last_status": status,
        "last_error": error,
        "next_attempt_at": None,
        "created_at": "2026-11-25T09:53:00Z",
    }
