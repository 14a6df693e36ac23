"""Reporting over HTTP: which events are accepted, which are not, and why."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.worlds.gateway_world import NOW, GatewayWorld
from usageledger.accounts.queries import Clock
from usageledger.gateway.bodies import EVENTS_BYTES_MAX
from usageledger.gateway.routes.events import EVENTS_MAX
from usageledger.ledger.partitioning import partition_of
from usageledger.log.event_publisher import Outgoing, Sent
from usageledger.sdk.tokens import mint_account_token, split_key

ONE, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"


class Kafka:
    """Accepts every record but those of the accounts in ``away_for``."""

    def __init__(self, *away_for: str) -> None:
        self.records: list[Outgoing] = []
        self._away_for = {account.encode() for account in away_for}

    async def publish(self, records: Sequence[Outgoing]) -> Sequence[Sent]:
        sent = []
        for record in records:
            if record.key in self._away_for:
                sent.append(Sent(None, "Kafka did not answer within 5 s"))
            else:
                self.records.append(record)
                sent.append(Sent(len(self.records) - 1))
        return sent


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GatewayWorld]:
    made = GatewayWorld(tmp_path)
    yield made
    made.close()


def usage(id_: str = "gen_1", account: str = "acct_1", **changes: Any) -> dict[str, Any]:
    data = {"feature": "genai_video", "model": "veo_3", "quantity": "1"}
    event = {
        "specversion": "1.0",
        "type": "usage.recorded",
        "id": id_,
        "source": "/render",
        "subject": account,
        "time": NOW.isoformat(),
    }
    return {**event, "data": data} | changes


def grant(account: str = "acct_1") -> dict[str, Any]:
    return usage("g1", account, type="credits.granted", data={"credits": "20", "reason": "sorry"})


def report(
    world: GatewayWorld,
    body: object,
    kafka: Kafka | None = None,
    *,
    key: str | None = None,
    kind: str = "application/json",
) -> httpx.Response:
    if kafka is not None:
        world.use(publish=kafka.publish)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    credential = key or world.key("report")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(world.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            headers = {"Authorization": f"Bearer {credential}", "Content-Type": kind}
            return await client.post("/v1/events", content=content, headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "kind", ["application/json", ONE, "Application/CloudEvents+JSON; charset=utf-8"]
)
def test_an_event_goes_to_its_accounts_partition_as_it_was_sent(
    world: GatewayWorld, kind: str
) -> None:
    """Its members keep their bytes. The gateway adds who sent it."""
    kafka, body = Kafka(), json.dumps(usage(), indent=1).encode()
    key = world.key("report")
    answer = report(world, body, kafka, kind=kind, key=key)
    partition = partition_of(b"acct_1", 8)
    assert answer.status_code == 200
    named = {"id": "gen_1", "source": "/render", "subject": "acct_1"}
    assert answer.json() == {
        "items": [
            named
            | {
                "result": "accepted",
                "topic": "usage.events.v1",
                "partition": partition,
                "offset": 0,
            }
        ]
    }
    members = json.loads(body) | {"actor": f"key:{split_key(key)[0]}"}
    sent = msgspec.json.decode(kafka.records[0].value, type=dict[str, msgspec.Raw])
    assert {name: json.loads(bytes(raw)) for name, raw in sent.items()} == members
    assert bytes(sent["data"]) in body
    assert kafka.records[0][:3] == ("usage.events.v1", partition, b"acct_1")


def test_a_client_cannot_pass_for_another_actor(world: GatewayWorld) -> None:
    kafka, key = Kafka(), world.key("report")
    assert report(world, usage(actor="user:ceo"), kafka, key=key).status_code == 200
    assert json.loads(kafka.records[0].value)["actor"] == f"key:{split_key(key)[0]}"


@pytest.mark.parametrize("kind", ["application/json", BATCH])
def test_each_event_of_a_batch_has_its_own_result(world: GatewayWorld, kind: str) -> None:
    batch = [
        usage("ok"),
        usage("bad", data={"feature": "genai_video", "quantity": "-1"}),
        usage("away", "acct_2"),
        grant(),
        7,
    ]
    kafka = Kafka("acct_2")
    answer = report(world, batch, kafka, kind=kind)
    assert answer.status_code == 207
    items = answer.json()["items"]
    assert [item["result"] for item in items] == [
        "accepted",
        "invalid",
        "unavailable",
        "invalid",
        "invalid",
    ]
    assert [item.get("code") for item in items] == [
        None,
        "invalid_event",
        None,
        "forbidden",
        "not_a_cloudevent",
    ]
    assert items[1]["pointer"] == "data/quantity"
    assert "its identity (account, source and id) counts once" in items[2]["detail"]
    assert [record.key for record in kafka.records] == [b"acct_1"]


def test_what_billing_tells_of_accounts_needs_admin(world: GatewayWorld) -> None:
    kafka = Kafka()
    refused = report(world, grant(), kafka)
    assert (refused.status_code, refused.json()["code"], refused.json()["items"][0]["result"]) == (
        403,
        "forbidden",
        "invalid",
    )
    assert report(world, grant(), kafka, key=world.key("admin")).status_code == 200
    assert [record.topic for record in kafka.records] == ["account.events.v1"]


def test_an_accounts_token_reports_nothing(world: GatewayWorld) -> None:
    kafka = Kafka()
    token = mint_account_token(world.key("admin"), "acct_1", scopes=["read"], now=NOW)
    assert report(world, usage(), kafka, key=token).status_code == 403
    assert kafka.records == []


@pytest.mark.parametrize(
    ("event", "code", "pointer"),
    [
        ({**usage(), "subject": None}, "invalid_event", "subject"),
        (
            {name: value for name, value in usage().items() if name != "time"},
            "invalid_event",
            "time",
        ),
        (usage(type="usage.forgotten"), "unknown_type", "type"),
        (usage(type="ledger.entry"), "unknown_type", "type"),
        (usage(type=7), "unknown_type", "type"),
        (usage(specversion="0.3"), "invalid_event", "specversion"),
        (usage(data={"feature": "genai_video", "quantity": 1.5}), "invalid_event", "data/quantity"),
        (usage(data={"feature": " x", "quantity": "1"}), "invalid_event", "data/feature"),
        (
            usage(time=(NOW + timedelta(minutes=5, seconds=1)).isoformat()),
            "dated_in_the_future",
            "time",
        ),
        (usage(time=(NOW - timedelta(days=35, seconds=1)).isoformat()), "too_old", "time"),
        (
            usage(data={"feature": "f", "quantity": "1", "dimensions": {"x": "y" * 70_000}}),
            "record_too_large",
            None,
        ),
        ([], None, None),
        ("text", "not_a_cloudevent", None),
    ],
)
def test_what_the_ledger_would_refuse_is_refused_with_its_field(
    world: GatewayWorld, event: Any, code: str | None, pointer: str | None
) -> None:
    kafka = Kafka()
    answer = report(world, event, kafka)
    if code is None:
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
        return
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_event")
    (item,) = answer.json()["items"]
    assert (item["result"], item["code"], item.get("pointer")) == ("invalid", code, pointer)
    assert kafka.records == []


@pytest.mark.parametrize("ahead", [timedelta(minutes=5), -timedelta(days=35)])
def test_an_event_at_the_edge_of_the_window_is_taken(world: GatewayWorld, ahead: timedelta) -> None:
    assert report(world, usage(time=(NOW + ahead).isoformat()), Kafka()).status_code == 200


def test_history_is_taken_under_its_own_date(world: GatewayWorld) -> None:
    world.gateway.accounts.clock = Clock(lambda: NOW, lambda: True)
    kafka = Kafka()
    assert report(world, usage(time="2020-01-01T00:00:00.5Z"), kafka).status_code == 200
    assert [record.timestamp_ms for record in kafka.records] == [1_577_836_800_500]


def test_when_kafka_takes_none_nothing_is_said_to_be_accepted(world: GatewayWorld) -> None:
    answer = report(world, [usage("a"), usage("b"), usage("c", data={})], Kafka("acct_1"))
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (
        503,
        "log_unavailable",
        "1",
    )
    assert [item["result"] for item in answer.json()["items"]] == [
        "unavailable",
        "unavailable",
        "invalid",
    ]


def test_a_batch_of_which_nothing_can_be_taken_is_a_problem_that_names_the_first(
    world: GatewayWorld,
) -> None:
    answer = report(world, [usage(data={}), usage(type="x")], Kafka())
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_event")
    assert (
        "none of the 2 events" in answer.json()["detail"]
        and "data/feature" in answer.json()["detail"]
    )


@pytest.mark.parametrize("body", [b"", b"{", b"[{]", b"\xff", b"[1,", b'{"a":\xff}'])
def test_a_body_that_is_no_json_is_told_as_such(world: GatewayWorld, body: bytes) -> None:
    answer = report(world, body, Kafka())
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")


def test_a_request_has_so_many_events_and_bytes_and_no_more(world: GatewayWorld) -> None:
    key = world.key("report")
    assert (
        report(
            world, [usage(f"g{number}") for number in range(EVENTS_MAX)], Kafka(), key=key
        ).status_code
        == 200
    )
    assert (
        report(
            world, [usage(f"g{number}") for number in range(EVENTS_MAX + 1)], Kafka(), key=key
        ).status_code
        == 413
    )
    assert report(world, b"[" + b" " * EVENTS_BYTES_MAX, Kafka(), key=key).status_code == 413


def test_another_kind_of_body_is_refused(world: GatewayWorld) -> None:
    answer = report(world, usage(), Kafka(), kind="text/plain")
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
