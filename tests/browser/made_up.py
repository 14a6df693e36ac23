"""Answers of the gateway about made-up accounts, in the shapes that the pages are written for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

Answer = dict[str, Any]
_Model = tuple[str | None, str | None, str, str, int]
"""Id, name, share of the feature's credits, unit, uses."""

AT = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)
START = datetime(2026, 11, 3, 9, 0, tzinfo=UTC)
END = datetime(2026, 12, 3, 9, 0, tzinfo=UTC)

SCALE = {"plan": "scale", "name": "Scale", "price_cents": 6999, "allotment": "1400"}
_DAYS: Sequence[float] = (
    6,
    0,
    14,
    9,
    22,
    0,
    0,
    31,
    12,
    8,
    25,
    17,
    0,
    2,
    28,
    36,
    14,
    9,
    0,
    4,
    19,
    33,
    11,
)
_SHARES = {
    "genai_video": Decimal("0.52"),
    "ai_edit": Decimal("0.22"),
    "genai_image": Decimal("0.16"),
    "chat_message": Decimal("0.1"),
}


def busy(daily: Sequence[float] = _DAYS) -> Answer:
    """An account on Max in the middle of a period, with a grant and an open hold.

    ``daily``: the credits used on each day. The default leaves some at the period's end.
    """
    days = [
        _day(START.date() + timedelta(days=number), Decimal(str(credits)))
        for number, credits in enumerate(daily)
    ]
    used = sum((Decimal(day["credits"]) for day in days), Decimal(0))
    return {
        "account": "acct_4821",
        "at": _text(AT),
        "as_of": None,
        "time_zone": "UTC",
        "known": True,
        "plan": {
            "id": "max",
            "name": "Max",
            "price_cents": 2499,
            "allotment": "500",
            "renews": True,
        },
        "next_plan": None,
        "period": {"number": 4, "start": _text(START), "end": _text(END)},
        "allotment": "500",
        "granted": "20",
        **_figures(used, held=Decimal(14), whole=Decimal(520)),
        "thresholds": ["0.8"],
        "blocked": None,
        "upgrade": SCALE,
        "grants": [
            {
                "source": "/support",
                "id": "g1",
                "credits": "20",
                "left": "20",
                "granted_at": "2026-11-12T15:00:00Z",
                "expires_at": None,
            }
        ],
        "holds": {"open": 1, "credits": "14"},
        "features": _features(days),
        "days": days,
        "pace": _pace(used, Decimal(520) - used),
        "renewal": {
            "at": _text(END),
            "plan": "max",
            "plan_name": "Max",
            "allotment": "500",
            "lapses": str(Decimal(500) - used),
            "granted_left": "20",
        },
        "history_as_of": None,
    }


def using(meter: Answer, used: str, *, held: str = "0") -> Answer:
    """The same account when it has used this much."""
    whole = Decimal(meter["used"]) + Decimal(meter["remaining"])
    changed = meter | _figures(Decimal(used), held=Decimal(held), whole=whole)
    changed["pace"] = _pace(Decimal(used), Decimal(changed["remaining"]))
    granted_left = str(max(Decimal(0), min(Decimal(20), Decimal(changed["remaining"]))))
    changed["grants"] = [grant | {"left": granted_left} for grant in meter["grants"]]
    changed["renewal"] = meter["renewal"] | {
        "lapses": str(max(Decimal(0), Decimal(500) - Decimal(used))),
        "granted_left": granted_left,
    }
    if Decimal(changed["remaining"]) <= 0:
        since = _text(AT - timedelta(minutes=7))
        changed["blocked"] = {
            "reason": "usage",
            "since": since,
            "suspension": None,
            "upgrade": SCALE,
            "resets_at": _text(END),
        }
    return changed


def suspended(meter: Answer) -> Answer:
    """The same account after a payment has failed."""
    since = _text(AT - timedelta(hours=3))
    return meter | {
        "blocked": {
            "reason": "suspended",
            "since": since,
            "suspension": "payment_failed",
            "upgrade": None,
            "resets_at": None,
        },
    }


def on_free() -> Answer:
    """An account on Free: its period has no end, no renewal and no past."""
    credits = (4, 11, 0, 9, 12, 6)
    dates = _dates(AT.date() - timedelta(days=30), AT.date())
    days = [
        _day(day, Decimal(credits[number - 25] if number >= 25 else 0))
        for number, day in enumerate(dates)
    ]
    return busy() | {
        "account": "acct_7",
        "plan": {
            "id": "free",
            "name": "Free",
            "price_cents": 0,
            "allotment": "200",
            "renews": False,
        },
        "period": {"number": 1, "start": "2026-11-20T12:00:00Z", "end": None},
        "allotment": "200",
        "granted": "0",
        **_figures(Decimal(42), held=Decimal(0), whole=Decimal(200)),
        "grants": [],
        "holds": {"open": 0, "credits": "0"},
        "days": days,
        "features": _features(days),
        "pace": {
            "days": "4.9",
            "credits_per_day": "8.5",
            "used_up_at": "2026-12-14T00:00:00Z",
            "at_period_end": None,
        },
        "renewal": None,
        "upgrade": {"plan": "max", "name": "Max", "price_cents": 2499, "allotment": "500"},
    }


def untouched() -> Answer:
    """Nothing has been used yet."""
    never_used = busy()
    return never_used | {
        "granted": "0",
        "renewal": never_used["renewal"] | {"lapses": "500", "granted_left": "0"},
        **_figures(Decimal(0), held=Decimal(0), whole=Decimal(500)),
        "grants": [],
        "holds": {"open": 0, "credits": "0"},
        "features": [],
        "days": [_day(day, Decimal(0)) for day in _dates(START.date(), AT.date())],
        "pace": None,
    }


def charges(count: int = 30, *, newest: int = 1_042) -> list[Answer]:
    """Recent charges, the newest first: at least one of each kind."""
    kinds = (
        _usage("genai_video", "GenAI Video", "veo_3", "Veo 3", "1", "generation", "32"),
        _usage("ai_edit", "AI Edit", None, None, "1", "edit", "14"),
        _usage(
            "chat_message", "Chat-Based Editing (user message)", None, None, "2", "message", "2"
        ),
        _usage(
            "genai_image", "GenAI Image", "gpt_4o_image", "GPT 4o Image", "4", "generation", "3"
        ),
        _happened(
            "void",
            "-14",
            "14 credits were given back: the use was voided, because the render failed.",
        ),
        _usage("prompt_to_video", "Prompt to Video", None, None, "2", "second", "8"),
        _happened("grant", "20", "20 credits were granted by support. They do not expire."),
        _happened(
            "renewal",
            "0",
            "A new period began: Max brought 500 credits, and 36 of the last period lapsed.",
        ),
    )
    found = []
    for number in range(count):
        at = AT - timedelta(minutes=11 + 137 * number)
        position = {
            "entry": f"3-{newest - number}",
            "appended_at": _text(at),
            "occurred_at": _text(at),
            "remaining_after": str(220 + 7 * number),
        }
        found.append(kinds[number % len(kinds)] | position)
    return found


def periods() -> list[Answer]:
    """Three periods that have ended, the newest first."""
    used = ("480", "356.5", "512")
    starts = [datetime(2026, month, 3, 9, 0, tzinfo=UTC) for month in (10, 9, 8, 11)]
    return [
        {
            "number": 3 - number,
            "start": _text(starts[number]),
            "end": _text(START if number == 0 else starts[number - 1]),
            "plan": "max",
            "plan_name": "Max",
            "allotment": "500",
            "granted": "0" if number < 2 else "20",
            "used": credits,
            "by_feature": {"genai_video": credits},
        }
        for number, credits in enumerate(used)
    ]


def live_figures(meter: Answer, *, at: datetime) -> Answer:
    """The part of this meter that the stream sends."""
    kept = (
        *(
            "as_of",
            "plan",
            "period",
            "allotment",
            "granted",
            "used",
            "held",
            "remaining",
            "available",
            "share_used",
        ),
        *("blocked", "upgrade", "holds"),
    )
    by_feature = {feature["id"]: feature["credits"] for feature in meter["features"]}
    return {name: meter[name] for name in kept} | {"at": _text(at), "by_feature": by_feature}


def _figures(used: Decimal, *, held: Decimal, whole: Decimal) -> Answer:
    remaining = whole - used
    share = Decimal(1) if remaining <= 0 else used / whole
    return {
        "used": str(used),
        "held": str(held),
        "remaining": str(remaining),
        "available": str(remaining - held),
        "share_used": str(share.quantize(Decimal("0.0001"))),
    }


def _pace(used: Decimal, remaining: Decimal) -> Answer:
    passed, to_come = (
        Decimal((moment - since).total_seconds()) / 86_400
        for moment, since in ((AT, START), (END, AT))
    )
    a_day = (used / passed).quantize(Decimal("0.01"))
    at_end = (remaining - a_day * to_come).quantize(Decimal("0.01"))
    used_up = (
        _text(AT + timedelta(days=float(remaining / a_day))) if at_end < 0 < remaining else None
    )
    return {
        "days": str(passed.quantize(Decimal("0.01"))),
        "credits_per_day": str(a_day),
        "used_up_at": used_up,
        "at_period_end": str(at_end),
    }


def _dates(first: date, last: date) -> list[date]:
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def _day(day: date, credits: Decimal) -> Answer:
    features = (
        {feature: str(credits * share) for feature, share in _SHARES.items()} if credits else {}
    )
    return {"date": day.isoformat(), "credits": str(credits), "features": features}


def _features(days: list[Answer]) -> list[Answer]:
    sums = {
        feature: sum((Decimal(day["features"].get(feature, 0)) for day in days), Decimal(0))
        for feature in _SHARES
    }
    videos = [
        ("veo_3", "Veo 3", "0.6", "generation", 3),
        ("pika_2_2", "Pika 2.2", "0.4", "generation", 4),
    ]
    images = [
        ("gpt_4o_image", "GPT 4o Image", "0.75", "generation", 12),
        ("photon", "Photon", "0.25", "generation", 11),
    ]
    rows: dict[str, tuple[str, Sequence[_Model]]] = {
        "genai_video": ("GenAI Video", videos),
        "ai_edit": ("AI Edit", [(None, None, "1", "edit", 5)]),
        "genai_image": ("GenAI Image", images),
        "chat_message": ("Chat-Based Editing (user message)", [(None, None, "1", "message", 15)]),
    }
    return [
        {
            "id": feature,
            "name": name,
            "credits": str(sums[feature]),
            "uses": sum(model[4] for model in models),
            "models": [
                {
                    "id": id_,
                    "name": label,
                    "credits": str(sums[feature] * Decimal(part)),
                    "quantity": str(uses),
                    "unit": unit,
                    "uses": uses,
                }
                for id_, label, part, unit, uses in models
            ],
        }
        for feature, (name, models) in rows.items()
    ]


def _usage(
    feature: str,
    feature_name: str,
    model: str | None,
    model_name: str | None,
    quantity: str,
    unit: str,
    rate: str,
) -> Answer:
    credits = str(Decimal(quantity) * Decimal(rate))
    plural = "" if quantity == "1" else "s"
    return {
        "kind": "usage",
        "event": {"source": "/render", "id": "gen_1"},
        "feature": feature,
        "feature_name": feature_name,
        "model": model,
        "model_name": model_name,
        "quantity": quantity,
        "unit": unit,
        "credits": credits,
        "is_late": False,
        "rate": {"credits": rate, "unit": unit, "per": "1", "rounding": "up"},
        "catalog_version": "captions-2026-11",
        "reason": None,
        "explanation": f"{quantity} {unit}{plural} of {model_name or feature_name} at {rate} "
        f"credits each: {credits} credits.",
    }


def _happened(kind: str, credits: str, explanation: str) -> Answer:
    nothing = dict.fromkeys(
        (
            "event",
            "feature",
            "feature_name",
            "model",
            "model_name",
            "quantity",
            "unit",
            "rate",
            "catalog_version",
            "reason",
        )
    )
    return nothing | {
        "kind": kind,
        "credits": credits,
        "is_late": False,
        "explanation": explanation,
    }


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
