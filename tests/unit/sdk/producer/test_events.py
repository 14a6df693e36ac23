"""The bytes that producers send, and the arguments that they refuse at the call."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from usageledger.domain.bounds import EVENT_BYTES_MAX
from usageledger.domain.events import (
    AccountCancelled,
    AccountOpened,
    AccountResumed,
    AccountSubscribed,
    AccountSuspended,
    CreditsGranted,
    PlanChanged,
    ThresholdsSet,
    UsageRecorded,
    UsageVoided,
)
from usageledger.ledger.decoding import decode_account, decode_usage
from usageledger.ledger.records import Record
from usageledger.log.topics import Topics
from usageledger.sdk.producer import events
from usageledger.sdk.producer.events import InvalidEvent

NOW = datetime(2026, 11, 22, 10, 15, 31, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def usage(**changes: Any) -> events.Event:
    given: dict[str, Any] = {
        "source": "/render",
        "account": "acct_4821",
        "id": "gen_01J9",
        "feature": "genai_video",
        "now": NOW,
    }
    return events.usage_recorded(**{**given, **changes})


def test_a_usage_event_is_the_documented_cloud_event() -> None:
    event = usage(
        model="veo_3",
        quantity=1,
        occurred_at=datetime(2026, 11, 22, 10, 15, 30, 250_000, tzinfo=UTC),
        dimensions={"project": "p_77", "worker": "eu-1/7"},
    )
    assert events.encode(event).decode() == (
        '{"specversion":"1.0","type":"usage.recorded","id":"gen_01J9","source":"/render",'
        '"subject":"acct_4821",'
        '"time":"2026-11-22T10:15:30.250Z","recordedtime":"2026-11-22T10:15:31Z",'
        '"datacontenttype":"application/json",'
        '"data":{"feature":"genai_video","model":"veo_3","quantity":"1","hold_id":null,'
        '"dimensions":{"project":"p_77","worker":"eu-1/7"}}}'
    )
    assert events.record_key(event) == b"acct_4821"
    assert events.topic_of(event, Topics("acme")) == "acme.usage.events.v1"


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (1, "1"),
        ("1.0", "1"),
        ("0.500000", "0.5"),
        (Decimal("3.25"), "3.25"),
        (Decimal("1E+3"), "1000"),
        (0, "0"),
        ("1000000000", "1000000000"),
    ],
)
def test_a_quantity_is_written_in_its_one_canonical_form(given: Any, written: str) -> None:
    data: Any = usage(quantity=given)["data"]
    assert data["quantity"] == written


def test_times_are_written_in_utc_to_the_microsecond() -> None:
    moment = datetime(2026, 11, 22, 11, 15, 30, 1, tzinfo=timezone(timedelta(hours=1)))
    assert usage(occurred_at=moment)["time"] == "2026-11-22T10:15:30.000001Z"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("account", ""),
        ("account", " acct"),
        ("account", "acct\n"),
        ("account", 7),
        ("account", "a" * 201),
        ("account", "\ud800"),
        ("source", ""),
        ("id", ""),
        ("id", None),
        ("feature", ""),
        ("model", ""),
        ("hold_id", "\t"),
        ("quantity", 0.1),
        ("quantity", True),
        ("quantity", -1),
        ("quantity", "0.0000001"),
        ("quantity", "1000000000.000001"),
        ("quantity", 10**400),
        ("quantity", "1e3"),
        ("quantity", None),
        # A naive time is refused.
        ("occurred_at", datetime(2026, 11, 22, 10, 15, 31)),  # noqa: DTZ001
        ("occurred_at", "2026-11-22T10:15:31Z"),
        ("occurred_at", NOW + timedelta(minutes=5) + SECOND),
        ("occurred_at", NOW - timedelta(days=35) - SECOND),
        ("dimensions", ["p_77"]),
        ("dimensions", {"project": 77}),
        ("dimensions", {7: "p"}),
        ("dimensions", {"": "p"}),
        ("dimensions", {"project": "\ud800"}),
    ],
)
def test_what_the_ledger_would_refuse_is_refused_at_the_call_naming_the_field(
    field: str, value: object
) -> None:
    with pytest.raises(InvalidEvent, match=field) as caught:
        usage(**{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize("occurred_at", [NOW + timedelta(minutes=5), NOW - timedelta(days=35)])
def test_the_ends_of_the_window_are_inside_it(occurred_at: datetime) -> None:
    assert usage(occurred_at=occurred_at)["time"] == events.format_time(occurred_at)


def test_history_for_a_ledger_in_import_mode_may_have_any_time() -> None:
    assert (
        usage(occurred_at=NOW - timedelta(days=400), live=False)["time"] == "2025-10-18T10:15:31Z"
    )


def test_an_event_has_at_most_the_bytes_that_a_record_may_have() -> None:
    room = EVENT_BYTES_MAX - len(events.encode(usage(dimensions={"text": ""})))
    assert len(events.encode(usage(dimensions={"text": "x" * room}))) == EVENT_BYTES_MAX
    with pytest.raises(InvalidEvent, match="65536 bytes, not 65537"):
        events.encode(usage(dimensions={"text": "x" * (room + 1)}))


def test_a_reason_may_be_an_exceptions_text() -> None:
    event = events.credits_granted(
        source="s", account="a", id="i", credits="1", reason="Traceback:\n\tKeyError", now=NOW
    )
    assert json.loads(events.encode(event))["data"]["reason"] == "Traceback:\n\tKeyError"
    with pytest.raises(InvalidEvent, match="reason must be shorter"):
        events.encode({**event, "data": {"reason": "x" * EVENT_BYTES_MAX}})


def test_the_ledger_reads_what_the_sdk_writes_as_it_was_meant() -> None:
    head: dict[str, Any] = {"source": "billing", "account": "a", "now": NOW}
    moment = NOW - SECOND

    def decoded(event: events.Event) -> object:
        record = Record(0, 0, events.record_key(event), events.encode(event))
        decode: Any = decode_usage if event["type"] == "usage.recorded" else decode_account
        return decode(record, 0, 1)

    def header(id: str) -> dict[str, Any]:
        return {"account": "a", "source": "billing", "id": id, "occurred_at": NOW}

    assert decoded(
        usage(model="veo_3", quantity="0.5", occurred_at=moment, hold_id="h", dimensions={"p": "q"})
    ) == UsageRecorded(
        account="acct_4821",
        source="/render",
        id="gen_01J9",
        occurred_at=moment,
        recorded_at=NOW,
        feature="genai_video",
        model="veo_3",
        quantity=Decimal("0.5"),
        hold_id="h",
        dimensions={"p": "q"},
    )
    opened = events.account_opened(
        **head,
        id="1",
        plan="pro",
        anchor=moment,
        time_zone="Asia/Tokyo",
        used="1.5",
        free_used=2,
        as_of=moment,
    )
    assert decoded(opened) == AccountOpened(
        **header("1"),
        plan="pro",
        anchor=moment,
        time_zone="Asia/Tokyo",
        used=1_500_000,
        free_used=2_000_000,
        as_of=moment,
    )
    subscribed = events.account_subscribed(**head, id="2", plan="max")
    assert decoded(subscribed) == AccountSubscribed(
        **header("2"), plan="max", time_zone="UTC", anchor=None
    )
    assert decoded(events.account_plan_changed(**head, id="3", plan="max")) == PlanChanged(
        **header("3"), plan="max"
    )
    assert decoded(events.account_cancelled(**head, id="4", effective="now")) == AccountCancelled(
        **header("4"), effective="now"
    )
    suspended = events.account_suspended(**head, id="6", reason="fraud", note="a stolen card")
    assert decoded(suspended) == AccountSuspended(
        **header("6"), reason="fraud", note="a stolen card"
    )
    assert decoded(events.account_resumed(**head, id="7")) == AccountResumed(**header("7"))
    own = events.account_thresholds_set(**head, id="8", thresholds=["0.50", Decimal("0.9")])
    assert decoded(own) == ThresholdsSet(**header("8"), thresholds=(Decimal("0.5"), Decimal("0.9")))
    assert decoded(events.account_thresholds_set(**head, id="9", thresholds=None)) == ThresholdsSet(
        **header("9"), thresholds=None
    )
    granted = events.credits_granted(
        **head, id="5", credits="50", reason="r", expires_at=NOW + SECOND
    )
    assert decoded(granted) == CreditsGranted(
        **header("5"), credits=50_000_000, reason="r", expires_at=NOW + SECOND
    )
    voided = events.usage_voided(**head, usage_source="render", usage_id="gen_1", reason="r")
    assert decoded(voided) == UsageVoided(
        **header(str(voided["id"])), usage_source="render", usage_id="gen_1", reason="r"
    )


def test_a_void_of_the_same_usage_is_the_same_event() -> None:
    def void(**changes: Any) -> events.Event:
        given: dict[str, Any] = {
            "source": "support",
            "account": "a",
            "usage_source": "/render",
            "usage_id": "gen_1",
            "reason": "black frames",
        }
        return events.usage_voided(**{**given, "now": NOW, **changes})

    first = void()
    assert first["data"] == {"source": "/render", "id": "gen_1", "reason": "black frames"}
    assert first["id"] == void(now=NOW + SECOND)["id"]
    others = [
        void(account="b"),
        void(usage_source="/image"),
        void(usage_id="gen_2"),
        void(account='a", "b'),
    ]
    assert len({str(each["id"]) for each in [first, *others]}) == 5
    assert events.topic_of(first, Topics()) == "account.events.v1"


Build = Callable[..., events.Event]


@pytest.mark.parametrize(
    ("build", "given", "type_", "data"),
    [
        (
            events.account_opened,
            {
                "plan": "pro",
                "anchor": NOW,
                "time_zone": "Europe/Berlin",
                "used": "12.50",
                "free_used": 200,
                "as_of": NOW,
            },
            "account.opened",
            {
                "plan": "pro",
                "anchor": "2026-11-22T10:15:31Z",
                "time_zone": "Europe/Berlin",
                "used": "12.5",
                "free_used": "200",
                "as_of": "2026-11-22T10:15:31Z",
            },
        ),
        (events.account_opened, {"plan": "free"}, "account.opened", {"plan": "free"}),
        (events.account_subscribed, {"plan": "max"}, "account.subscribed", {"plan": "max"}),
        (
            events.account_plan_changed,
            {"plan": "scale_2x"},
            "account.plan_changed",
            {"plan": "scale_2x"},
        ),
        (events.account_cancelled, {}, "account.cancelled", {"effective": "period_end"}),
        (events.account_cancelled, {"effective": "now"}, "account.cancelled", {"effective": "now"}),
        (
            events.account_suspended,
            {"reason": "payment_failed"},
            "account.suspended",
            {"reason": "payment_failed"},
        ),
        (
            events.account_suspended,
            {"reason": "fraud", "note": "sure"},
            "account.suspended",
            {"reason": "fraud", "note": "sure"},
        ),
        (events.account_resumed, {}, "account.resumed", {}),
        (
            events.account_resumed,
            {"reason": "paid", "note": "at last"},
            "account.resumed",
            {"reason": "paid", "note": "at last"},
        ),
        (
            events.account_thresholds_set,
            {"thresholds": ["0.5", "0.90"]},
            "account.thresholds_set",
            {"thresholds": ["0.5", "0.9"]},
        ),
        (
            events.account_thresholds_set,
            {"thresholds": []},
            "account.thresholds_set",
            {"thresholds": []},
        ),
        (
            events.account_thresholds_set,
            {"thresholds": None},
            "account.thresholds_set",
            {"thresholds": None},
        ),
        (
            events.credits_granted,
            {"credits": "50", "reason": "sorry"},
            "credits.granted",
            {"credits": "50", "reason": "sorry"},
        ),
        (
            events.credits_granted,
            {"credits": "0.000001", "reason": "a test", "expires_at": NOW + SECOND},
            "credits.granted",
            {"credits": "0.000001", "reason": "a test", "expires_at": "2026-11-22T10:15:32Z"},
        ),
    ],
)
def test_an_account_event_carries_what_was_given_and_leaves_out_what_was_not(
    build: Build, given: dict[str, Any], type_: str, data: dict[str, object]
) -> None:
    event = build(source="billing", account="acct_1", id="evt_1", now=NOW, **given)
    assert json.loads(events.encode(event)) == {
        "specversion": "1.0",
        "type": type_,
        "id": "evt_1",
        "source": "billing",
        "subject": "acct_1",
        "time": "2026-11-22T10:15:31Z",
        "recordedtime": "2026-11-22T10:15:31Z",
        "datacontenttype": "application/json",
        "data": data,
    }


@pytest.mark.parametrize(
    ("build", "given", "field"),
    [
        (events.account_opened, {"plan": "pro", "used": "-1"}, "used"),
        (events.account_opened, {"plan": "pro", "free_used": 0.5}, "free_used"),
        # A naive time is refused.
        (
            events.account_opened,
            {"plan": "pro", "anchor": datetime(2026, 1, 31)},  # noqa: DTZ001
            "anchor",
        ),
        (events.account_subscribed, {"plan": "pro", "time_zone": "Mars/Olympus"}, "time_zone"),
        (events.account_subscribed, {"plan": "pro", "time_zone": "../etc/passwd"}, "time_zone"),
        (events.account_subscribed, {"plan": ""}, "plan"),
        (events.account_cancelled, {"effective": "yesterday"}, "effective"),
        (events.account_suspended, {"reason": ""}, "reason"),
        (events.account_suspended, {"reason": "x" * 201}, "reason"),
        (events.account_suspended, {"reason": "fraud", "note": " "}, "note"),
        (events.account_suspended, {"reason": "fraud", "note": 7}, "note"),
        (events.account_resumed, {"reason": "a\nb"}, "reason"),
        (events.account_thresholds_set, {"thresholds": "0.5"}, "thresholds"),
        (events.account_thresholds_set, {"thresholds": [0.5]}, "thresholds"),
        (events.account_thresholds_set, {"thresholds": ["0.9", "0.5"]}, "thresholds"),
        (events.account_thresholds_set, {"thresholds": ["1"]}, "thresholds"),
        (events.account_thresholds_set, {"thresholds": 7}, "thresholds"),
        (events.credits_granted, {"credits": "0", "reason": "r"}, "credits"),
        (events.credits_granted, {"credits": "-5", "reason": "r"}, "credits"),
        (events.credits_granted, {"credits": 1.5, "reason": "r"}, "credits"),
        (events.credits_granted, {"credits": "5", "reason": " "}, "reason"),
        (events.credits_granted, {"credits": "5", "reason": "\ud800"}, "reason"),
        (
            events.account_subscribed,
            {"plan": "pro", "anchor": datetime(1969, 12, 31, tzinfo=UTC)},
            "anchor",
        ),
        (
            events.account_subscribed,
            {"plan": "pro", "anchor": datetime(3000, 1, 1, tzinfo=UTC)},
            "anchor",
        ),
        (events.credits_granted, {"credits": "5", "reason": "r", "expires_at": NOW}, "expires_at"),
    ],
)
def test_a_wrong_account_event_is_refused_naming_the_field(
    build: Build, given: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidEvent, match=field) as caught:
        build(source="billing", account="acct_1", id="evt_1", now=NOW, **given)
    assert caught.value.field == field
