"""A view in a server that is full, hung, gone, behind, damaged or truncated.

It changes as a whole or not at all, and says what is wrong.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.valkey_server import ValkeyServer, running_valkey
from usageledger.counters.connection import connect
from usageledger.counters.keys import PartitionKeys
from usageledger.counters.redis_view import RedisView
from usageledger.counters.view import HeadMoved, Position, ViewChange, ViewError
from usageledger.local.ports import LOOPBACK, free_port

KEYS = PartitionKeys("test", 7)
FIRST = Position(10, "aa")
SECOND = Position(25, "bb")
GEN_1, GEN_2 = b"1" * 16, b"2" * 16
FIRST_CHANGE = ViewChange(
    head=b"first",
    position=FIRST,
    accounts={"ann": b"A1"},
    identities={100: {GEN_1: b"one"}},
    due_ms={"ann": 5},
)
SECOND_CHANGE = ViewChange(
    head=b"second",
    position=SECOND,
    accounts={"ann": b"A2"},
    identities={100: {GEN_2: b"two"}},
    due_ms={"ann": 6},
)


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def server(shared_server: ValkeyServer) -> ValkeyServer:
    """A running server without keys."""
    with shared_server.client() as client:
        client.flushall()
    return shared_server


@pytest.fixture
def client(server: ValkeyServer) -> Iterator[redis.Redis]:
    """A client that reads the server without the view."""
    with server.client() as client:
        yield client


@asynccontextmanager
async def a_view(url: str, *, timeout_s: float = 5.0) -> AsyncIterator[RedisView]:
    # The connection allows more than any view, so that a call ends by the view's own limit.
    async with connect(url, timeout_s=60.0) as connection:
        yield RedisView(connection, KEYS.prefix, KEYS.partition, timeout_s=timeout_s)


def run(
    url: str, test: Callable[[RedisView], Coroutine[Any, Any, None]], *, timeout_s: float = 5.0
) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60), a_view(url, timeout_s=timeout_s) as view:
            await test(view)

    asyncio.run(bounded())


async def contents(view: RedisView) -> object:
    snapshot = await view.snapshot()
    return (
        snapshot.head and (snapshot.head.position, snapshot.head.value),
        snapshot.accounts,
        snapshot.due_ms,
        snapshot.identities,
    )


AFTER_FIRST = ((FIRST, b"first"), {"ann": b"A1"}, {"ann": 5}, {100: 1})
AFTER_SECOND = ((SECOND, b"second"), {"ann": b"A2"}, {"ann": 6}, {100: 2})


def test_a_chunk_of_5000_events_is_one_call_to_look_up_and_one_to_commit(
    server: ValkeyServer, client: redis.Redis
) -> None:
    identities = {
        100 + w: {b"%d-%014d" % (w, n): b"x" * 60 for n in range(1_666)} for w in range(3)
    }
    accounts = {f"account-{n}": b"x" * 300 for n in range(500)}
    asked = [(window, identity) for window, found in identities.items() for identity in found]

    async def test(view: RedisView) -> None:
        await view.commit(None, FIRST_CHANGE)
        await view.fetch(FIRST, [], [])
        client.config_resetstat()
        await view.fetch(FIRST, list(accounts), asked)
        await view.commit(
            FIRST, ViewChange(head=b"h", position=SECOND, accounts=accounts, identities=identities)
        )
        stats = client.info("commandstats")
        assert stats["cmdstat_evalsha"]["calls"] == 2
        assert "cmdstat_eval" not in stats

    run(server.url, test)


def test_scripts_are_sent_again_to_a_server_that_has_forgotten_them(
    server: ValkeyServer, client: redis.Redis
) -> None:
    async def test(view: RedisView) -> None:
        await view.commit(None, FIRST_CHANGE)
        for call in (
            view.head,
            lambda: view.fetch(FIRST, ["ann"], []),
            lambda: view.verify(FIRST),
            view.due,
            view.snapshot,
        ):
            client.script_flush()
            await call()
        client.script_flush()
        await view.commit(FIRST, SECOND_CHANGE)
        assert await contents(view) == AFTER_SECOND

    run(server.url, test)


@pytest.mark.peer_defect("FluxMeter: tenants collide")
def test_all_keys_of_a_partition_carry_its_tag_and_no_commit_touches_anothers(
    server: ValkeyServer, client: redis.Redis
) -> None:
    """Ledgers ``a`` and ``a.b``, and partitions 1 and 11, have no key in common."""

    async def test() -> None:
        async with connect(server.url) as connection:
            ledger_partitions = [
                (prefix, partition) for prefix in ("", "a", "a.b") for partition in (1, 11)
            ]
            views = [RedisView(connection, *place) for place in ledger_partitions]
            for n, view in enumerate(views):
                await view.commit(
                    None,
                    ViewChange(
                        head=b"%d" % n,
                        position=FIRST,
                        accounts={"ann": b"%d" % n},
                        identities={n: {GEN_1: b""}},
                    ),
                )
            for n, view in enumerate(views):
                snapshot = await view.snapshot()
                assert (snapshot.accounts, snapshot.identities) == ({"ann": b"%d" % n}, {n: 1})
            await views[0].clear()
            assert (await views[0].head(), (await views[1].snapshot()).accounts) == (
                None,
                {"ann": b"1"},
            )
        tags = {key.partition("}")[0] for key in keys_of(client)}
        assert tags == {"{ul:11", "{a:1", "{a:11", "{a.b:1", "{a.b:11"}

    asyncio.run(test())


def test_the_head_lists_each_window_once(server: ValkeyServer, client: redis.Redis) -> None:
    async def test(view: RedisView) -> None:
        at = None
        for n in range(6):
            following = Position(n + 1, "n")
            change = ViewChange(
                head=b"h",
                position=following,
                identities={n // 2: {b"%016d" % n: b""}},
                drop_windows_before=n // 2 - 1,
            )
            await view.commit(at, change)
            at = following
        listed = (client.hget(KEYS.head, "windows") or b"").split()
        assert sorted(listed) == [b"1", b"2"]
        assert sorted(client.keys(f"{KEYS.tag}:identities:*")) == [
            KEYS.identities(1).encode(),
            KEYS.identities(2).encode(),
        ]

    run(server.url, test)


@pytest.mark.parametrize(
    "spoilt",
    [
        KEYS.accounts,
        KEYS.due,
        KEYS.holds("ann"),
        KEYS.hold_ends("ann"),
        KEYS.identities(100),
        KEYS.identities(101),
    ],
)
def test_a_key_of_another_type_refuses_the_commit_and_nothing_changes(
    server: ValkeyServer, client: redis.Redis, spoilt: str
) -> None:
    """Scripts have no rollback: an error in the fourth write would leave the first three."""

    async def test(view: RedisView) -> None:
        await view.commit(None, FIRST_CHANGE)
        client.delete(spoilt)
        client.set(spoilt, "not ours")
        others = [key for key in client.keys("*") if key != spoilt.encode()]
        before = {key: client.dump(key) for key in others}
        change = ViewChange(
            head=b"second",
            position=SECOND,
            accounts={"ann": b"A2"},
            identities={100: {GEN_2: b"two"}, 101: {GEN_2: b"two"}},
            due_ms={"ann": 6},
            settled_holds=[("ann", "hold", "/render")],
        )
        with pytest.raises(ViewError, match="WRONGTYPE") as refused:
            await view.commit(FIRST, change)
        assert not refused.value.retriable
        assert {
            key: client.dump(key) for key in client.keys("*") if key != spoilt.encode()
        } == before

    run(server.url, test)


def test_without_memory_a_commit_is_refused_whole_and_succeeds_once_there_is_some(
    server: ValkeyServer, client: redis.Redis
) -> None:
    async def test(view: RedisView) -> None:
        await view.commit(None, FIRST_CHANGE)
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(ViewError) as refused:
                await view.commit(FIRST, SECOND_CHANGE)
            assert refused.value.retriable
            await view.verify(FIRST)
            assert await contents(view) == AFTER_FIRST
            assert list((await view.fetch(FIRST, ["ann"], [(100, GEN_1)])).identities) == [b"one"]
        finally:
            client.config_set("maxmemory", 0)
        await view.commit(FIRST, SECOND_CHANGE)
        assert await contents(view) == AFTER_SECOND

    run(server.url, test)


def test_a_hung_server_costs_the_time_that_the_view_allows(server: ValkeyServer) -> None:
    """A view that allows more asks earlier and still waits when the other has given up."""

    async def test(patient: RedisView) -> None:
        await patient.commit(None, FIRST_CHANGE)
        async with a_view(server.url, timeout_s=0.3) as view:
            with suppress(ViewError):
                await view.head()
            await fail_while_it_hangs(view, patient)
        # The server carries out earlier requests when it wakes, so the owner has to look.
        head = await patient.head()
        assert head is not None
        assert head.position in (FIRST, SECOND)

    async def fail_while_it_hangs(view: RedisView, patient: RedisView) -> None:
        calls = (
            view.head,
            lambda: view.fetch(FIRST, ["ann"], []),
            lambda: view.commit(FIRST, SECOND_CHANGE),
            lambda: view.verify(FIRST),
        )
        os.kill(server.pid, signal.SIGSTOP)
        try:
            waiting = asyncio.create_task(patient.head())
            for call in calls:
                with pytest.raises(ViewError) as failed:
                    await call()
                assert failed.value.retriable
            assert not waiting.done()
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await waiting

    run(server.url, test, timeout_s=50.0)


def test_a_server_that_went_away_is_found_again_by_the_same_view(tmp_path: Path) -> None:
    async def test(view: RedisView) -> None:
        await view.commit(None, FIRST_CHANGE)
        mortal.kill()
        with pytest.raises(ViewError) as failed:
            await view.head()
        assert failed.value.retriable
        mortal.start()
        assert await contents(view) == AFTER_FIRST
        await view.commit(FIRST, SECOND_CHANGE)

    with running_valkey(tmp_path, "--appendfsync", "always") as mortal:
        run(mortal.url, test)


def test_a_wrong_password_is_not_worth_trying_again(tmp_path: Path) -> None:
    async def test(view: RedisView) -> None:
        with pytest.raises(ViewError) as failed:
            await view.head()
        assert not failed.value.retriable

    with running_valkey(tmp_path) as server, server.client() as client:
        client.config_set("requirepass", "right")
        run(f"redis://:wrong@{LOOPBACK}:{server.port}/0", test)


def test_a_commit_whose_answer_is_lost_shows_in_the_head(
    server: ValkeyServer,
) -> None:
    """The server applies the commit and its answer never arrives.

    The owner claims again, reads the head and finds its commit there.
    """

    async def test() -> None:
        async with (
            a_deaf_proxy(server.port) as (port, be_deaf),
            a_view(f"redis://{LOOPBACK}:{port}/0", timeout_s=3.0) as owner,
        ):
            await owner.commit(None, FIRST_CHANGE)
            be_deaf.set()
            with pytest.raises(ViewError) as failed:
                await owner.commit(FIRST, SECOND_CHANGE)
            assert not isinstance(failed.value, HeadMoved)
            assert failed.value.retriable
            be_deaf.clear()
            with pytest.raises(HeadMoved) as refused:
                await owner.commit(FIRST, SECOND_CHANGE)
            assert refused.value.found == SECOND
            assert await contents(owner) == AFTER_SECOND

    asyncio.run(asyncio.wait_for(test(), 30))


def test_a_replica_is_never_asked_what_only_a_master_knows(
    server: ValkeyServer, tmp_path: Path
) -> None:
    async def test(at_master: RedisView, replica: ValkeyServer) -> None:
        await at_master.commit(None, FIRST_CHANGE)
        with replica.client() as client:
            await is_true(lambda: client.hget(KEYS.head, "value") == b"first")
        async with a_view(replica.url) as view:
            for call in (
                view.head,
                lambda: view.verify(FIRST),
                lambda: view.commit(FIRST, SECOND_CHANGE),
                view.due,
                view.snapshot,
                view.clear,
            ):
                with pytest.raises(ViewError) as refused:
                    await call()
                assert not isinstance(refused.value, HeadMoved)
                assert refused.value.retriable

    with running_valkey(tmp_path, "--replicaof", f"{LOOPBACK} {server.port}") as replica:
        run(server.url, lambda view: test(view, replica))


def test_whatever_end_of_the_file_is_lost_the_view_is_as_some_commit_left_it(
    tmp_path: Path,
) -> None:
    """A server that lost the end of its append-only file has a view of one moment.

    Its head, accounts, identities and due list belong together.
    """
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    commits = 40
    heads: set[int] = set()

    async def fill(view: RedisView) -> None:
        at = None
        for n in range(commits):
            following = Position(n, "hash")
            await view.commit(at, change_number(n, following))
            if n % 3 == 0:
                await view.verify(following)
            at = following

    async def check(view: RedisView) -> None:
        head = await view.head()
        if head is None:
            assert await contents(view) == (None, {}, {}, {})
            return
        n = head.position.next_offset
        heads.add(n)
        assert await contents(view) == (
            (Position(n, "hash"), b"%d" % n),
            {f"account-{m}": b"%d" % n for m in range(50)},
            {f"account-{m}": n for m in range(50)},
            dict.fromkeys(range(max(0, n // 5 - 1), n // 5), 10) | {n // 5: 2 * (n % 5 + 1)},
        )

    with running_valkey(
        tmp_path / "filled", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"
    ) as server:
        run(server.url, fill)
    for attempt in range(10):
        directory = tmp_path / f"cut-{attempt}"
        shutil.copytree(tmp_path / "filled", directory)
        [file] = (directory / "appendonlydir").glob("*.incr.aof")
        os.truncate(file, chance.randrange(file.stat().st_size))
        with running_valkey(directory, "--aof-load-truncated", "yes") as server:
            run(server.url, check)
    assert len(heads) > 1, "every cut gave the same view, so nothing was tested"


def change_number(n: int, position: Position) -> ViewChange:
    return ViewChange(
        head=b"%d" % n,
        position=position,
        accounts={f"account-{m}": b"%d" % n for m in range(50)},
        due_ms={f"account-{m}": n for m in range(50)},
        identities={n // 5: {b"%d" % n: b"", b"and %d" % n: b""}},
        drop_windows_before=n // 5 - 1,
    )


def test_a_view_that_lost_only_its_head_is_not_treated_as_an_empty_one(
    server: ValkeyServer, client: redis.Redis
) -> None:
    """Somebody deleted the head.

    The rest would make new events look like duplicates. Nothing is committed on top of it, and it
    can be cleared.
    """

    async def test(view: RedisView) -> None:
        await view.commit(None, FIRST_CHANGE)
        client.delete(KEYS.head)
        with pytest.raises(ViewError, match="rebuild --partition 7") as refused:
            await view.commit(None, SECOND_CHANGE)
        assert not isinstance(refused.value, HeadMoved)
        assert not refused.value.retriable
        await view.clear()
        assert client.keys("*") == []
        await view.commit(None, FIRST_CHANGE)
        assert await contents(view) == AFTER_FIRST

    run(server.url, test)


def test_a_head_that_no_ledger_wrote_is_refused(server: ValkeyServer, client: redis.Redis) -> None:
    async def test(view: RedisView) -> None:
        client.hset(KEYS.head, mapping={"token": "10:aa"})
        with pytest.raises(ViewError, match="lacks fields") as refused:
            await view.head()
        assert not refused.value.retriable

    run(server.url, test)


def test_a_view_is_reached_by_the_sentinels_of_its_master(
    server: ValkeyServer, tmp_path: Path
) -> None:
    port = free_port()
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(
        f"port {port}\nbind {LOOPBACK}\nsentinel monitor counters {LOOPBACK} {server.port} 1\n",
        encoding="utf-8",
    )
    with running_sentinel(configuration, port):

        async def test(view: RedisView) -> None:
            await view.commit(None, FIRST_CHANGE)
            assert await contents(view) == AFTER_FIRST

        run(f"redis+sentinel://{LOOPBACK}:{port}/counters/0", test)
    with server.client() as client:
        assert client.hget(KEYS.head, "value") == b"first"


@contextmanager
def running_sentinel(configuration: Path, port: int) -> Iterator[None]:
    sentinel = ValkeyServer(configuration.parent, port=port)
    sentinel.start(str(configuration), "--sentinel")
    try:
        yield
    finally:
        sentinel.kill()


def keys_of(client: redis.Redis) -> list[str]:
    return [key.decode() if isinstance(key, bytes) else key for key in client.keys("*")]


async def is_true(condition: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come about")


@asynccontextmanager
async def a_deaf_proxy(server_port: int) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A proxy before the server; while the event is set, it drops the server's answers."""
    is_deaf = asyncio.Event()
    links: set[asyncio.Task[None]] = set()

    async def link(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = asyncio.current_task()
        assert own is not None
        links.add(own)
        from_server, to_server = await asyncio.open_connection(LOOPBACK, server_port)

        async def pass_on(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool
        ) -> None:
            while data := await source.read(65_536):
                if not (answers and is_deaf.is_set()):
                    sink.write(data)
                    await sink.drain()

        try:
            directions = (
                pass_on(reader, to_server, answers=False),
                pass_on(from_server, writer, answers=True),
            )
            await asyncio.wait(
                [asyncio.create_task(direction) for direction in directions],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            writer.close()
            to_server.close()

    listening = await asyncio.start_server(link, LOOPBACK, 0)
    try:
        yield listening.sockets[0].getsockname()[1], is_deaf
    finally:
        listening.close()
        for task in links:
            task.cancel()
        await asyncio.gather(*links, return_exceptions=True)
