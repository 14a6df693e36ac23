"""The differences between the product and the oracle, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from tests.oracle.oracle import LimitEvent, Oracle, Shown

MALFORMED = {
    "empty_record",
    "record_too_large",
    "not_json",
    "not_a_cloudevent",
    "unknown_type",
    "invalid_event",
    "wrong_key",
    "wrong_partition",
}


def outcome_differences(
    oracle: Oracle, decisions: Mapping[int, tuple[str, str | None]]
) -> Iterable[str]:
    """The inputs that the product and the oracle decided differently.

    ``decisions``: the kind and the reason of each arrival's last entry.
    """
    for number, arrival in enumerate(oracle.arrivals):
        if number not in decisions:
            yield f"input {number} has no entry: {arrival.value!r}"
            continue
        (entry_kind, entry_reason), expected = decisions[number], oracle.outcomes[number]
        kind = {"duplicate": "duplicate", "refusal": "refused"}.get(entry_kind, "accepted")
        reason = "malformed" if entry_reason in MALFORMED else entry_reason
        if kind not in expected.kinds or (kind == "refused" and reason not in expected.reasons):
            yield f"input {number} {kind} {reason or ''}, not {expected}: {arrival.value!r}"


def balance_differences(expected: Shown, shown: Mapping[str, Any]) -> list[str]:
    """The fields of ``account show --json`` that differ from the oracle's."""
    period = shown["period"]
    features = {name: Decimal(credits) for name, credits in shown["by_feature"].items()}
    pairs = {
        "plan": (expected.plan, shown["plan"]),
        "allotment": (expected.allotment, Decimal(shown["allotment"])),
        "granted": (expected.granted, Decimal(shown["granted"])),
        "used": (expected.used, Decimal(shown["used"])),
        "remaining": (expected.remaining, Decimal(shown["remaining"])),
        "blocked": (expected.blocked, shown["blocked"]),
        "by_feature": (
            {k: v for k, v in expected.by_feature.items() if v},
            {k: v for k, v in features.items() if v},
        ),
    }
    if expected.start is not None:
        pairs["start"] = (expected.start, _time(period["start"]))
        pairs["end"] = (expected.end, _time(period["end"]))
    return [
        f"{name} {_plain_text(there)}, not {_plain_text(here)}"
        for name, (here, there) in pairs.items()
        if here != there
    ]


def limit_event_differences(
    expected: list[LimitEvent], events: list[Mapping[str, Any]]
) -> list[str]:
    """The first two differences between one account's limit events and the oracle's."""
    different = []
    for place in range(max(len(expected), len(events))):
        here = _line(expected[place]) if place < len(expected) else "none"
        there = _line(_limit_event(events[place])) if place < len(events) else "none"
        if here != there:
            different.append(f"limit event {place}:\n     {there}\n not {here}")
    return different[:2]


def _limit_event(event: Mapping[str, Any]) -> LimitEvent:
    data = event["data"]
    by = data["crossed_by"]
    derived = by is None or data["reason"] in ("renewed", "grant_expired")
    return LimitEvent(
        account=data["account"],
        type=event["type"],
        reason=data["reason"],
        at=_time(event["time"]),
        plan=data["plan"],
        used=Decimal(data["used"]),
        remaining=Decimal(data["remaining"]),
        allotment=Decimal(data["allotment"]),
        threshold=data["threshold"],
        crossed_by=None if derived else (by["source"], by["id"]),
        upgrade=None if data["upgrade"] is None else data["upgrade"]["plan"],
        resets_at=_time(data["resets_at"]),
        action=data["action"],
    )


def _line(event: LimitEvent) -> str:
    return " ".join(
        f"{name}={_plain_text(getattr(event, name))}" for name in LimitEvent.__dataclass_fields__
    )


def _time(value: Any) -> Any:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _plain_text(value: Any) -> str:
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return (
        str(value)
        if not isinstance(value, dict)
        else str({name: _plain_text(item) for name, item in sorted(value.items())})
    )
