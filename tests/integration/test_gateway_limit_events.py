"""Limit events from a real broker to streams and webhook endpoints, by a gateway that is killed,
and endpoints that fail.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient
from standardwebhooks import Webhook, WebhookVerificationError
from typer.testing import CliRunner

from tests.integration.counters import begin_counters
from tests.integration.gateway_process import KEY, GatewayProcess, Receiver, Stream
from tests.integration.test_limits import messages_of, until
from tests.servers import NewLedger
from tests.worlds.limits_world import Kind, Ledger
from usageledger.cli import app
from usageledger.log.topics import Topics
from usageledger.operations.catalogs import publish_shipped
from usageledger.operations.topics import create_topics
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.tokens import mint_account_token

Announce = Callable[..., None]


@pytest.fixture
def announce(kafka: KafkaConnection, prefix: str) -> Iterator[Announce]:
    """Append limit events of a ledger, from one to another."""
    producer = KafkaProducer(**kafka.for_kafka_python())

    def announce(ledger: Ledger, start: int = 0, stop: int | None = None) -> None:
        sent = [
            producer.send(
                Topics(prefix).limit,
                key=message.key,
                value=message.value,
                partition=ledger.partition,
            )
            for message in messages_of(ledger)[start:stop]
        ]
        for one in sent:
            one.get(timeout=20)

    yield announce
    producer.close(timeout=5)


@pytest.fixture
def gateway(
    kafka: KafkaConnection, redis_url: str, prefix: str, tmp_path: Path
) -> Iterator[GatewayProcess]:
    """A gateway that may be killed, not started yet.

    There is no processor: tests announce what they like.
    """
    publish_shipped(kafka, prefix, datetime.now(UTC))
    made = GatewayProcess(kafka, redis_url, prefix, tmp_path / "data")
    yield made
    made.stop()


def a_ledger(partition: int, account: str, *crossings: Kind) -> Ledger:
    """An entry for each of these crossings."""
    ledger = Ledger(partition)
    for kind in crossings:
        ledger.entry(kind, account=account)
    return ledger


TEN: tuple[Kind, ...] = ("limit.reached", "limit.cleared") * 5


def ids(ledger: Ledger) -> list[str]:
    return [address.id for address in ledger.addresses]


@pytest.mark.partitions(1)
def test_a_stream_goes_on_across_a_killed_gateway_without_loss_or_repeat(
    gateway: GatewayProcess, announce: Announce
) -> None:
    ledger = a_ledger(0, "a", *TEN)
    gateway.start()
    first = Stream(gateway, "a").opened()
    announce(ledger, 0, 4)
    until(lambda: len(first.ids) >= 4, "the announced events")
    gateway.kill()
    until(first.has_ended.is_set, "the end of the connection")
    assert first.ids == ids(ledger)[:4]
    announce(ledger, 2, 6)
    gateway.start()
    again = Stream(gateway, "a", last_event_id=first.ids[-1]).opened()
    announce(ledger, 4, 10)
    until(lambda: len(again.ids) >= 6, "the events announced meanwhile and after")
    assert again.ids == ids(ledger)[4:]
    late = Stream(gateway, "a", last_event_id=ids(ledger)[0]).opened()
    until(lambda: len(late.ids) >= 9, "all the events that it missed")
    assert late.ids == ids(ledger)[1:]
    for stream in (again, late):
        stream.close()


def test_a_new_gateway_knows_who_was_blocked_before_it_and_delivers_none_of_the_past(
    gateway: GatewayProcess, announce: Announce
) -> None:
    past, other = (
        a_ledger(0, "a", "limit.reached"),
        a_ledger(1, "b", "limit.reached", "limit.cleared", "limit.reached"),
    )
    announce(past)
    announce(other, 0, 2)
    gateway.start()
    blocked = gateway.ask("GET", "/v1/blocked").json()
    assert [item["account"] for item in blocked["items"]] == ["a"]
    assert blocked["from"] == {"last_event_ids": {"0": "0-0-0", "1": "1-1-0"}}
    with Receiver().running() as receiver:
        gateway.ask("POST", "/v1/webhooks", {"url": receiver.url})
        announce(other, 0, 3)
        until(lambda: receiver.ids == ["1-2-0"], "the event that came after the endpoint was made")
        assert {item["account"] for item in gateway.ask("GET", "/v1/blocked").json()["items"]} == {
            "a",
            "b",
        }


@pytest.mark.partitions(1)
def test_a_gateway_killed_before_a_delivery_delivers_each_event_under_one_id(
    gateway: GatewayProcess, announce: Announce
) -> None:
    ledger = a_ledger(0, "a", *TEN)
    gateway.start()
    with Receiver().running() as receiver:
        receiver.hangs.set()
        made = gateway.ask("POST", "/v1/webhooks", {"url": receiver.url}).json()
        announce(ledger)
        until(
            lambda: gateway.ask("GET", f"/v1/webhooks/{made['id']}").json()["pending"] == len(TEN),
            "deliveries that wait",
        )
        until(lambda: receiver.received != [], "an attempt that is under way")
        gateway.kill()
        cut_short = list(receiver.received)
        receiver.received.clear()
        receiver.hangs.clear()
        announce(ledger, 3)
        gateway.start()
        until(lambda: len(set(receiver.ids)) == len(TEN), "every event")
        until(
            lambda: gateway.ask("GET", f"/v1/webhooks/{made['id']}").json()["pending"] == 0,
            "no delivery that waits",
        )
    assert receiver.ids == ids(ledger)
    by_event = {one.event_id: one.id for one in receiver.received}
    assert all(by_event[one.event_id] == one.id for one in cut_short)
    for one in receiver.received:
        Webhook(made["secret"]).verify(one.body, one.headers)


@pytest.mark.partitions(1)
def test_both_secrets_sign_during_a_rotation_and_only_the_new_one_afterwards(
    gateway: GatewayProcess, announce: Announce
) -> None:
    ledger = a_ledger(0, "a", *TEN)
    gateway.start()
    with Receiver().running() as receiver:
        made = gateway.ask("POST", "/v1/webhooks", {"url": receiver.url}).json()
        path = f"/v1/webhooks/{made['id']}"
        new = gateway.ask("POST", f"{path}/rotate", {"overlap_s": 3600}).json()["secret"]
        announce(ledger, 0, 1)
        until(lambda: len(receiver.received) == 1, "the first delivery")
        newest = gateway.ask("POST", f"{path}/rotate", {"overlap_s": 0}).json()["secret"]
        announce(ledger, 1, 2)
        until(lambda: len(receiver.received) == 2, "the second delivery")
    overlapping, after = receiver.received
    for secret in (made["secret"], new):
        Webhook(secret).verify(overlapping.body, overlapping.headers)
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(after.body, after.headers)
    Webhook(newest).verify(after.body, after.headers)


@pytest.mark.partitions(1)
def test_endpoints_that_hang_or_fail_never_delay_another(
    gateway: GatewayProcess, announce: Announce
) -> None:
    """One endpoint hangs on every connection, one fails, and at the third nothing listens."""
    ledger = Ledger(0)
    for number in range(60):
        ledger.entry("limit.reached", account=f"acct_{number}")
    gateway.start()
    with (
        Receiver().running() as hanging,
        Receiver(status=500).running() as failing,
        Receiver().running() as fine,
    ):
        hanging.hangs.set()
        endpoints = [
            gateway.ask("POST", "/v1/webhooks", {"url": url}).json()["id"]
            for url in (hanging.url, failing.url, fine.url)
        ]
        gateway.ask("POST", "/v1/webhooks", {"url": "http://127.0.0.1:9/nobody"})
        announce(ledger)
        until(lambda: len(fine.received) == 60, "every event at the endpoint that works")
        # An attempt at the endpoint that hangs is given up after 15 s. By then the other has every
        # event.
        states = {one["id"]: one for one in gateway.ask("GET", "/v1/webhooks").json()["items"]}
        assert states[endpoints[0]]["last_failure"] is None
        assert 0 < len(hanging.received) <= 8
        assert states[endpoints[0]]["pending"] == 60
        until(
            lambda: len({one.id for one in failing.received}) == 60,
            "an attempt of each at the endpoint that fails",
        )
        until(
            lambda: gateway.ask("GET", "/v1/webhooks").json()["items"][2]["pending"] == 0,
            "no delivery that waits for the endpoint that works",
        )


def test_a_dead_delivery_is_listed_and_sent_again(gateway: GatewayProcess) -> None:
    gateway.start()
    with Receiver(status=500).running() as receiver:
        endpoint = gateway.ask("POST", "/v1/webhooks", {"url": receiver.url}).json()["id"]
        path = f"/v1/webhooks/{endpoint}"
        sent = gateway.ask("POST", f"{path}/test").json()
        until(lambda: gateway.ask("GET", path).json()["dead"] == 1, "a dead delivery")
        (dead,) = gateway.ask("GET", f"{path}/deliveries?state=dead").json()["items"]
        assert (dead["id"], dead["last_status"], dead["attempts"]) == (sent["id"], 500, 1)
        receiver.status = 200
        assert gateway.ask("POST", f"{path}/deliveries/{dead['id']}/resend").status_code == 202
        until(
            lambda: (
                gateway.ask("GET", f"{path}/deliveries/{dead['id']}").json()["state"] == "delivered"
            ),
            "the delivery",
        )
        assert [one.id for one in receiver.received] == [dead["id"]] * 2
        receiver.status = 410
        gateway.ask("POST", f"{path}/test")
        until(
            lambda: gateway.ask("GET", path).json()["state"] == "disabled",
            "the endpoint that is gone",
        )


@pytest.mark.partitions(1)
def test_a_stream_ends_with_its_key_and_says_so(
    gateway: GatewayProcess, redis_url: str, prefix: str
) -> None:
    begin_counters(redis_url, prefix, 1)
    gateway.start()
    made = gateway.ask("POST", "/v1/keys", {"name": "pages", "scopes": ["read"]}).json()
    stream = Stream(gateway, "a", token=mint_account_token(made["key"], "a")).opened()
    until(lambda: "meter" in stream.events, "the figures")
    assert stream.data_of("meter")[0]["plan"]["id"] == "free"
    gateway.ask("POST", f"/v1/keys/{made['id']}/revoke")
    until(stream.has_ended.is_set, "the end of the stream")
    # If nobody verifies counters, the answer soon gives the time at which they were last verified.
    assert stream.events in (["meter", "token_expired"], ["meter", "meter", "token_expired"])
    assert Stream(gateway, "b", token=mint_account_token(KEY, "a")).opened().status == 403


def test_a_topic_that_was_made_anew_is_not_followed_and_the_gateway_says_so(
    kafka: KafkaConnection, prefix: str, gateway: GatewayProcess, announce: Announce
) -> None:
    announce(a_ledger(0, "a", *TEN))
    gateway.start()
    gateway.stop()
    with KafkaAdminClient(**kafka.for_kafka_python()) as admin:
        admin.delete_topics([Topics(prefix).limit])
        until(lambda: Topics(prefix).limit not in admin.list_topics(), "the topic's end")
    create_topics(kafka, prefix, partitions=2)
    gateway.start(is_ready=False)
    until(
        lambda: "truncated or made anew" in gateway.ask("GET", "/v1/blocked").text, "what is wrong"
    )
    assert (
        gateway.ask("GET", "/v1/blocked").status_code,
        gateway.ask("GET", "/readyz").status_code,
    ) == (503, 503)


def test_another_ledgers_log_of_the_same_length_is_noticed(
    kafka: KafkaConnection,
    redis_url: str,
    prefix: str,
    gateway: GatewayProcess,
    announce: Announce,
    new_ledger: NewLedger,
) -> None:
    announce(a_ledger(0, "a", *TEN))
    gateway.start()
    gateway.stop()
    other = new_ledger(partitions=2)
    producer = KafkaProducer(**kafka.for_kafka_python())
    for message in messages_of(a_ledger(0, "b", "limit.threshold", *TEN))[1:]:
        producer.send(Topics(other).limit, key=message.key, value=message.value, partition=0).get(
            timeout=20
        )
    producer.close(timeout=5)
    publish_shipped(kafka, other, datetime.now(UTC))
    moved = GatewayProcess(kafka, redis_url, other, gateway.data)
    moved.start(is_ready=False)
    try:
        until(lambda: "it is another log" in moved.ask("GET", "/v1/blocked").text, "what is wrong")
    finally:
        moved.stop()


def test_the_command_line_manages_endpoints_and_keys(gateway: GatewayProcess) -> None:
    gateway.start()

    def run(*arguments: str, exit_code: int = 0) -> list[Any]:
        environment = {"USAGELEDGER_GATEWAY_URL": gateway.url, "USAGELEDGER_KEY": KEY}
        result = CliRunner().invoke(app, [*arguments, "--json"], env=environment)
        assert result.exit_code == exit_code, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    with Receiver(status=500).running() as receiver:
        (made,) = run(
            "webhooks",
            "add",
            receiver.url,
            "--type",
            "limit.reached",
            "--description",
            "the editor",
        )
        (listed,) = run("webhooks", "list")
        assert (listed["id"], listed["types"], listed["description"]) == (
            made["id"],
            ["limit.reached"],
            "the editor",
        )
        (failed,) = run("webhooks", "test", made["id"], exit_code=1)
        assert (failed["state"], failed["last_status"]) == ("dead", 500)
        assert [
            one["id"] for one in run("webhooks", "deliveries", made["id"], "--state", "dead")
        ] == [failed["id"]]
        receiver.status = 204
        assert [one["id"] for one in run("webhooks", "resend", made["id"], "--dead")] == [
            failed["id"]
        ]
        (delivered,) = run("webhooks", "test", made["id"])
        assert delivered["state"] == "delivered"
        assert run("webhooks", "disable", made["id"])[0]["state"] == "disabled"
        assert run("webhooks", "enable", made["id"])[0]["state"] == "active"
        assert (
            run("webhooks", "rotate", made["id"], "--overlap", "60")[0]["secret"] != made["secret"]
        )
        assert run("webhooks", "remove", made["id"]) == [{"id": made["id"], "removed": True}]
        assert run("webhooks", "list") == []
        assert run("webhooks", "remove", made["id"], exit_code=1) == []
    (key,) = run("keys", "create", "render", "--scope", "check", "--scope", "hold")
    assert {one["id"]: one["scopes"] for one in run("keys", "list")}[key["id"]] == ["check", "hold"]
    assert run("keys", "rotate", key["id"], "--overlap", "0")[0]["key"] != key["key"]
    assert run("keys", "revoke", key["id"]) == [{"id": key["id"], "revoked": True}]
