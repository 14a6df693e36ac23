"""Key names, addresses, server settings, failures and the age of a reading, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
import redis.asyncio
from redis import exceptions

from usageledger.counters import scripts
from usageledger.counters.connection import connect, connect_blocking
from usageledger.counters.holding import Hold
from usageledger.counters.keys import PartitionKeys
from usageledger.counters.memory import MemoryView
from usageledger.counters.reading import VERIFIED_LATELY, as_of
from usageledger.counters.redis_view import RedisView
from usageledger.counters.replies import position_of, token_of, view_error
from usageledger.counters.server_check import ServerSettings, problems_of, warnings_of
from usageledger.counters.view import Position, StoredHead, ViewChange, ViewError

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
GOOD = ServerSettings(
    address="redis-1:6379",
    version="7.0.0",
    is_master=True,
    maxmemory_policy="noeviction",
    has_append_only_file=True,
    appendfsync="everysec",
)


def test_keys_of_a_partition_share_one_hash_tag() -> None:
    keys = PartitionKeys("acme", 12)
    assert [
        keys.head,
        keys.accounts,
        keys.due,
        keys.holds("a}b"),
        keys.beside.hold_ends("ann"),
        keys.identities(566),
    ] == [
        "{acme:12}:head",
        "{acme:12}:accounts",
        "{acme:12}:due",
        "{acme:12}:holds:a}b",
        "{acme:12}:hold_ends:ann",
        "{acme:12}:identities:566",
    ]


def test_a_ledger_without_a_prefix_is_ul() -> None:
    assert PartitionKeys("", 0).head == "{ul:0}:head"


@pytest.mark.parametrize("prefix", ["a}b", "{a", "a:1", "a b", "a*", "ä", "x" * 101])
def test_a_prefix_that_could_leave_its_hash_tag_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        PartitionKeys(prefix, 0)


def test_a_partition_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="counted from 0"):
        PartitionKeys("", -1)


@pytest.mark.parametrize("position", [None, Position(0, ""), Position(2**53 - 1, "ab" * 32)])
def test_a_position_comes_back_from_its_token(position: Position | None) -> None:
    assert position_of(token_of(position).encode()) == position


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        ({"version": "6.2.14"}, "Redis 7.0"),
        ({"is_master": False}, "master"),
        ({"maxmemory_policy": "volatile-ttl"}, "noeviction"),
        ({"has_append_only_file": False}, "appendonly yes"),
    ],
)
def test_each_setting_that_loses_counters_is_a_problem_by_itself(
    changed: dict[str, object], advice: str
) -> None:
    [problem] = problems_of(replace(GOOD, **changed))  # type: ignore[arg-type] # the fields vary
    assert advice in problem
    assert problem.startswith("redis-1:6379 ")


@pytest.mark.parametrize("version", ["7.0.0", "7.2.4", "8.4.0", "10.1.0"])
def test_later_versions_are_accepted(version: str) -> None:
    assert problems_of(replace(GOOD, version=version)) == []


@pytest.mark.parametrize(
    ("appendfsync", "count"), [("everysec", 0), ("always", 0), ("no", 1), (None, 1)]
)
def test_a_file_that_may_lag_is_warned_of(appendfsync: str | None, count: int) -> None:
    assert len(warnings_of(replace(GOOD, appendfsync=appendfsync))) == count


@pytest.mark.parametrize(
    ("error", "retriable"),
    [
        (exceptions.ConnectionError("refused"), True),
        (exceptions.TimeoutError("late"), True),
        (exceptions.BusyLoadingError("loading"), True),
        (exceptions.ReadOnlyError("a replica"), True),
        (exceptions.OutOfMemoryError("full"), True),
        (exceptions.ClusterDownError("CLUSTERDOWN the cluster is down"), True),
        (exceptions.TryAgainError("a slot moves"), True),
        (exceptions.SlotNotCoveredError("no node"), True),
        (exceptions.ResponseError("MISCONF the disk is full"), True),
        (exceptions.ResponseError("NOREPLICAS too few"), True),
        (OSError("no route"), True),
        (exceptions.ResponseError("WRONGTYPE not ours"), False),
        (exceptions.ResponseError("ERR Error compiling script"), False),
        (exceptions.AuthenticationError("wrong password"), False),
        (exceptions.NoPermissionError("no"), False),
    ],
    ids=lambda value: f"{type(value).__name__}: {value}",
)
def test_a_failure_says_whether_to_try_again(error: Exception, retriable: bool) -> None:
    assert view_error(error).retriable is retriable


def test_a_head_that_was_verified_lately_needs_no_as_of() -> None:
    head = StoredHead(Position(1, "a"), b"", int(NOW.timestamp()) * 1_000)
    assert as_of(head, NOW + VERIFIED_LATELY) is None
    assert as_of(head, NOW + VERIFIED_LATELY + timedelta(milliseconds=1)) == NOW
    assert as_of(head, NOW - timedelta(seconds=1)) is None


@pytest.mark.parametrize(
    ("url", "kind", "blocking_kind"),
    [
        ("redis://localhost:6379/0", redis.asyncio.Redis, redis.Redis),
        ("rediss://:secret@localhost:6379/0", redis.asyncio.Redis, redis.Redis),
        ("redis+sentinel://a,b:26380/counters", redis.asyncio.Redis, redis.Redis),
        ("redis+cluster://localhost:6379", redis.asyncio.RedisCluster, None),
        ("rediss+cluster://:secret@a,b:6380,c", redis.asyncio.RedisCluster, None),
    ],
)
def test_an_address_says_which_kind_of_server_it_names(
    url: str, kind: type, blocking_kind: type | None
) -> None:
    async def connected() -> type:
        client = connect(url)
        try:
            return type(client)
        finally:
            await client.aclose()

    assert asyncio.run(connected()) is kind
    if blocking_kind is not None:  # a cluster's blocking client asks for the nodes at once
        client = connect_blocking(url)
        client.close()
        assert type(client) is blocking_kind


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://localhost",
        "redis+other://a",
        "redis+sentinel://a:26379",
        "redis+sentinel:///x",
    ],
)
def test_an_address_that_cannot_be_read_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis\+sentinel://"):
        connect(url)
    with pytest.raises(ValueError, match=r"redis\+sentinel://"):
        connect_blocking(url)


def test_a_view_in_memory_falls_back_whole() -> None:
    async def test() -> None:
        view = MemoryView()
        await view.commit(
            None,
            ViewChange(
                head=b"1",
                position=Position(1, "a"),
                accounts={"ann": b"1"},
                identities={1: {b"x": b""}},
            ),
        )
        hold = view.holds["ann", "hold"] = Hold("open", 5, 2**52, "", b"for")
        earlier, seen = view.snapshot_for_rollback(), await view.snapshot()
        change = ViewChange(
            head=b"2",
            position=Position(2, "b"),
            accounts={"ann": b"2", "bob": b"2"},
            identities={1: {b"y": b""}},
            due_ms={"ann": 1},
            settled_holds=[("ann", "hold", "/render")],
        )
        await view.commit(Position(1, "a"), change)
        view.restore(earlier)
        assert await view.snapshot() == seen
        assert view.holds == {("ann", "hold"): hold}
        await view.commit(Position(1, "a"), change)
        view.restore(earlier)
        assert await view.snapshot() == seen

    asyncio.run(test())


def test_a_view_takes_over_whatever_is_under_its_keys() -> None:
    """Some program had replaced a head with a string, and its partition stopped.

    Each rebuild then failed at its very end.
    """
    keys = PartitionKeys("ul", 0)
    asked: list[tuple[Any, ...]] = []

    class Server:
        async def execute_command(self, _: str, digest: str, count: int, *words: Any) -> Any:
            if digest == scripts.script("take_over").digest:
                asked.append(words)
                return [1]
            if words[0] == keys.head:
                raise exceptions.ResponseError(
                    "WRONGTYPE Operation against a key holding the wrong kind of value"
                )
            return [b"5:h", b"value", b"1", b"566"]

        async def scan_iter(self, **_: Any) -> AsyncIterator[bytes]:
            yield keys.identities(565).encode()

    asyncio.run(RedisView(Server(), "ul", 0).take_over(Position(5, "h")))  # type: ignore[arg-type]
    (words,) = asked
    assert words[6:9] == (keys.identities(565), keys.beside.identities(566), keys.identities(566))
    assert words[9:] == ("5:h", b"", b"566", 1)


def test_a_connection_that_is_closed_while_it_is_made_is_tried_again() -> None:
    """In a failover of a Redis Cluster, redis-py raised AttributeError.

    It was treated as a bug of ours, and the whole worker ended.
    """

    class ClosedMeanwhile:
        async def execute_command(self, *_args: object) -> object:
            raise AttributeError("'NoneType' object has no attribute 'writelines'")

    async def ask() -> None:
        # It is as much of a client as the call comes to.
        view = RedisView(ClosedMeanwhile(), "acme", 0)  # type: ignore[arg-type]
        with pytest.raises(ViewError) as raised:
            await view.verify(Position(1, "hash"))
        assert raised.value.retriable

    asyncio.run(ask())
