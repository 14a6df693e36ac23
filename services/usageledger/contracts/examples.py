"""An example of each message, as its record holds it.

Together they are one story: an account on Pro reaches its limit and upgrades.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from usageledger.domain.catalog import Rate
from usageledger.domain.chain import seal
from usageledger.domain.claim import Claim, encode_claim
from usageledger.domain.entry import (
    Crossing,
    EventReference,
    Figures,
    InputAddress,
    LedgerEntry,
    PeriodReference,
    PlanChange,
    UpgradeOffer,
)
from usageledger.domain.head import Head
from usageledger.domain.record_skip import RecordSkip, encode_skip, place_of

_ACCOUNT = "acct_4821"
_PARTITION = 3
_RENDERED = datetime(2026, 11, 22, 10, 15, 30, 250_000, tzinfo=UTC)
_UPGRADED = datetime(2026, 11, 22, 10, 18, 2, tzinfo=UTC)
_PERIOD = PeriodReference(
    number=4, start=datetime(2026, 11, 3, 9, tzinfo=UTC), end=datetime(2026, 12, 3, 9, tzinfo=UTC)
)
_CREDIT = 1_000_000


def examples() -> dict[str, list[dict[str, Any]]]:
    """Examples of every message, by type.

    The limit events are those of the example entries; a test compares them.
    """
    entries = [json.loads(sealed.value) for sealed in example_entries()]
    return {
        **_inputs(),
        "ledger.claim": [json.loads(encode_claim(_CLAIM))],
        "ledger.entry": entries,
        "ledger.record_skipped": [json.loads(encode_skip(_SKIP))],
        **_limit_events(),
    }


def example_entries() -> list[Any]:
    """Two sealed entries: the use that reaches the limit, and the upgrade that clears it."""
    sealed, _ = seal(
        [_use(), _upgrade()],
        Head(ledger=_CLAIM.ledger, next_offset=1042, hash="5e" * 32),
        _PARTITION,
    )
    return sealed


_CLAIM = Claim(
    partition=_PARTITION, ledger="5f0c61a2", worker="eu-1/processor/2", decide=1, tzdata="2026f"
)
_SKIP = RecordSkip(
    place=place_of("limit", _PARTITION, 512, b"no limit event"),
    reason="written by a test of another team",
    operator="skip/ann@ops-1/4711",
)


def _event(type_: str, source: str, id_: str, time: str, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "type": type_,
        "id": id_,
        "source": source,
        "subject": _ACCOUNT,
        "time": time,
        "datacontenttype": "application/json",
        "data": data,
    }


def _inputs() -> dict[str, list[dict[str, Any]]]:
    usage_data = {
        "feature": "genai_video",
        "model": "veo_3",
        "quantity": "1",
        "hold_id": None,
        "dimensions": {"project": "p_77", "worker": "eu-1/7"},
    }
    usage = _event(
        "usage.recorded", "/render", "gen_01J9ZK", "2026-11-22T10:15:30.250Z", usage_data
    )
    opened = {
        "plan": "pro",
        "anchor": "2026-07-03T09:00:00Z",
        "time_zone": "Europe/Berlin",
        "used": "86.5",
        "free_used": "200",
        "as_of": "2026-11-01T00:00:00Z",
    }
    return {
        "usage.recorded": [{**usage, "recordedtime": "2026-11-22T10:15:31Z"}],
        "account.opened": [
            _event("account.opened", "/billing", "move_4821", "2026-11-01T00:00:00Z", opened)
        ],
        **_plan_changes(),
        **_suspension_and_thresholds(),
        **_corrections(),
        "catalog.published": [
            {
                "specversion": "1.0",
                "type": "catalog.published",
                "id": "catalog_2026_12",
                "source": "/product",
                "time": "2026-11-20T12:00:00Z",
                "datacontenttype": "application/json",
                "data": _CATALOG,
            }
        ],
    }


def _plan_changes() -> dict[str, list[dict[str, Any]]]:
    return {
        "account.subscribed": [
            _event(
                "account.subscribed",
                "/billing",
                "sub_77",
                "2026-07-03T09:00:00Z",
                {"plan": "pro", "time_zone": "Europe/Berlin"},
            )
        ],
        "account.plan_changed": [
            _event(
                "account.plan_changed",
                "/billing",
                "chg_78",
                "2026-11-22T10:18:02Z",
                {"plan": "max"},
            )
        ],
        "account.cancelled": [
            _event(
                "account.cancelled",
                "/billing",
                "end_79",
                "2026-12-01T12:00:00Z",
                {"effective": "period_end"},
            )
        ],
    }


def _suspension_and_thresholds() -> dict[str, list[dict[str, Any]]]:
    return {
        "account.suspended": [
            _event(
                "account.suspended",
                "/billing",
                "in_1188",
                "2026-12-03T09:05:00Z",
                {"reason": "payment_failed", "note": "the card has expired; third attempt"},
            )
        ],
        "account.resumed": [
            _event(
                "account.resumed",
                "/billing",
                "in_1188_paid",
                "2026-12-04T08:11:00Z",
                {"reason": "paid"},
            )
        ],
        "account.thresholds_set": [
            _event(
                "account.thresholds_set",
                "/crm",
                "marks_4821",
                "2026-11-10T09:00:00Z",
                {"thresholds": ["0.5", "0.9"]},
            )
        ],
    }


def _corrections() -> dict[str, list[dict[str, Any]]]:
    return {
        "credits.granted": [
            _event(
                "credits.granted",
                "/support",
                "case_1204",
                "2026-11-20T08:00:00Z",
                {
                    "credits": "25",
                    "reason": "a render that came out black",
                    "expires_at": "2027-01-01T00:00:00Z",
                },
            )
        ],
        "usage.voided": [
            _event(
                "usage.voided",
                "/render",
                "void_gen_01J9ZK",
                "2026-11-22T11:00:00Z",
                {"source": "/render", "id": "gen_01J9ZK", "reason": "the video never arrived"},
            )
        ],
    }


_CATALOG: dict[str, Any] = {
    "version": "2026-12",
    "effective_from": "2026-12-01T00:00:00Z",
    "plans": [
        {"id": "free", "name": "Free", "price_cents": 0, "credits": "200", "renews": False},
        {"id": "pro", "name": "Pro", "price_cents": 999, "credits": "200", "renews": True},
        {"id": "max", "name": "Max", "price_cents": 2499, "credits": "500", "renews": True},
    ],
    "features": [
        {
            "id": "genai_video",
            "name": "GenAI video",
            "section": "Add-ons",
            "models": [
                {"id": "veo_3", "name": "Veo 3", "rate": {"credits": "100", "unit": "generation"}}
            ],
        },
        {
            "id": "chat_message",
            "name": "Chat message",
            "section": "Chat-based editing",
            "rate": {"credits": "2", "unit": "message"},
        },
    ],
    "thresholds": ["0.8"],
}


def _use() -> LedgerEntry:
    before = Figures(allotment=200 * _CREDIT, granted=0, used=120 * _CREDIT, remaining=80 * _CREDIT)
    after = Figures(allotment=200 * _CREDIT, granted=0, used=220 * _CREDIT, remaining=-20 * _CREDIT)
    offer = UpgradeOffer(plan="max", name="Max", price_cents=2499, allotment=500 * _CREDIT)
    return LedgerEntry(
        kind="usage",
        appended_at=_RENDERED.replace(microsecond=900_000),
        account=_ACCOUNT,
        input=InputAddress(topic="usage", partition=_PARTITION, offset=88_120),
        event=EventReference(
            source="/render", id="gen_01J9ZK", occurred_at=_RENDERED, content="9b" * 16
        ),
        period=_PERIOD,
        feature="genai_video",
        model="veo_3",
        quantity=Decimal(1),
        rate=Rate(credits=100 * _CREDIT, unit="generation"),
        catalog_version="2026-11",
        credits=100 * _CREDIT,
        before=before,
        after=after,
        crossings=(
            Crossing(
                type="limit.threshold",
                reason="usage",
                plan="pro",
                period=_PERIOD,
                figures=after,
                threshold="0.8",
                action="prompt_upgrade",
                upgrade=offer,
            ),
            Crossing(
                type="limit.reached",
                reason="usage",
                plan="pro",
                period=_PERIOD,
                figures=after,
                action="block",
                upgrade=offer,
            ),
        ),
    )


def _upgrade() -> LedgerEntry:
    before = Figures(
        allotment=200 * _CREDIT, granted=0, used=220 * _CREDIT, remaining=-20 * _CREDIT
    )
    after = Figures(allotment=500 * _CREDIT, granted=0, used=220 * _CREDIT, remaining=280 * _CREDIT)
    return LedgerEntry(
        kind="plan_change",
        appended_at=_UPGRADED.replace(microsecond=400_000),
        account=_ACCOUNT,
        input=InputAddress(topic="account", partition=_PARTITION, offset=310),
        event=EventReference(
            source="/billing", id="chg_78", occurred_at=_UPGRADED, content="c4" * 16
        ),
        period=_PERIOD,
        catalog_version="2026-11",
        before=before,
        after=after,
        plan_change=PlanChange(plan="max", allotment=500 * _CREDIT),
        crossings=(
            Crossing(
                type="limit.cleared",
                reason="plan_changed",
                plan="max",
                period=_PERIOD,
                figures=after,
            ),
        ),
    )


def _limit_events() -> dict[str, list[dict[str, Any]]]:
    use = {
        "account": _ACCOUNT,
        "plan": "pro",
        "period": {"start": "2026-11-03T09:00:00Z", "end": "2026-12-03T09:00:00Z"},
        "used": "220",
        "remaining": "-20",
        "allotment": "200",
        "granted": "0",
        "reason": "usage",
        "upgrade": {"plan": "max", "name": "Max", "price_cents": 2499, "allotment": "500"},
        "suspension": None,
        "resets_at": "2026-12-03T09:00:00Z",
        "crossed_by": {
            "source": "/render",
            "id": "gen_01J9ZK",
            "occurred_at": "2026-11-22T10:15:30.250000Z",
        },
    }
    cleared = {
        **use,
        "plan": "max",
        "remaining": "280",
        "allotment": "500",
        "threshold": None,
        "reason": "plan_changed",
        "action": None,
        "upgrade": None,
        "crossed_by": {"source": "/billing", "id": "chg_78", "occurred_at": "2026-11-22T10:18:02Z"},
    }
    threshold = {**use, "threshold": "0.8", "action": "prompt_upgrade"}
    reached = {**use, "threshold": None, "action": "block"}
    at, later = "2026-11-22T10:15:30.900000Z", "2026-11-22T10:18:02.400000Z"
    return {
        "limit.threshold": [_limit_event("limit.threshold", at, threshold, 1042, 0, 2)],
        "limit.reached": [_limit_event("limit.reached", at, reached, 1042, 1, 2)],
        "limit.cleared": [_limit_event("limit.cleared", later, cleared, 1043, 0, 1)],
    }


def _limit_event(
    type_: str, time: str, data: dict[str, Any], offset: int, index: int, crossings: int
) -> dict[str, Any]:
    entry = {"partition": _PARTITION, "offset": offset, "index": index, "crossings": crossings}
    return _event(
        type_,
        "/usageledger/limits",
        f"{_PARTITION}-{offset}-{index}",
        time,
        {**data, "entry": entry},
    )
