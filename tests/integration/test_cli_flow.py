"""The whole flow by the command line: a stack, an imported history, and every question about it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from usageledger import UsageGate
from usageledger.cli import app
from usageledger.domain.catalog_document import catalog_document, load_shipped_catalog
from usageledger.local.processes import is_alive
from usageledger.operations.record_sender import RECORD_BYTES_MAX
from usageledger.operations.waiting import is_true_within
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.runtime.redaction import redacted

IDLE_TIMEOUT = "90"


def event(kind: str, id: str, account: str, time: str, /, **data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "type": kind,
        "id": id,
        "source": "/test",
        "subject": account,
        "time": time,
        "data": data,
    }


def use(
    id: str,
    account: str,
    time: str,
    quantity: str = "1",
    feature: str = "genai_video",
    model: str | None = "veo_3",
) -> dict[str, Any]:
    return event(
        "usage.recorded", id, account, time, feature=feature, model=model, quantity=quantity
    )


HISTORY: list[dict[str, Any] | bytes] = [
    event(
        "account.subscribed",
        "s1",
        "ann",
        "2025-01-31T10:00:00Z",
        plan="pro",
        time_zone="Europe/Berlin",
    ),
    use("u1", "ann", "2025-02-01T10:00:00Z", "5"),
    use("u1", "ann", "2025-02-01T10:00:00Z", "5"),
    use("u2", "ann", "2025-02-02T10:00:00Z", "2"),
    use("u3", "ann", "2025-02-03T10:00:00Z", model="veo_9"),
    event("account.plan_changed", "p1", "ann", "2025-02-04T10:00:00Z", plan="max"),
    use("u4", "ann", "2025-02-05T10:00:00Z", "1.5", feature="prompt_to_video", model=None),
    event("credits.granted", "g1", "ann", "2025-02-06T10:00:00Z", credits="12.5", reason="sorry"),
    use("v1", "bob", "2025-02-07T10:00:00Z", "1"),
    event(
        "usage.voided",
        "x1",
        "bob",
        "2025-02-08T10:00:00Z",
        source="/test",
        id="v1",
        reason="failed",
    ),
    use("u5", "ann", "2025-04-30T10:00:00Z", "1"),
]
BAD: list[tuple[dict[str, Any] | bytes, str]] = [
    (b"not json", "not_json"),
    (b"[]", "not_a_cloudevent"),
    (b'{"specversion":"1.0"}', "not_a_cloudevent"),
    (use("b1", "ann", "2025-05-01T10:00:00") | {}, "invalid_event"),
    (use("b2", "ann", "2025-05-01T10:00:00Z", "-1"), "invalid_event"),
    (use("b3", "ann", "2025-05-01T10:00:00Z", "1.1234567"), "invalid_event"),
    (use("b4", "ann", "2025-05-01T10:00:00Z", "9" * 40), "invalid_event"),
    (
        use("b5", "ann", "2025-05-01T10:00:00Z", feature="genai_smell", model=None),
        "unknown_feature",
    ),
    (use("u5", "ann", "2025-05-01T10:00:00Z", "7"), "id_reused_with_different_content"),
    (use("b6", "ann", "2025-05-01T10:00:00Z") | {"type": "usage.dreamt"}, "unknown_type"),
    (use("b7", "ann", "2025-05-01T10:00:00Z") | {"subject": None}, "invalid_event"),
    (use("b8", "ann", "2025-05-01T10:00:00Z") | {"padding": "x" * 70_000}, "record_too_large"),
    (
        event("account.plan_changed", "b9", "ann", "2025-05-01T10:00:00Z", plan="platinum"),
        "unknown_plan",
    ),
]


@dataclass(frozen=True)
class Ledger:
    """A stack's directory, and the command line pointed at it."""

    data: Path
    ready: dict[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        """The variables that reach the stack, its key and Redis's password among them."""
        return self.one("env")

    def run(self, *arguments: str, input: bytes | None = None) -> Result:
        return CliRunner().invoke(app, [*arguments, "--data", str(self.data)], input=input)

    def ok(self, *arguments: str, input: bytes | None = None) -> str:
        result = self.run(*arguments, input=input)
        assert result.exit_code == 0, result.output
        return result.stdout

    def one(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok(*arguments, "--json"))
        return found

    def each(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.ok(*arguments, "--json").splitlines()]

    def get(self, path: str) -> dict[str, Any]:
        """The gateway's answer to a GET."""
        answer = httpx.get(
            self.ready["gateway"] + path,
            headers={"Authorization": f"Bearer {self.environment['USAGELEDGER_KEY']}"},
            timeout=10,
        )
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def send(self, events: Sequence[dict[str, Any] | bytes]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("send", "-", "--json", input=ndjson(events)))
        self.ok("wait-idle", "--timeout", IDLE_TIMEOUT)
        return found


def ndjson(events: Sequence[dict[str, Any] | bytes]) -> bytes:
    return b"".join(
        (each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in events
    )


def usageledger(*arguments: str, redis_url: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "usageledger.cli", *arguments],
        env=os.environ | {"USAGELEDGER_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def ledger(
    kafka: KafkaConnection, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ledger]:
    """A stack in import mode on the session's servers, with HISTORY in it."""
    data = tmp_path_factory.mktemp("stack")
    prefix = f"t{uuid.uuid4().hex[:10]}"
    up = usageledger(
        *(
            "up",
            "--data",
            str(data),
            "--kafka",
            str(kafka),
            "--prefix",
            prefix,
            "--import",
            "--detach",
            "--json",
        ),
        redis_url=redis_url,
    )
    assert up.returncode == 0, up.stderr
    found = Ledger(data, json.loads(up.stdout))
    try:
        report = found.send(HISTORY)
        assert report["sent"] == len(HISTORY)
        yield found
    finally:
        usageledger("down", "--data", str(data))


def test_the_ready_line_names_every_address(
    ledger: Ledger, kafka: KafkaConnection, redis_url: str
) -> None:
    assert (ledger.ready["kafka"], ledger.ready["redis"], ledger.ready["data"]) == (
        str(kafka),
        redacted(redis_url),
        str(ledger.data),
    )


def test_the_status_names_every_service_and_its_lag(ledger: Ledger) -> None:
    status = ledger.one("status")
    services = {service["name"]: service for service in status["services"]}
    assert list(services) == ["kafka", "redis", "processor", "limits", "history", "gateway"]
    assert {name for name, service in services.items() if service["lag"] is None} == {
        "kafka",
        "redis",
        "gateway",
    }
    assert (services["processor"]["lag"], services["limits"]["lag"]) == (0, 0)
    assert all(is_alive(services[name]["pid"]) for name in ("processor", "limits"))
    assert {service["state"] for service in services.values()} == {"running"}


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2025-01-31T09:59:59Z", {"known": False, "plan": "free", "remaining": "200", "used": "0"}),
        (
            "2025-01-31T10:00:00Z",
            {"known": True, "plan": "pro", "allotment": "200", "remaining": "200"},
        ),
        (
            "2025-02-01T10:00:00Z",
            {
                "used": "160",
                "remaining": "40",
                "blocked": False,
                "by_feature": {"genai_video": "160"},
            },
        ),
        ("2025-02-02T10:00:00Z", {"used": "224", "remaining": "-24", "blocked": True}),
        (
            "2025-02-04T10:00:00Z",
            {
                "plan": "max",
                "allotment": "500",
                "used": "224",
                "remaining": "276",
                "blocked": False,
            },
        ),
        ("2025-02-06T10:00:00Z", {"granted": "12.5", "used": "240", "remaining": "272.5"}),
        (
            "2025-02-28T09:59:59Z",
            {
                "period": {"start": "2025-01-31T10:00:00Z", "end": "2025-02-28T10:00:00Z"},
                "used": "240",
            },
        ),
        (
            "2025-02-28T10:00:00Z",
            {
                "period": {"start": "2025-02-28T10:00:00Z", "end": "2025-03-31T09:00:00Z"},
                "used": "0",
            },
        ),
        (
            "2025-12-24",
            {
                "plan": "max",
                "allotment": "500",
                "granted": "12.5",
                "used": "0",
                "remaining": "512.5",
            },
        ),
    ],
)
def test_an_account_can_be_shown_at_any_time(
    ledger: Ledger, at: str, expected: dict[str, Any]
) -> None:
    shown = ledger.one("account", "show", "ann", "--at", at)
    assert {name: shown[name] for name in expected} == expected


def test_a_void_gives_back_what_it_cost(ledger: Ledger) -> None:
    assert ledger.one("account", "show", "bob", "--at", "2025-02-07T12:00")["remaining"] == "168"
    assert ledger.one("account", "show", "bob", "--at", "2025-02-09")["remaining"] == "200"


def test_a_ledger_in_import_mode_is_shown_by_its_own_clock(ledger: Ledger) -> None:
    shown = ledger.one("account", "show", "bob")
    assert shown["at"] < "2025-12-01"
    assert (shown["known"], shown["plan"]) == (True, "free")


def test_an_account_is_shown_to_people_as_well(ledger: Ledger) -> None:
    shown = ledger.ok("account", "show", "ann", "--at", "2025-02-02T10:00:00Z")
    assert "ann · pro · blocked" in shown
    assert "200 allotment + 0 granted - 224 used = -24 remaining" in shown


def test_the_usage_meter_agrees_with_the_command_line(ledger: Ledger) -> None:
    """Its figures come from the counters, its charges from the history: both follow the ledger."""
    shown = ledger.one("account", "show", "ann")
    assert is_true_within(lambda: ledger.get("/v1/accounts/ann/meter")["history_as_of"] is None, 60)
    meter = ledger.get("/v1/accounts/ann/meter")
    for name in ("allotment", "granted", "used", "remaining", "by_feature", "known"):
        assert meter[name] == shown[name]
    charges = ledger.get("/v1/accounts/ann/charges?limit=100")["items"]
    told = [(each["entry"], each["kind"]) for each in charges]
    entries = [
        each
        for each in ledger.each("ledger", "show", "--account", "ann")
        if each["kind"] not in ("refusal", "duplicate")
    ]
    assert told == [
        (f"{each['partition']}-{each['offset']}", each["kind"]) for each in reversed(entries)
    ]
    used = [
        sum(
            Decimal(each["credits"])
            for each in charges
            if each["kind"] == "usage" and each["period"] == 1
        )
    ]
    periods = ledger.get("/v1/accounts/ann/periods")["items"]
    assert used == [Decimal(each["used"]) for each in periods if each["number"] == 1]


def test_each_service_tells_how_it_is_doing(ledger: Ledger) -> None:
    telemetry = ledger.one("status")["telemetry"]
    assert list(telemetry) == ["processor", "limits", "history", "gateway"]
    for address in telemetry.values():
        assert is_true_within(partial(_is_ready, address), 60)
        assert "usageledger_" in httpx.get(f"{address}/metrics").text


def _is_ready(address: str) -> bool:
    return httpx.get(f"{address}/readyz").status_code == 200


def test_entries_are_in_the_ledger_in_the_order_of_the_file(ledger: Ledger) -> None:
    entries = [
        entry
        for entry in ledger.each("ledger", "show", "--account", "ann")
        if entry["appended_at"] < "2025-02-20"
    ]
    named = [
        (entry["kind"], entry["event"]["id"], entry["credits"])
        for entry in entries
        if "event" in entry
    ]
    assert named == [
        ("plan_change", "s1", "0"),
        ("usage", "u1", "160"),
        ("duplicate", "u1", "0"),
        ("usage", "u2", "64"),
        ("refusal", "u3", "0"),
        ("plan_change", "p1", "0"),
        ("usage", "u4", "16"),
        ("grant", "g1", "0"),
    ]


def test_the_newest_entries_are_shown_last(ledger: Ledger) -> None:
    shown = ledger.each("ledger", "show", "--account", "ann", "--limit", "3")
    everything = ledger.each("ledger", "show", "--account", "ann")
    assert shown == everything[-3:]
    assert "genai_video/veo_3 × 5" in ledger.ok("ledger", "show", "--limit", "0")


def test_limit_events_are_printed_as_the_cloudevents_that_they_are(ledger: Ledger) -> None:
    events = [
        each
        for each in ledger.each("limits", "tail", "--from-beginning", "--until-idle", "1")
        if each["time"] < "2025-04-01"
    ]
    assert [
        (each["type"], each["subject"], each["data"]["threshold"], each["data"]["remaining"])
        for each in events
    ] == [
        ("limit.threshold", "ann", "0.8", "40"),
        ("limit.reached", "ann", None, "-24"),
        ("limit.cleared", "ann", None, "276"),
    ]
    assert all(
        each["specversion"] == "1.0" and each["data"]["crossed_by"]["source"] == "/test"
        for each in events
    )
    line = ledger.ok("limits", "tail", "--from-beginning", "--until-idle", "1")
    assert "ann  limit.reached (usage): 224 used, -24 remain on pro, next: Max (500 credits" in line


def test_each_bad_line_ends_as_a_refusal_with_its_place_and_nothing_is_lost(ledger: Ledger) -> None:
    before = ledger.one("audit", "verify")
    known = {refusal["entry"] for refusal in ledger.each("refusals", "list")}
    report = ledger.send([line for line, _ in BAD])
    assert report["sent"] == len(BAD)
    after = ledger.one("audit", "verify")
    assert after["is_clean"]
    assert after["inputs"] - before["inputs"] == after["refused"] - before["refused"] == len(BAD)
    refused = [
        refusal
        for refusal in ledger.each("refusals", "list")
        if refusal["entry"] not in known or refusal["reason"] != "unknown_model"
    ]
    assert sorted(refusal["reason"] for refusal in refused) == sorted(reason for _, reason in BAD)
    places = [refusal["place"] for refusal in refused]
    assert len(set(places)) == len(BAD)
    assert {
        refusal["reason"] for refusal in ledger.each("refusals", "list", "--reason", "not_json")
    } == {"not_json"}


def test_a_line_that_is_too_large_for_kafka_is_named_and_the_rest_is_sent(
    ledger: Ledger,
) -> None:
    lines: list[dict[str, Any] | bytes] = [
        use("big1", "carl", "2025-05-02T10:00:00Z"),
        b"x" * (RECORD_BYTES_MAX + 1),
        use("big2", "carl", "2025-05-02T11:00:00Z"),
    ]
    result = ledger.run("send", "-", input=ndjson(lines))
    assert result.exit_code == 1
    assert "sent 2: 2 usage.recorded" in result.stdout
    assert "line 2 was not sent: 1,048,480 bytes with its key" in result.stderr
    ledger.ok("wait-idle", "--timeout", IDLE_TIMEOUT)
    assert ledger.one("account", "show", "carl")["used"] == "64"


def test_a_record_as_large_as_the_topic_accepts_reaches_the_ledger(ledger: Ledger) -> None:
    known = len(ledger.each("refusals", "list", "--reason", "record_too_large"))
    assert ledger.send([b"x" * RECORD_BYTES_MAX])["not_sent"] == []
    assert len(ledger.each("refusals", "list", "--reason", "record_too_large")) == known + 1


def test_an_event_refused_for_an_unknown_model_is_charged_once_a_catalog_knows_it(
    ledger: Ledger, tmp_path: Path
) -> None:
    ledger.send(
        [
            use("late1", "dora", "2025-05-03T10:00:00Z", model="veo_77"),
            use("late1", "dora", "2025-05-03T10:00:00Z", model="veo_77"),
        ]
    )
    document: Any = catalog_document(load_shipped_catalog()) | {
        "version": "with-veo-77",
        "effective_from": "2027-01-01T00:00:00Z",
    }
    video = next(feature for feature in document["features"] if feature["id"] == "genai_video")
    video["models"].append(
        {"id": "veo_77", "name": "Veo 77", "rate": {"credits": "77", "unit": "generation"}}
    )
    (tmp_path / "catalog.json").write_text(json.dumps(document), encoding="utf-8")
    published = ledger.one("catalog", "publish", str(tmp_path / "catalog.json"))
    assert (published["is_new"], published["adopted"]) == (True, True)
    assert ledger.one("catalog", "publish", str(tmp_path / "catalog.json"))["is_new"] is False
    assert ledger.one("refusals", "resend", "--account", "dora") == {
        "sent": 1,
        "by_reason": {"unknown_model": 1},
    }
    ledger.ok("wait-idle", "--timeout", IDLE_TIMEOUT)
    assert ledger.one("account", "show", "dora")["used"] == "77"
    assert [
        refusal["is_resolved"] for refusal in ledger.each("refusals", "list", "--account", "dora")
    ] == [True, True]
    assert ledger.one("refusals", "resend", "--account", "dora")["sent"] == 0


def test_a_command_shows_the_ledgers_decision(ledger: Ledger) -> None:
    told = ledger.one(
        "account",
        "subscribe",
        "eve",
        "pro",
        "--time",
        "2025-05-04",
        "--time-zone",
        "Asia/Tokyo",
        "--wait",
    )
    assert (told["type"], told["account"], told["decision"]["kind"]) == (
        "account.subscribed",
        "eve",
        "plan_change",
    )
    told = ledger.one(
        "usage",
        "record",
        "eve",
        "genai_video",
        "--model",
        "veo_3",
        "--id",
        "g1",
        "--time",
        "2025-05-05",
        "--wait",
    )
    assert (told["id"], told["decision"]["credits"], told["decision"]["after"]["remaining"]) == (
        "g1",
        "32",
        "168",
    )
    assert "decided: void, -32 credits, 200 credits remain" in ledger.ok(
        "usage", "void", "eve", "g1", "--reason", "failed", "--time", "2025-05-06", "--wait"
    )
    mistyped = ledger.run(
        "usage", "void", "eve", "g7", "--reason", "failed", "--time", "2025-05-06", "--wait"
    )
    assert mistyped.stdout.count("decided: void, 0 credits") == 1
    assert mistyped.stderr.startswith(
        "usageledger: no usage 'g7' of source 'cli' is known, so nothing was given back"
    )
    refused = ledger.run(
        "account", "change-plan", "eve", "platinum", "--time", "2025-05-07", "--wait"
    )
    assert (refused.exit_code, refused.stderr) == (
        1,
        "usageledger: the ledger refused it (unknown_plan): no catalog has a plan 'platinum': "
        "`usageledger catalog show` lists them\n",
    )
    ledger.one(
        "account", "grant", "eve", "7.5", "--reason", "sorry", "--time", "2025-05-08", "--wait"
    )
    ledger.one("account", "cancel", "eve", "--time", "2025-05-09", "--wait")
    shown = ledger.one("account", "show", "eve")
    assert (shown["next_plan"], shown["granted"], shown["remaining"]) == ("free", "7.5", "207.5")


def test_an_accounts_open_holds_are_shown_beside_what_remains(ledger: Ledger) -> None:
    ready = ledger.ready
    with UsageGate(
        kafka=ready["kafka"],
        redis_url=ledger.environment["USAGELEDGER_REDIS_URL"],
        prefix=ready["prefix"],
        importing=True,
        on_unavailable="deny",
    ) as gate:
        assert gate.hold("gus", "job", "chat_action", quantity="7.5")
    shown = ledger.one("account", "show", "gus")
    assert (shown["remaining"], shown["held"], shown["open_holds"]) == ("200", "8", 1)
    assert "8 held by an open hold: 192 available" in ledger.ok("account", "show", "gus")
    assert ledger.one("account", "show", "gus", "--at", "2025-01-01")["held"] is None


def test_an_account_is_suspended_resumed_and_given_thresholds_by_hand(ledger: Ledger) -> None:
    told = ledger.one(
        "account",
        "suspend",
        "fay",
        "--reason",
        "payment_failed",
        "--note",
        "expired",
        "--time",
        "2025-05-10",
        "--wait",
    )
    assert told["decision"]["suspension"] == {"reason": "payment_failed", "note": "expired"}
    assert [
        (crossing["type"], crossing["reason"]) for crossing in told["decision"]["crossings"]
    ] == [("limit.reached", "suspended")]
    shown = ledger.one("account", "show", "fay")
    assert (shown["blocked"], shown["suspended"], shown["remaining"]) == (
        True,
        "payment_failed",
        "200",
    )
    assert "fay · free · blocked: suspended (payment_failed)" in ledger.ok("account", "show", "fay")
    refused = ledger.run(
        "account", "suspend", "fay", "--reason", "fraud", "--time", "2025-05-11", "--wait"
    )
    assert (refused.exit_code, refused.stderr) == (
        1,
        "usageledger: the ledger refused it (already_suspended): "
        "the account is suspended already\n",
    )
    ledger.one("account", "resume", "fay", "--reason", "paid", "--time", "2025-05-12", "--wait")
    ledger.one("account", "set-thresholds", "fay", "0.5", "0.90", "--time", "2025-05-13", "--wait")
    shown = ledger.one("account", "show", "fay")
    assert (shown["blocked"], shown["suspended"], shown["thresholds"]) == (
        False,
        None,
        ["0.5", "0.9"],
    )
    ledger.one("account", "set-thresholds", "fay", "--none", "--time", "2025-05-14", "--wait")
    assert ledger.one("account", "show", "fay")["thresholds"] == []
    ledger.one("account", "set-thresholds", "fay", "--as-plan", "--time", "2025-05-15", "--wait")
    assert ledger.one("account", "show", "fay")["thresholds"] == ["0.8"]
    ledger.ok("wait-idle", "--timeout", IDLE_TIMEOUT)
    events = [
        event
        for event in ledger.each("limits", "tail", "--from-beginning", "--until-idle", "1")
        if event["subject"] == "fay"
    ]
    assert [
        (event["type"], event["data"]["reason"], event["data"]["suspension"]) for event in events
    ] == [
        ("limit.reached", "suspended", {"reason": "payment_failed"}),
        ("limit.cleared", "resumed", None),
    ]
    assert (
        "fay  limit.reached (suspended: payment_failed): 0 used, 200 remain on free"
        in ledger.ok(*("limits", "tail", "--from-beginning", "--until-idle", "1"))
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["account", "suspend", "fay", "--reason", "x" * 201], "reason has 1 to 200 characters"),
        (
            ["account", "set-thresholds", "fay", "0.9", "0.5"],
            "thresholds: ascend without repeating",
        ),
        (
            ["usage", "record", "eve", "genai_video", "--quantity", "1.1234567"],
            "quantity is a decimal from 0 to 1000000000",
        ),
        (["usage", "record", "eve\n", "genai_video"], "account has no control characters"),
        (
            ["account", "subscribe", "eve", "pro", "--time-zone", "Mars/Olympus"],
            "time_zone is an IANA name",
        ),
        (["account", "grant", "eve", "0", "--reason", "r"], "credits is more than 0"),
        (
            ["account", "show", " "],
            "the account has no control characters and no spaces at its ends",
        ),
    ],
)
def test_an_invalid_argument_is_refused_at_once(
    ledger: Ledger, arguments: list[str], says: str
) -> None:
    result = ledger.run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_catalog_in_force_is_the_ledgers(ledger: Ledger) -> None:
    assert ledger.one("catalog", "show") == catalog_document(load_shipped_catalog())
    assert ledger.one("catalog", "quote", "genai_video/veo_3=3")["credits"] == "96"


def test_the_audit_gives_one_line_of_verdict(ledger: Ledger) -> None:
    ledger.ok("wait-idle", "--timeout", IDLE_TIMEOUT)
    verdict = ledger.ok("audit", "verify")
    assert verdict.startswith("CLEAN: ")
    assert verdict.count("\n") == 1


def test_counters_that_no_owner_verifies_are_shown_with_their_date(
    kafka: KafkaConnection, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `down` the given servers still run: their counters are true, but may be behind."""
    prefix = f"t{uuid.uuid4().hex[:10]}"
    up = usageledger(
        *(
            "up",
            "--data",
            str(tmp_path),
            "--kafka",
            str(kafka),
            "--prefix",
            prefix,
            "--detach",
        ),
        redis_url=redis_url,
    )
    assert up.returncode == 0, up.stderr
    try:
        assert "ready: kafka" in up.stdout
        ledger = Ledger(tmp_path, {})
        ledger.ok("usage", "record", "fay", "genai_video", "--model", "veo_3", "--wait")
        assert (shown := ledger.one("account", "show", "fay"))["as_of"] is None
        assert (shown["used"], shown["remaining"]) == ("32", "168")
    finally:
        assert usageledger("down", "--data", str(tmp_path)).returncode == 0
    for name, value in {"KAFKA": str(kafka), "REDIS_URL": redis_url, "PREFIX": prefix}.items():
        monkeypatch.setenv(f"USAGELEDGER_{name}", value)
    deadline_s = time.monotonic() + 30
    while (
        shown := json.loads(CliRunner().invoke(app, ["account", "show", "fay", "--json"]).stdout)
    )["as_of"] is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.5)
    assert shown["used"] == "32"
    assert (
        "the processor has not confirmed the counters since"
        in CliRunner().invoke(app, ["account", "show", "fay"]).stderr
    )


class TestWithoutServices:
    """A ledger whose topics exist, without any service."""

    @pytest.fixture(autouse=True)
    def settings(
        self, kafka: KafkaConnection, redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [name for name in os.environ if name.startswith("USAGELEDGER_")]:
            monkeypatch.delenv(name)
        for name, value in {"KAFKA": str(kafka), "REDIS_URL": redis_url, "PREFIX": prefix}.items():
            monkeypatch.setenv(f"USAGELEDGER_{name}", value)

    def run(self, *arguments: str, input: bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=input)

    def test_waiting_for_a_ledger_that_stays_busy_ends_and_names_its_lags(self) -> None:
        assert self.run("send", "-", input=ndjson([b"not json"])).exit_code == 0
        result = self.run("wait-idle", "--timeout", "1")
        assert result.exit_code == 1
        assert "usageledger: not idle after" in result.stderr
        assert "  usage: partition 0 has 1 record still to decide" in result.stderr

    def test_nothing_to_do_is_idle(self) -> None:
        assert self.run("wait-idle", "--timeout", "20").exit_code == 0

    def test_a_ledger_without_a_catalog_says_so(self) -> None:
        result = self.run("catalog", "show")
        assert (result.exit_code, result.stderr) == (
            1,
            "usageledger: no catalog has been published: publish one with `usageledger catalog "
            "publish FILE`\n",
        )

    def test_an_account_without_counters_is_not_shown_as_an_untouched_free(self) -> None:
        """A Redis that was emptied made a suspended account look like one with 200 credits."""
        for arguments in (["account", "show", "a"], ["account", "show", "a", "--at", "2025-01-01"]):
            result = self.run(*arguments)
            assert (result.exit_code, result.stdout) == (1, "")
            assert "the counters of this partition are not there" in result.stderr
            assert "ask again in a moment" in result.stderr

    @pytest.mark.importing
    def test_import_mode_ends_once_and_for_good(self) -> None:
        assert (
            self.run("go-live").stdout
            == "the ledger is live: Kafka dates each event as it arrives\n"
        )
        assert self.run("go-live").stdout == "the ledger was live already\n"

    def test_a_decision_that_does_not_come_is_reported(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("usageledger.cli.event_commands.DECISION_TIMEOUT_S", 0.5)
        result = self.run("usage", "record", "a", "genai_video", "--wait")
        assert result.exit_code == 1
        assert (
            "the event was sent, but not decided within 0 s: see `usageledger status`"
            in result.stderr
        )

    def test_a_ledger_that_is_not_there_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("USAGELEDGER_PREFIX", "elsewhere")
        for arguments in (
            ["account", "show", "a"],
            ["ledger", "show"],
            ["limits", "tail"],
            ["send", "-"],
            ["wait-idle"],
            ["go-live"],
        ):
            result = self.run(*arguments, input=b"")
            assert result.exit_code == 1, arguments
            assert result.stderr.startswith("usageledger: there is no "), (arguments, result.stderr)
            assert result.stderr.count("\n") == 1

    def test_a_kafka_that_does_not_answer_is_reported_in_one_line(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("USAGELEDGER_KAFKA", "127.0.0.1:1")
        monkeypatch.setenv("USAGELEDGER_DATA", "nowhere")
        result = self.run("ledger", "show")
        assert result.exit_code == 1
        assert result.stderr.startswith("usageledger: no Kafka broker answers at 127.0.0.1:1 (")
        assert result.stderr.count("\n") == 1

    def test_a_redis_that_does_not_answer_is_reported_in_one_line(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("USAGELEDGER_REDIS_URL", "redis://127.0.0.1:1/0")
        result = self.run("account", "show", "a")
        assert result.exit_code == 1
        assert result.stderr.startswith("usageledger: the counters cannot be read (")
        assert result.stderr.count("\n") == 1
