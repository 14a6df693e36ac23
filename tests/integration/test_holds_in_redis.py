"""Holds on a real server: many workers at once, clean-up afterwards, and damaged keys."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import redis

from tests.valkey_server import ValkeyServer, running_valkey
from usageledger.counters.calling import ask, ask_async
from usageledger.counters.connection import connect, connect_blocking
from usageledger.counters.holding import FindHold, PlaceHold, ReleaseHold
from usageledger.counters.keys import PartitionKeys
from usageledger.counters.reading import ReadAccount, ReadAccounts
from usageledger.counters.redis_view import RedisView
from usageledger.counters.view import Position, ViewChange, ViewError

KEYS = PartitionKeys("test", 0)


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def server(shared_server: ValkeyServer) -> ValkeyServer:
    """A running server that knows account ``ann``, as ``A1``."""
    with shared_server.client() as client:
        client.flushall()
        client.hset(KEYS.accounts, "ann", "A1")
    return shared_server


@pytest.fixture
def client(server: ValkeyServer) -> Iterator[redis.Redis]:
    with server.client() as client:
        yield client


def a_hold(id: str, credits: int = 1, *, remaining: int = 100, life_ms: int = 60_000) -> PlaceHold:
    return PlaceHold(
        account="ann",
        seen=b"A1",
        remaining=remaining,
        id=id,
        credits=credits,
        life_ms=life_ms,
        content=b"{}",
    )


@pytest.mark.peer_defect("FluxMeter: holds")
def test_of_200_workers_at_once_exactly_as_many_get_holds_as_credits_are_left(
    server: ValkeyServer,
) -> None:
    """1,000 holds of one credit for the last 100 credits, from 200 connections: 100 are given."""
    outcomes: Counter[str] = Counter()
    numbers, ready = itertools.count(), threading.Barrier(200)

    def work() -> None:
        with closing(connect_blocking(server.url)) as mine:
            ready.wait(60)
            for _ in range(5):
                outcomes[ask(mine, KEYS, a_hold(f"job-{next(numbers)}")).outcome] += 1

    workers = [threading.Thread(target=work) for _ in range(200)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert outcomes == {"held": 100, "insufficient_credits": 900}
    with closing(connect_blocking(server.url)) as mine:
        assert ask(mine, KEYS, ReadAccount("ann")).held == 100


def test_holders_and_commits_at_once_never_use_more_than_there_is(
    server: ValkeyServer,
) -> None:
    """The owner charges and settles while workers hold. Available credits never fall below 0."""

    async def test() -> None:
        async with connect(server.url) as connection:
            view = RedisView(connection, KEYS.prefix, KEYS.partition)
            await view.clear()
            remaining, position = 300, Position(0, "")
            await view.commit(
                None, ViewChange(head=b"h", position=position, accounts={"ann": b"300"})
            )
            given: asyncio.Queue[str] = asyncio.Queue()

            async def hold(worker: int) -> None:
                for n in range(40):
                    id, seen = f"{worker}-{n}", b"300"
                    for _ in range(1_000):
                        asked = PlaceHold(
                            account="ann",
                            seen=seen,
                            remaining=int(seen),
                            id=id,
                            credits=1,
                            life_ms=60_000,
                            content=b"{}",
                            open_max=5_000,
                        )
                        held = await ask_async(connection, KEYS, asked)
                        if held.outcome != "account_moved":
                            break
                        assert held.account is not None
                        seen = held.account
                    if held.outcome == "held":
                        given.put_nowait(id)

            workers = [asyncio.create_task(hold(worker)) for worker in range(20)]
            charged = 0
            while not (all(worker.done() for worker in workers) and given.empty()):
                settled = [
                    ("ann", given.get_nowait(), "/render") for _ in range(min(7, given.qsize()))
                ]
                before, position = position, Position(position.next_offset + 1, "h")
                charged += len(settled)
                change = ViewChange(
                    head=b"h",
                    position=position,
                    accounts={"ann": b"%d" % (remaining - charged)},
                    settled_holds=settled,
                )
                await view.commit(before, change)
                reading = await ask_async(connection, KEYS, ReadAccount("ann"))
                assert reading.account is not None
                assert int(reading.account) - reading.held >= 0
            await asyncio.gather(*workers)
            reading = await ask_async(connection, KEYS, ReadAccount("ann"))
            assert (charged, reading.account, reading.held) == (300, b"0", 0)

    asyncio.run(asyncio.wait_for(test(), 60))


def test_no_hold_stays_in_memory_however_it_ends(server: ValkeyServer, client: redis.Redis) -> None:
    """Open, settled or released: both keys expire with the last hold.

    Holds that have ended are swept away by the next hold.
    """
    for n in range(30):
        ask(client, KEYS, a_hold(f"job-{n}", life_ms=300 if n < 20 else 400))
    for n in range(5):
        ask(client, KEYS, ReleaseHold(account="ann", id=f"job-{n}", holders=()))
    until_ms = client.zscore(KEYS.hold_ends("ann"), "job-29")
    assert until_ms is not None
    assert {client.pexpiretime(key) for key in (KEYS.holds("ann"), KEYS.hold_ends("ann"))} == {
        int(until_ms)
    }
    until(lambda: not client.exists(KEYS.holds("ann"), KEYS.hold_ends("ann")))
    assert ask(client, KEYS, ReadAccount("ann")).held == 0


def test_the_next_hold_sweeps_away_holds_that_have_ended(
    server: ValkeyServer, client: redis.Redis
) -> None:
    ask(client, KEYS, a_hold("stays"))
    for n in range(30):
        ask(client, KEYS, a_hold(f"job-{n}", life_ms=20))
    for n in range(10):
        ask(client, KEYS, ReleaseHold(account="ann", id=f"job-{n}", holders=()))
    until(
        lambda: (
            ask(client, KEYS, FindHold(account="ann", id="job-29")) is None
            and ask(client, KEYS, ReadAccount("ann")).held == 1
        )
    )
    assert client.hlen(KEYS.holds("ann")) == 1 + 31
    ask(client, KEYS, a_hold("next"))
    assert sorted(client.hkeys(KEYS.holds("ann"))) == [b"", b"next", b"stays"]
    assert client.zcard(KEYS.hold_ends("ann")) == 2
    assert client.hget(KEYS.holds("ann"), "") == b"2"


@pytest.mark.parametrize("spoilt", [KEYS.holds("ann"), KEYS.hold_ends("ann")])
def test_a_key_of_another_type_refuses_every_call_and_nothing_changes(
    server: ValkeyServer, client: redis.Redis, spoilt: str
) -> None:
    ask(client, KEYS, a_hold("job"))
    client.delete(spoilt)
    client.set(spoilt, "not ours")
    before = {key: client.dump(key) for key in client.keys("*")}
    for call in (a_hold("job"), a_hold("other"), ReleaseHold(account="ann", id="job", holders=())):
        with pytest.raises(ViewError, match="WRONGTYPE") as refused:
            ask(client, KEYS, call)
        assert not refused.value.retriable
    assert {key: client.dump(key) for key in client.keys("*")} == before


def test_holding_and_releasing_without_end_fills_no_memory(client: redis.Redis) -> None:
    """The list of released holds was bounded by time alone. A client that held and released in a
    loop for an hour could fill the store.
    """
    ends_ms = int(client.time()[0]) * 1_000 + 600_000
    released = {f"old-{number:05d}": ends_ms + number for number in range(10_000)}
    client.hset(
        KEYS.holds("ann"), mapping={id: f"released 1 {ends} {{}}" for id, ends in released.items()}
    )
    client.zadd(KEYS.hold_ends("ann"), {id: ends - 2**52 for id, ends in released.items()})
    for number in range(3):
        assert ask(client, KEYS, a_hold(f"new-{number}", life_ms=3_600_000)).outcome == "held"
        freed = ask(client, KEYS, ReleaseHold(account="ann", id=f"new-{number}", holders=()))
        assert freed is not None and freed.state == "released"
    assert client.zcard(KEYS.hold_ends("ann")) == 10_000
    assert client.hlen(KEYS.holds("ann")) == 10_001  # among them the sum of the open holds
    kept = client.zrange(KEYS.hold_ends("ann"), 0, -1)
    assert {b"new-0", b"new-1", b"new-2", b"old-00003"} <= {*kept}
    assert not {b"old-00000", b"old-00001", b"old-00002"} & {*kept}


def test_without_memory_nothing_can_be_held_and_holds_can_be_released(
    server: ValkeyServer, client: redis.Redis
) -> None:
    ask(client, KEYS, a_hold("job"))
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(ViewError) as refused:
            ask(client, KEYS, a_hold("other"))
        assert refused.value.retriable
        assert ask(client, KEYS, ReadAccount("ann")).held == 1
        ask(client, KEYS, ReleaseHold(account="ann", id="job", holders=()))
        assert ask(client, KEYS, ReadAccount("ann")).held == 0
    finally:
        client.config_set("maxmemory", 0)


def test_any_order_of_calls_leaves_the_sum_of_the_open_holds(
    server: ValkeyServer, client: redis.Redis, rng: random.Random
) -> None:
    """The sum is stored, not computed each time, and always equals that of the open holds."""

    async def settle(ids: list[str]) -> None:
        async with connect(server.url) as connection:
            view = RedisView(connection, KEYS.prefix, KEYS.partition)
            head = await view.head()
            position = Position(0 if head is None else head.position.next_offset + 1, "h")
            change = ViewChange(
                head=b"h",
                position=position,
                accounts={"ann": b"A1"},
                settled_holds=[("ann", id, "/render") for id in ids],
            )
            await view.commit(None if head is None else head.position, change)

    client.delete(KEYS.accounts)
    asyncio.run(settle([]))
    for _ in range(300):
        id = f"job-{rng.randrange(12)}"
        what = rng.random()
        if what < 0.6:
            ask(client, KEYS, a_hold(id, rng.randrange(40), life_ms=rng.choice((1, 5, 60_000))))
        elif what < 0.85:
            ask(client, KEYS, ReleaseHold(account="ann", id=id, holders=()))
        else:
            asyncio.run(settle([id, f"job-{rng.randrange(12)}"]))
        # A hold may expire after the sum is read and before the holds are.
        until(lambda: ask(client, KEYS, ReadAccount("ann")).held == sum_of_open(client) <= 100)


def test_several_accounts_are_read_as_each_is_read_alone(
    server: ValkeyServer, client: redis.Redis
) -> None:
    client.hset(KEYS.accounts, "bob", "B1")
    client.hset(
        KEYS.head, mapping={"token": f"7:{'ab' * 32}", "value": "{}", "verified_at_ms": "1"}
    )
    for hold in (a_hold("h1", 3), a_hold("h2", 4), a_hold("over", 5, life_ms=1)):
        ask(client, KEYS, hold)
    accounts = ["ann", "nobody", "bob", "ann"]
    until(lambda: ask(client, KEYS, ReadAccount("ann")).held == 7)
    alone = [ask(client, KEYS, ReadAccount(account)) for account in accounts]
    assert all((reading.read_at_ms or 0) > 1_700_000_000_000 for reading in alone)
    assert ask(client, KEYS, ReadAccounts(accounts)) == [
        reading._replace(read_at_ms=None) for reading in alone
    ]


def sum_of_open(client: redis.Redis) -> int:
    found = [ask(client, KEYS, FindHold(account="ann", id=f"job-{n}")) for n in range(12)]
    return sum(hold.credits for hold in found if hold is not None and hold.state == "open")


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it did not come about")
