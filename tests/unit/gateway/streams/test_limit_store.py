"""Limit events in gateway.db: written once with everything that they cause, or not at all."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.worlds.gateway_events import NOW_MS, Announced
from usageledger.gateway.stores import Stores
from usageledger.gateway.streams.limit_store import KEPT_FOR, LimitRecord
from usageledger.gateway.webhooks.endpoints import Change, EndpointSettings
from usageledger.ledger.limit_address import LimitAddress

NOW = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)
URL = "https://app.example/hook"


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    made = Stores(tmp_path / "gateway.db")
    yield made
    made.close()


def ids(records: list[LimitRecord]) -> list[str]:
    return [record.event_id for record in records]


def test_a_repeat_is_dropped_and_passed(stores: Stores) -> None:
    topic = Announced()
    first = topic.crossing("limit.threshold", "limit.reached")
    assert ids(stores.limits.add({0: first}, NOW_MS)) == ["0-0-0", "0-0-1"]
    repeated = topic.again(first)
    assert stores.limits.add({0: repeated}, NOW_MS) == []
    position = stores.limits.positions()[0]
    assert (position.next_offset, position.last_record, position.address.id) == (
        4,
        "0-0-1",
        "0-0-1",
    )


def test_an_account_is_blocked_from_reached_to_cleared(stores: Stores) -> None:
    topic = Announced()
    reached = topic.crossing("limit.reached", account="b") + topic.crossing(
        "limit.reached", account="a"
    )
    stores.limits.add({0: reached}, NOW_MS)
    assert [
        (one.account, json.loads(one.event)["id"]) for one in stores.limits.blocked("", 10)
    ] == [("a", "0-1-0"), ("b", "0-0-0")]
    assert [one.account for one in stores.limits.blocked("a", 10)] == ["b"]
    assert [one.account for one in stores.limits.blocked("", 1)] == ["a"]
    stores.limits.add(
        {
            0: topic.crossing("limit.cleared", account="b")
            + topic.crossing("limit.threshold", account="a")
        },
        NOW_MS,
    )
    assert [one.account for one in stores.limits.blocked("", 10)] == ["a"]
    assert stores.limits.block_of("b") is None


def test_a_stream_goes_on_after_any_event_of_its_partition(stores: Stores) -> None:
    topic = Announced(3)
    records = (
        topic.crossing("limit.threshold", "limit.reached", account="a")
        + topic.crossing("limit.reached", account="b")
        + topic.crossing("limit.cleared", account="a")
    )
    stores.limits.add({3: records}, NOW_MS)

    def after(offset: int, index: int, limit: int = 10) -> list[str]:
        return [
            address.id
            for address, _, _ in stores.limits.after(
                "a", LimitAddress(3, offset, index, index + 1), limit
            )
        ]

    assert after(0, 0) == ["3-0-1", "3-2-0"]
    assert after(1, 0) == ["3-2-0"]
    assert after(2, 0) == []
    assert after(0, 0, limit=1) == ["3-0-1"]
    assert [type_ for _, type_, _ in stores.limits.after("a", LimitAddress(3, 0, 0, 1))] == [
        "limit.reached",
        "limit.cleared",
    ]


def test_what_is_old_is_let_go_of_by_when_it_was_announced(stores: Stores) -> None:
    topic = Announced()
    old_ms = NOW_MS - int(KEPT_FOR.total_seconds() * 1_000) - 1
    stores.limits.add({0: topic.crossing("limit.reached", announced_ms=old_ms)}, NOW_MS)
    assert stores.limits.after("acct", LimitAddress(0, 0, -1, 1)) == []
    stores.limits.add({0: topic.crossing("limit.cleared", announced_ms=NOW_MS)}, NOW_MS)
    assert stores.limits.prune(NOW_MS) == 0
    assert stores.limits.prune(NOW_MS + int(KEPT_FOR.total_seconds() * 1_000) + 1) == 1
    assert stores.limits.after("acct", LimitAddress(0, 0, -1, 1)) == []


def test_each_endpoint_has_one_delivery_of_each_event_that_it_wants(stores: Stores) -> None:
    topic = Announced()
    before = topic.crossing("limit.reached", account="a")
    stores.limits.add({0: before}, NOW_MS)
    every = stores.endpoints.create(EndpointSettings(URL), NOW, caller="k").id
    cleared = stores.endpoints.create(
        EndpointSettings(URL, types=("limit.cleared",)), NOW, caller="k"
    ).id
    of_b = stores.endpoints.create(EndpointSettings(URL, accounts=("b",)), NOW, caller="k").id
    off = stores.endpoints.create(EndpointSettings(URL), NOW, caller="k").id
    stores.endpoints.change(off, Change(is_enabled=False))
    after = topic.crossing("limit.cleared", account="a") + topic.crossing(
        "limit.reached", account="b"
    )
    stores.limits.add({0: topic.again(before) + after}, NOW_MS)

    def delivered_to(endpoint: str) -> list[str]:
        return [
            delivery.event_id
            for delivery in reversed(stores.deliveries.newest(endpoint, None, None, 10))
        ]

    assert delivered_to(every) == ["0-1-0", "0-2-0"]
    assert delivered_to(cleared) == ["0-1-0"]
    assert delivered_to(of_b) == ["0-2-0"]
    assert delivered_to(off) == []


def test_a_batch_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    """The process is killed between two writes: an error rolls the transaction back, as a crash
    does.
    """
    stores = Stores(tmp_path / "gateway.db")
    endpoint = stores.endpoints.create(EndpointSettings(URL), NOW, caller="k").id
    records = Announced().crossing("limit.threshold", "limit.reached")
    for table in ("limit_events", "blocked_accounts", "webhook_deliveries", "limit_positions"):
        stores.connection.execute(
            f"CREATE TRIGGER broken BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'the power "
            "went off'); END"
        )
        with pytest.raises(sqlite3.Error, match="the power went off"):
            stores.limits.add({0: records}, NOW_MS)
        stores.connection.execute("DROP TRIGGER broken")
        assert stores.limits.positions() == {}
        assert stores.limits.count() == 0
        assert stores.deliveries.newest(endpoint, None, None, 10) == []
    stores.limits.add({0: records}, NOW_MS)
    stores.close()
    again = Stores(tmp_path / "gateway.db")
    assert again.limits.positions()[0].next_offset == 2
    assert len(again.deliveries.newest(endpoint, None, None, 10)) == 2
    again.close()


def test_a_database_of_the_first_release_is_brought_up_to_date(tmp_path: Path) -> None:
    from usageledger.gateway import store as store_module

    first = sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)
    first.executescript(f"BEGIN; {store_module._MIGRATIONS[0]} PRAGMA user_version = 1; COMMIT;")
    first.execute(
        "INSERT INTO keys VALUES ('0a1b2c3d', 'n', 'read', '2026-11-25T10:00:00+00:00', NULL)"
    )
    first.close()
    stores = Stores(tmp_path / "gateway.db")
    assert stores.connection.execute("SELECT count(*) FROM keys").fetchone() == (1,)
    assert stores.limits.positions() == {}
    assert timedelta(days=35) == KEPT_FOR
    stores.close()
