"""Bad input: every kind becomes a refusal with its reason, and none raises."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from usageledger.domain.bounds import EVENT_BYTES_MAX, NAME_LENGTH_MAX
from usageledger.domain.events import (
    AccountOpened,
    AccountResumed,
    AccountSubscribed,
    AccountSuspended,
    CreditsGranted,
    ThresholdsSet,
    UsageRecorded,
    UsageVoided,
)
from usageledger.domain.quantity import check_name
from usageledger.ledger.decoding import (
    BRACKETS_MAX,
    DETAIL_LENGTH_MAX,
    Malformed,
    decode_account,
    decode_catalog,
    decode_usage,
)
from usageledger.ledger.partitioning import partition_of
from usageledger.ledger.records import Record

USAGE: dict[str, Any] = {
    "specversion": "1.0",
    "type": "usage.recorded",
    "id": "gen_1",
    "source": "/render",
    "subject": "acct_1",
    "time": "2026-11-22T10:15:30.250Z",
    "data": {"feature": "genai_video", "model": "veo_3", "quantity": "1"},
}
GRANT: dict[str, Any] = {**USAGE, "type": "credits.granted", "data": {"credits": "5"}}


def _record(value: bytes | str | dict[str, Any] | None, key: bytes | None = b"acct_1") -> Record:
    if isinstance(value, dict):
        value = json.dumps(value)
    return Record(7, 0, key, value.encode() if isinstance(value, str) else value)


def _usage(*data: dict[str, Any], **fields: Any) -> Record:
    return _record({**USAGE, **fields, "data": {**USAGE["data"], **(data[0] if data else {})}})


def _without(event: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in names}


def _refused(decoded: object) -> str:
    assert isinstance(decoded, Malformed), decoded
    assert 0 < len(decoded.detail) <= DETAIL_LENGTH_MAX
    return decoded.refusal.value


def test_a_usage_event_keeps_all_its_fields() -> None:
    event = decode_usage(
        _usage(
            {"hold_id": "h1", "dimensions": {"worker": "eu-1/7"}, "quantity": 2},
            recordedtime="2026-11-22T11:15:31+01:00",
        ),
        0,
        1,
    )
    assert event == UsageRecorded(
        account="acct_1",
        source="/render",
        id="gen_1",
        occurred_at=datetime(2026, 11, 22, 10, 15, 30, 250_000, tzinfo=UTC),
        recorded_at=datetime(2026, 11, 22, 10, 15, 31, tzinfo=UTC),
        feature="genai_video",
        model="veo_3",
        quantity=Decimal(2),
        hold_id="h1",
        dimensions={"worker": "eu-1/7"},
    )


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (_record(None), "empty_record"),
        (_record(b""), "empty_record"),
        (_record("x" * (EVENT_BYTES_MAX + 1)), "record_too_large"),
        (_record(" " * EVENT_BYTES_MAX), "not_json"),
        (_record("{"), "not_json"),
        (_record("not json"), "not_json"),
        (_record(b"\xff\xfe\x00"), "not_json"),
        (_record(json.dumps(USAGE)[:-1]), "not_json"),
        (_record(json.dumps(USAGE) + "{}"), "not_json"),
        (_record('{"a":' * (BRACKETS_MAX + 1)), "not_json"),
        (_record("[" * 60_000), "not_json"),
        (_record("[]"), "not_a_cloudevent"),
        (_record("null"), "not_a_cloudevent"),
        (_record("3"), "not_a_cloudevent"),
        (_record("1e400"), "not_json"),  # no number that a double holds
        (_record("{}"), "not_a_cloudevent"),
        (_record(_without(USAGE, "specversion")), "not_a_cloudevent"),
        (_record(_without(USAGE, "id")), "not_a_cloudevent"),
        (_record(_without(USAGE, "source")), "not_a_cloudevent"),
        (_record(_without(USAGE, "type")), "not_a_cloudevent"),
        (_usage(specversion="0.3"), "not_a_cloudevent"),
        (_usage(specversion=1.0), "not_a_cloudevent"),
        (_usage(id=7), "not_a_cloudevent"),
        (_usage(type="credits.granted"), "unknown_type"),
        (_usage(type="usage.recorded.v2"), "unknown_type"),
        (_usage(type=""), "unknown_type"),
        (_record(_without(USAGE, "subject")), "invalid_event"),
        (_record(_without(USAGE, "time")), "invalid_event"),
        (_record(_without(USAGE, "data")), "invalid_event"),
        (_usage(subject=""), "invalid_event"),
        (_usage(subject=None), "invalid_event"),
        (_usage(subject="x" * (NAME_LENGTH_MAX + 1)), "invalid_event"),
        (_usage(id=""), "invalid_event"),
        (_usage(id=" padded"), "invalid_event"),
        (_usage(id="line\nbreak"), "invalid_event"),
        (_usage(source="tab\t"), "invalid_event"),
        (_usage(time="2026-11-22T10:15:30"), "invalid_event"),
        (_usage(time="2026-11-22"), "invalid_event"),
        (_usage(time="yesterday"), "invalid_event"),
        (_usage(time=1_763_806_530), "invalid_event"),
        (_usage(time="0001-01-01T00:00:00+10:00"), "invalid_event"),
        (_usage(time="10000-01-01T00:00:00Z"), "invalid_event"),
        (_record({**USAGE, "data": None}), "invalid_event"),
        (_usage(recordedtime="later"), "invalid_event"),
        (_usage({"quantity": "-1"}), "invalid_event"),
        (_usage({"quantity": -1}), "invalid_event"),
        (_usage({"quantity": 1.5}), "invalid_event"),
        (_usage({"quantity": 1.0}), "invalid_event"),
        (_usage({"quantity": "1e3"}), "invalid_event"),
        (_usage({"quantity": "1.0000001"}), "invalid_event"),
        (_usage({"quantity": "1000000000.000001"}), "invalid_event"),
        (_usage({"quantity": 1_000_000_001}), "invalid_event"),
        (_usage({"quantity": 10**30}), "invalid_event"),
        (_usage({"quantity": "NaN"}), "invalid_event"),
        (_usage({"quantity": "Infinity"}), "invalid_event"),
        (_usage({"quantity": ""}), "invalid_event"),
        (_usage({"quantity": "１"}), "invalid_event"),
        (_usage({"quantity": True}), "invalid_event"),
        (_usage({"quantity": None}), "invalid_event"),
        (_usage({"quantity": ["1"]}), "invalid_event"),
        (_usage({"feature": None}), "invalid_event"),
        (_usage({"feature": ""}), "invalid_event"),
        (_usage({"model": ""}), "invalid_event"),
        (_usage({"model": 3}), "invalid_event"),
        (_usage({"hold_id": " "}), "invalid_event"),
        (_usage({"dimensions": {"a": 1}}), "invalid_event"),
        (_usage({"dimensions": ["a"]}), "invalid_event"),
        (_usage(subject="acct_2"), "wrong_key"),
        (_record(USAGE, key=None), "wrong_key"),
    ],
)
def test_a_bad_usage_record_is_refused_with_its_reason(record: Record, reason: str) -> None:
    assert _refused(decode_usage(record, 0, 1)) == reason


def _data(type_: str, **data: Any) -> Record:
    return _record({**USAGE, "type": type_, "data": data})


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (_record(USAGE), "unknown_type"),
        (_record(_without(USAGE, "type", "time")), "not_a_cloudevent"),
        (_record(_without(GRANT, "data")), "invalid_event"),
        (_record(_without(GRANT, "time")), "invalid_event"),
        (_data("account.renamed"), "unknown_type"),
        (_data("credits.granted"), "invalid_event"),
        (_data("credits.granted", credits="0"), "invalid_event"),
        (_data("credits.granted", credits="-1"), "invalid_event"),
        (_data("credits.granted", credits=0.5), "invalid_event"),
        (_data("credits.granted", credits="0.0000001"), "invalid_event"),
        (_data("credits.granted", credits="9007199254.740992"), "invalid_event"),
        (_data("credits.granted", credits="1", reason=None), "invalid_event"),
        (_data("credits.granted", credits="1", expires_at="2026-12-01T00:00:00"), "invalid_event"),
        (_data("credits.granted", credits="1", expires_at="1969-12-31T23:59:59Z"), "invalid_event"),
        (_data("credits.granted", credits="1", expires_at="3000-01-01T00:00:00Z"), "invalid_event"),
        (_data("account.subscribed"), "invalid_event"),
        (_data("account.subscribed", plan=""), "invalid_event"),
        (_data("account.subscribed", plan=["pro"]), "invalid_event"),
        (_data("account.subscribed", plan="pro", anchor="31 January"), "invalid_event"),
        (_data("account.subscribed", plan="pro", anchor="1969-12-31T23:59:59Z"), "invalid_event"),
        (_data("account.subscribed", plan="pro", time_zone=1), "invalid_event"),
        (_data("account.plan_changed", plan=None), "invalid_event"),
        (_data("account.cancelled", effective="yesterday"), "invalid_event"),
        (_data("account.suspended"), "invalid_event"),
        (_data("account.suspended", reason=None), "invalid_event"),
        (_data("account.suspended", reason=""), "invalid_event"),
        (_data("account.suspended", reason="x" * 201), "invalid_event"),
        (_data("account.suspended", reason="fraud", note=1), "invalid_event"),
        (_data("account.resumed", reason=" "), "invalid_event"),
        (_data("account.thresholds_set"), "invalid_event"),
        (_data("account.thresholds_set", thresholds="0.5"), "invalid_event"),
        (_data("account.thresholds_set", thresholds=[0.5]), "invalid_event"),
        (_data("account.thresholds_set", thresholds=["1"]), "invalid_event"),
        (_data("account.thresholds_set", thresholds=["0.9", "0.5"]), "invalid_event"),
        (_data("account.opened", plan="pro", used="-1"), "invalid_event"),
        (_data("account.opened", plan="pro", free_used=1.5), "invalid_event"),
        (_data("account.opened", plan="pro", as_of="2026-12-01"), "invalid_event"),
        (_data("usage.voided", source="/render"), "invalid_event"),
        (_data("usage.voided", id="gen_1"), "invalid_event"),
        (_data("usage.voided", source="", id="gen_1"), "invalid_event"),
        (_record({**GRANT, "subject": "acct_2"}), "wrong_key"),
    ],
)
def test_a_bad_account_record_is_refused_with_its_reason(record: Record, reason: str) -> None:
    assert _refused(decode_account(record, 0, 1)) == reason


def test_account_events_keep_all_their_fields() -> None:
    header: dict[str, Any] = {
        "account": "acct_1",
        "source": "/render",
        "id": "gen_1",
        "occurred_at": datetime(2026, 11, 22, 10, 15, 30, 250_000, tzinfo=UTC),
    }
    anchor = datetime(2026, 1, 31, 10, tzinfo=UTC)
    stated = {"plan": "pro", "time_zone": "Asia/Tokyo", "anchor": "2026-01-31T19:00:00+09:00"}
    opened = decode_account(
        _data("account.opened", **stated, used="1.5", free_used=2, as_of="2026-02-01T00:00:00Z"),
        0,
        1,
    )
    assert opened == AccountOpened(
        **header,
        plan="pro",
        time_zone="Asia/Tokyo",
        anchor=anchor,
        used=1_500_000,
        free_used=2_000_000,
        as_of=datetime(2026, 2, 1, tzinfo=UTC),
    )
    assert decode_account(_data("account.subscribed", **stated), 0, 1) == AccountSubscribed(
        **header, plan="pro", time_zone="Asia/Tokyo", anchor=anchor
    )
    suspended = decode_account(_data("account.suspended", reason="x" * 200, note="n"), 0, 1)
    assert suspended == AccountSuspended(**header, reason="x" * 200, note="n")
    assert decode_account(_data("account.resumed"), 0, 1) == AccountResumed(**header)
    own = decode_account(_data("account.thresholds_set", thresholds=["0.50", "0.9"]), 0, 1)
    assert own == ThresholdsSet(**header, thresholds=(Decimal("0.5"), Decimal("0.9")))
    assert decode_account(_data("account.thresholds_set", thresholds=None), 0, 1) == ThresholdsSet(
        **header, thresholds=None
    )
    granted = decode_account(
        _data("credits.granted", credits="0.5", reason="sorry", expires_at=None), 0, 1
    )
    assert granted == CreditsGranted(**header, credits=500_000, reason="sorry")
    voided = decode_account(_data("usage.voided", source="/s", id="i", reason="failed"), 0, 1)
    assert voided == UsageVoided(**header, usage_source="/s", usage_id="i", reason="failed")


def test_a_key_that_does_not_hash_to_its_partition_is_refused_before_anything_else() -> None:
    home = partition_of(b"acct_1", 7)
    assert isinstance(decode_usage(_record(USAGE), home, 7), UsageRecorded)
    for value in (json.dumps(USAGE).encode(), b"", None, b"not json"):
        malformed = decode_usage(_record(value), (home + 1) % 7, 7)
        assert _refused(malformed) == "wrong_partition"
        assert isinstance(malformed, Malformed) and malformed.account == "acct_1"


@pytest.mark.parametrize(
    ("key", "account"),
    [(None, ""), (b"", ""), (b"\xff", ""), (b"a\n", ""), (b" a", ""), ("ä".encode(), "ä")],
)
def test_a_refusal_names_the_account_of_its_key_if_that_is_a_name(
    key: bytes | None, account: str
) -> None:
    malformed = decode_usage(_record(b"not json", key), 0, 1)
    assert isinstance(malformed, Malformed) and malformed.account == account


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty_record"),
        (b"x", "not_json"),
        (b"[]", "not_a_cloudevent"),
        (json.dumps(USAGE).encode(), "unknown_type"),
    ],
)
def test_a_bad_catalog_record_is_refused_with_its_reason(value: bytes | None, reason: str) -> None:
    assert _refused(decode_catalog(Record(0, 0, None, value))) == reason


def test_a_catalog_that_cannot_be_used_is_refused() -> None:
    event = {
        **_without(USAGE, "subject", "time"),
        "type": "catalog.published",
        "data": {"version": "x"},
    }
    assert _refused(decode_catalog(_record(event))) == "invalid_event"


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "ä",
        "a b",
        "x" * NAME_LENGTH_MAX,
        "日本",
        "a\u00a0b",
        "a\u200bb",
        "\U0001f600",
        "\u200b",
    ],
)
def test_a_name_may_be_any_text_without_control_characters(name: str) -> None:
    assert check_name("id", name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a ",
        " a",
        "a\n",
        "a\x00b",
        "a\x7fb",
        "\u00a0a",
        "a\u2003",
        "x" * (NAME_LENGTH_MAX + 1),
        "a\ud800b",
    ],
)
def test_a_name_has_no_control_characters_and_no_space_at_its_ends(name: str) -> None:
    with pytest.raises(ValueError, match="id "):
        check_name("id", name)
