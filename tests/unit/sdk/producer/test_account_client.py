"""A command of `AccountClient` returns when Kafka has it, or raises and can be repeated under the
same id.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.worlds.producer_fakes import FakeConnection, FakeKafka, in_child
from usageledger.sdk.producer.account_client import AccountClient, CommandFailed
from usageledger.sdk.producer.events import InvalidEvent
from usageledger.sdk.producer.publisher import Blame, Done

NOW = datetime(2026, 11, 22, 10, 15, 31, tzinfo=UTC)


def client_of(kafka: FakeKafka, **settings: Any) -> AccountClient:
    return AccountClient(
        **{
            "source": "billing",
            "connect_to": kafka.connect_to,
            "clock": lambda: NOW,
            "prefix": "acme",
            **settings,
        }
    )


@pytest.mark.parametrize(
    ("command", "type_", "data"),
    [
        (
            lambda client: client.open_account(
                "a",
                "pro",
                anchor=NOW,
                time_zone="UTC",
                used="14",
                free_used="200",
                as_of=NOW,
                id="e",
            ),
            "account.opened",
            {
                "plan": "pro",
                "anchor": "2026-11-22T10:15:31Z",
                "time_zone": "UTC",
                "used": "14",
                "free_used": "200",
                "as_of": "2026-11-22T10:15:31Z",
            },
        ),
        (
            lambda client: client.subscribe("a", "pro", time_zone="Asia/Tokyo", id="e"),
            "account.subscribed",
            {"plan": "pro", "time_zone": "Asia/Tokyo"},
        ),
        (
            lambda client: client.change_plan("a", "max", id="e"),
            "account.plan_changed",
            {"plan": "max"},
        ),
        (
            lambda client: client.cancel("a", id="e"),
            "account.cancelled",
            {"effective": "period_end"},
        ),
        (
            lambda client: client.cancel("a", "now", id="e"),
            "account.cancelled",
            {"effective": "now"},
        ),
        (
            lambda client: client.suspend("a", "payment_failed", note="third attempt", id="e"),
            "account.suspended",
            {"reason": "payment_failed", "note": "third attempt"},
        ),
        (
            lambda client: client.resume("a", reason="paid", id="e"),
            "account.resumed",
            {"reason": "paid"},
        ),
        (
            lambda client: client.set_thresholds("a", ["0.5", "0.90"], id="e"),
            "account.thresholds_set",
            {"thresholds": ["0.5", "0.9"]},
        ),
        (
            lambda client: client.set_thresholds("a", None, id="e"),
            "account.thresholds_set",
            {"thresholds": None},
        ),
        (
            lambda client: client.grant_credits("a", "50", "sorry", id="e"),
            "credits.granted",
            {"credits": "50", "reason": "sorry"},
        ),
    ],
)
def test_a_command_is_in_kafka_when_it_returns(
    command: Callable[[AccountClient], str], type_: str, data: dict[str, object]
) -> None:
    kafka = FakeKafka()
    with client_of(kafka) as client:
        assert command(client) == "e"
        [event] = kafka.events()
        assert (event["type"], event["id"], event["source"], event["subject"]) == (
            type_,
            "e",
            "billing",
            "a",
        )
        assert event["data"] == data
    assert [(topic, key) for topic, key, _ in kafka.log] == [("acme.account.events.v1", b"a")]
    assert kafka.connections[0].is_closed


def test_a_void_is_known_by_the_usage_it_takes_back() -> None:
    kafka = FakeKafka()
    client = client_of(kafka)
    first = client.void_usage("a", "render", "gen_1", "black frames")
    assert client.void_usage("a", "render", "gen_1", "black frames") == first
    assert kafka.events()[0]["data"] == {
        "source": "render",
        "id": "gen_1",
        "reason": "black frames",
    }


def test_commands_without_an_id_get_one_each() -> None:
    kafka = FakeKafka()
    client = client_of(kafka)
    assert client.change_plan("a", "max") != client.change_plan("a", "max")
    assert len(kafka.connections) == 1


def test_a_wrong_command_is_refused_before_anything_is_sent() -> None:
    kafka = FakeKafka()
    with pytest.raises(InvalidEvent, match="plan"):
        client_of(kafka).subscribe("a", "")
    assert kafka.connections == []


def test_a_command_without_an_answer_can_be_repeated_under_its_id() -> None:
    kafka = FakeKafka()
    kafka.answers = False
    client = client_of(kafka, timeout_s=0.05)
    with pytest.raises(CommandFailed, match="no answer") as caught:
        client.change_plan("a", "max")
    assert caught.value.retriable
    assert kafka.connections[0].is_closed, "its pending records must not arrive after the repeat"
    kafka.answers = True
    assert client.change_plan("a", "max", id=caught.value.id) == caught.value.id
    assert [event["id"] for event in kafka.events()] == [caught.value.id]


def test_a_broker_that_is_down_fails_the_command_and_the_next_tries_anew() -> None:
    kafka = FakeKafka()
    kafka.is_down = True
    client = client_of(kafka)
    with pytest.raises(CommandFailed, match="no broker"):
        client.cancel("a")
    kafka.is_down = False
    client.cancel("a", id="e")
    assert [event["id"] for event in kafka.events()] == ["e"]


def test_in_import_mode_an_event_may_be_old_and_dates_its_record() -> None:
    kafka = FakeKafka()
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    with pytest.raises(InvalidEvent, match="35 days before now"):
        client_of(kafka).change_plan("a", "max", occurred_at=long_ago)
    client_of(kafka, importing=True).change_plan("a", "max", occurred_at=long_ago)
    client_of(kafka).change_plan("a", "max")
    assert [event["time"] for event in kafka.events()] == [
        "2020-01-01T00:00:00Z",
        "2026-11-22T10:15:31Z",
    ]
    assert [connection.timestamps_ms for connection in kafka.connections] == [
        [1_577_836_800_000],
        [None],
    ]


class AnsweringConnection(FakeConnection):
    """Answers refused records as well."""

    def send(
        self, key: bytes, value: bytes, done: Done, *, timestamp_ms: int | None = None
    ) -> None:
        super().send(key, value, done, timestamp_ms=timestamp_ms)
        self.deliver()


def test_a_command_that_the_broker_will_never_take_is_not_retriable() -> None:
    kafka = FakeKafka()
    kafka.refuses = lambda value: True
    kafka.refuses_with = Blame.EVENT
    client = client_of(
        kafka, timeout_s=5.0, connect_to=lambda topic: lambda: AnsweringConnection(kafka, topic)
    )
    with pytest.raises(CommandFailed) as caught:
        client.cancel("a")
    assert not caught.value.retriable


def test_a_forked_child_has_a_connection_of_its_own() -> None:
    kafka = FakeKafka()
    client = client_of(kafka)
    client.cancel("a")

    def work() -> None:
        client.cancel("b", id="childs")
        assert len(kafka.connections) == 2
        assert not kafka.connections[0].is_closed

    assert in_child(work) == 0
    client.cancel("c")
    assert len(kafka.connections) == 1
