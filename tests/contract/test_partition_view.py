"""One contract for every view of a partition: memory, Redis and Redis Cluster behave alike."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from tests.valkey_server import running_cluster
from usageledger.counters.connection import connect
from usageledger.counters.memory import MemoryView
from usageledger.counters.redis_view import RedisView
from usageledger.counters.view import HeadMoved, PartitionView, Position, StoredHead, ViewChange

FIRST = Position(10, "aa")
SECOND = Position(25, "bb")
GEN_1, GEN_2, GEN_3 = (bytes([n]) * 16 for n in (1, 2, 3))
BINARY = bytes(range(256))

OpenView = Callable[[], AbstractAsyncContextManager[PartitionView]]


def memory_view(_: pytest.FixtureRequest) -> OpenView:
    view = MemoryView()

    @asynccontextmanager
    async def open_it() -> AsyncIterator[PartitionView]:
        yield view

    return open_it


def redis_view(request: pytest.FixtureRequest) -> OpenView:
    return views_at(request.getfixturevalue("redis_url"))


def cluster_view(request: pytest.FixtureRequest) -> OpenView:
    return views_at(request.getfixturevalue("cluster_url"))


def views_at(url: str) -> OpenView:
    prefix = f"t{uuid.uuid4().hex[:10]}"

    @asynccontextmanager
    async def open_it() -> AsyncIterator[PartitionView]:
        async with connect(url) as client:
            yield RedisView(client, prefix, 3)

    return open_it


@pytest.fixture(scope="module")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as node:
        yield node.cluster_url


@pytest.fixture(params=[memory_view, redis_view, cluster_view], ids=["memory", "redis", "cluster"])
def open_view(request: pytest.FixtureRequest) -> OpenView:
    """Opens the same new view of a partition each time."""
    opened: OpenView = request.param(request)
    return opened


def run(open_view: OpenView, test: Callable[[PartitionView], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30), open_view() as view:
            await test(view)

    asyncio.run(bounded())


def position_of(head: StoredHead | None) -> Position | None:
    return None if head is None else head.position


async def everything(view: PartitionView) -> object:
    """Everything that can be read from a view, except when it was verified."""
    snapshot = await view.snapshot()
    head = snapshot.head and (snapshot.head.position, snapshot.head.value)
    return head, dict(snapshot.accounts), dict(snapshot.due_ms), dict(snapshot.identities)


async def begin(view: PartitionView) -> None:
    await view.commit(
        None,
        ViewChange(
            head=b"first",
            position=FIRST,
            accounts={"ann": b"A1", "bob": b"B1"},
            identities={100: {GEN_1: b"one"}, 101: {GEN_2: b"two"}},
            due_ms={"ann": 1_800_000_000_000, "bob": 1_900_000_000_000},
        ),
    )


def test_an_empty_view_has_no_head_and_finds_nothing(open_view: OpenView) -> None:
    async def test(view: PartitionView) -> None:
        assert await view.head() is None
        assert await view.due() == {}
        found = await view.fetch(None, ["ann"], [(100, GEN_1)])
        assert (list(found.accounts), list(found.identities)) == ([None], [None])
        snapshot = await view.snapshot()
        assert (snapshot.head, snapshot.accounts, snapshot.due_ms, snapshot.identities) == (
            None,
            {},
            {},
            {},
        )

    run(open_view, test)


def test_a_committed_change_is_found_by_its_head(open_view: OpenView) -> None:
    async def test(view: PartitionView) -> None:
        await begin(view)
        head = await view.head()
        assert head is not None
        assert (head.position, head.value) == (FIRST, b"first")
        found = await view.fetch(
            FIRST, ["bob", "eve", "ann"], [(100, GEN_1), (101, GEN_2), (101, GEN_3)]
        )
        assert list(found.accounts) == [b"B1", None, b"A1"]
        assert list(found.identities) == [b"one", b"two", None]
        assert await view.due() == {"ann": 1_800_000_000_000, "bob": 1_900_000_000_000}

    run(open_view, test)


def test_a_due_list_is_that_of_the_position_asked_for(open_view: OpenView) -> None:
    async def test(view: PartitionView) -> None:
        with pytest.raises(HeadMoved):
            await view.due(FIRST)
        await begin(view)
        assert set(await view.due(FIRST)) == {"ann", "bob"}
        with pytest.raises(HeadMoved) as moved:
            await view.due(SECOND)
        assert moved.value.found == FIRST

    run(open_view, test)


def test_a_later_commit_replaces_what_it_names_and_leaves_the_rest(open_view: OpenView) -> None:
    async def test(view: PartitionView) -> None:
        await begin(view)
        change = ViewChange(
            head=b"second",
            position=SECOND,
            accounts={"bob": b"B2", "eve": b"E2"},
            identities={101: {GEN_2: b"two, voided", GEN_3: b"three"}},
            due_ms={"ann": None, "eve": 1_700_000_000_000, "nobody": None},
        )
        await view.commit(FIRST, change)
        snapshot = await view.snapshot()
        assert position_of(snapshot.head) == SECOND
        assert snapshot.accounts == {"ann": b"A1", "bob": b"B2", "eve": b"E2"}
        assert snapshot.due_ms == {"bob": 1_900_000_000_000, "eve": 1_700_000_000_000}
        assert snapshot.identities == {100: 1, 101: 2}
        found = await view.fetch(SECOND, [], [(100, GEN_1), (101, GEN_2), (101, GEN_3)])
        assert list(found.identities) == [b"one", b"two, voided", b"three"]

    run(open_view, test)


@pytest.mark.parametrize(
    "expected",
    [None, Position(10, "ab"), Position(11, "aa"), SECOND],
    ids=["none", "hash", "offset", "ahead"],
)
def test_every_call_with_another_head_is_refused_and_changes_nothing(
    open_view: OpenView, expected: Position | None
) -> None:
    async def test(view: PartitionView) -> None:
        await begin(view)
        before = await everything(view)
        change = ViewChange(
            head=b"x",
            position=Position(30, "cc"),
            accounts={"ann": b"X", "new": b"X"},
            identities={100: {GEN_1: b"X"}, 103: {GEN_3: b"X"}},
            due_ms={"ann": None, "bob": 5},
            drop_windows_before=101,
        )
        with pytest.raises(HeadMoved) as refused:
            await view.commit(expected, change)
        assert refused.value.found == FIRST
        with pytest.raises(HeadMoved):
            await view.fetch(expected, ["ann"], [])
        if expected is not None:
            with pytest.raises(HeadMoved):
                await view.verify(expected)
        assert await everything(view) == before

    run(open_view, test)


def test_an_empty_view_refuses_a_caller_that_expects_a_head(open_view: OpenView) -> None:
    """A Redis that came back empty must not answer "not seen before"."""

    async def test(view: PartitionView) -> None:
        calls: list[Coroutine[Any, Any, object]] = [
            view.fetch(FIRST, ["ann"], [(100, GEN_1)]),
            view.commit(FIRST, ViewChange(head=b"x", position=SECOND)),
            view.verify(FIRST),
        ]
        for call in calls:
            with pytest.raises(HeadMoved) as refused:
                await call
            assert refused.value.found is None
        assert await view.head() is None

    run(open_view, test)


def test_a_commit_whose_answer_was_lost_shows_in_the_head_and_is_not_applied_twice(
    open_view: OpenView,
) -> None:
    """After a time-out, the head or a second commit shows the owner that its commit counted."""

    async def test(view: PartitionView) -> None:
        await begin(view)
        change = ViewChange(head=b"second", position=SECOND, accounts={"ann": b"A2"})
        await view.commit(FIRST, change)
        with pytest.raises(HeadMoved) as refused:
            await view.commit(FIRST, change)
        assert refused.value.found == change.position
        assert position_of(await view.head()) == change.position

    run(open_view, test)


def test_an_identity_is_found_in_its_window_and_from_the_one_after_and_from_no_other(
    open_view: OpenView,
) -> None:
    async def test(view: PartitionView) -> None:
        await begin(view)
        asked = [
            (99, GEN_1),
            (100, GEN_1),
            (101, GEN_1),
            (102, GEN_1),
            (100, GEN_2),
            (101, GEN_2),
            (102, GEN_2),
            (103, GEN_2),
        ]
        found = await view.fetch(FIRST, [], asked)
        assert list(found.identities) == [None, b"one", b"one", None, None, b"two", b"two", None]

    run(open_view, test)


def test_of_two_windows_that_hold_an_identity_the_newer_one_counts(open_view: OpenView) -> None:
    async def test(view: PartitionView) -> None:
        change = ViewChange(
            head=b"h", position=FIRST, identities={100: {GEN_1: b"older"}, 101: {GEN_1: b"newer"}}
        )
        await view.commit(None, change)
        found = await view.fetch(FIRST, [], [(101, GEN_1), (100, GEN_1), (102, GEN_1)])
        assert list(found.identities) == [b"newer", b"older", b"newer"]

    run(open_view, test)


def test_windows_that_are_no_longer_needed_are_dropped_whole_and_by_number(
    open_view: OpenView,
) -> None:
    """99 is older than 100, though not as a text."""

    async def test(view: PartitionView) -> None:
        windows = {window: {GEN_1: b"%d" % window} for window in (9, 98, 99, 100, 101)}
        await view.commit(None, ViewChange(head=b"h", position=FIRST, identities=windows))
        change = ViewChange(
            head=b"h",
            position=SECOND,
            identities={99: {GEN_2: b"too old"}, 101: {GEN_2: b"kept"}},
            drop_windows_before=100,
        )
        await view.commit(FIRST, change)
        assert (await view.snapshot()).identities == {100: 1, 101: 2}
        found = await view.fetch(
            SECOND, [], [(99, GEN_1), (100, GEN_1), (99, GEN_2), (101, GEN_2), (9, GEN_1)]
        )
        assert list(found.identities) == [None, b"100", None, b"kept", None]

    run(open_view, test)


def test_dropping_windows_again_and_again_changes_nothing_more(open_view: OpenView) -> None:
    async def test(view: PartitionView) -> None:
        await begin(view)
        at = FIRST
        for n in range(3):
            following = Position(100 + n, "n")
            await view.commit(
                at, ViewChange(head=b"h", position=following, drop_windows_before=101)
            )
            at = following
            assert (await view.snapshot()).identities == {101: 1}

    run(open_view, test)


def test_a_head_is_verified_by_a_commit_and_by_verify_and_by_nothing_else(
    open_view: OpenView,
) -> None:
    async def test(view: PartitionView) -> None:
        started_ms = time.time_ns() // 1_000_000
        await begin(view)
        committed = await view.head()
        assert committed is not None
        assert started_ms - 2_000 <= committed.verified_at_ms <= time.time_ns() // 1_000_000 + 2_000
        await asyncio.sleep(0.005)
        await view.fetch(FIRST, ["ann"], [])
        assert await view.head() == committed
        await view.verify(FIRST)
        verified = await view.head()
        assert verified is not None
        assert verified.verified_at_ms > committed.verified_at_ms
        assert verified._replace(verified_at_ms=committed.verified_at_ms) == committed

    run(open_view, test)


def test_a_commit_with_an_as_of_time_verifies_nothing(open_view: OpenView) -> None:
    """Without the as-of time, a view in catch-up would show last month's figures as today's."""

    async def test(view: PartitionView) -> None:
        await view.commit(None, ViewChange(head=b"h", position=FIRST, as_of_ms=1_700_000_000_000))
        behind = await view.head()
        assert behind is not None
        assert behind.verified_at_ms == 1_700_000_000_000
        await view.commit(FIRST, ViewChange(head=b"h", position=SECOND))
        committed = await view.head()
        assert committed is not None
        assert committed.verified_at_ms > 1_750_000_000_000

    run(open_view, test)


def test_names_and_values_can_be_any_bytes(open_view: OpenView) -> None:
    async def test(view: PartitionView) -> None:
        names = ["a b", "ü/日本", "{x}", "-1", "1e3", "0", "nil", "with:colon"]
        change = ViewChange(
            head=BINARY,
            position=FIRST,
            accounts={name: BINARY + name.encode() for name in names},
            identities={0: {BINARY[:16]: BINARY, BINARY[-16:]: b""}},
            due_ms={name: n for n, name in enumerate(names)},
        )
        await view.commit(None, change)
        head = await view.head()
        assert head is not None
        assert head.value == BINARY
        found = await view.fetch(FIRST, names, [(0, BINARY[:16]), (1, BINARY[-16:])])
        assert list(found.accounts) == [BINARY + name.encode() for name in names]
        assert list(found.identities) == [BINARY, b""]
        assert await view.due() == {name: n for n, name in enumerate(names)}

    run(open_view, test)


def test_times_and_offsets_are_exact_up_to_two_to_the_53rd(open_view: OpenView) -> None:
    async def test(view: PartitionView) -> None:
        last = 2**53 - 1
        at = Position(last, "f" * 64)
        await view.commit(
            None,
            ViewChange(
                head=b"h", position=at, due_ms={"a": last, "b": last - 1, "c": 0, "d": -last}
            ),
        )
        assert position_of(await view.head()) == at
        assert await view.due() == {"a": last, "b": last - 1, "c": 0, "d": -last}

    run(open_view, test)


@pytest.mark.parametrize("count", [999, 1_000, 1_001, 10_000])
def test_a_change_of_any_size_is_committed_and_found_whole(open_view: OpenView, count: int) -> None:
    async def test(view: PartitionView) -> None:
        accounts = {f"account-{n}": b"state %d" % n for n in range(count)}
        identities = [(100 + n % 2, n.to_bytes(16, "big")) for n in range(count)]
        by_window: dict[int, dict[bytes, bytes]] = {100: {}, 101: {}}
        for n, (window, identity) in enumerate(identities):
            by_window[window][identity] = b"seen %d" % n
        due_ms = {account: n for n, account in enumerate(accounts)}
        change = ViewChange(
            head=b"h", position=FIRST, accounts=accounts, identities=by_window, due_ms=due_ms
        )
        await view.commit(None, change)
        unknown = [(101, b"unknown %08d" % n) for n in range(count)]
        asked = [pair for both in zip(identities, unknown, strict=True) for pair in both]
        found = await view.fetch(FIRST, [*accounts, "nobody"], asked)
        assert list(found.accounts) == [*accounts.values(), None]
        assert list(found.identities) == [
            answer for n in range(count) for answer in (b"seen %d" % n, None)
        ]
        assert await view.due() == due_ms
        await view.commit(
            FIRST,
            ViewChange(
                head=b"h",
                position=SECOND,
                due_ms=dict.fromkeys(accounts),
                settled_holds=[(account, account, "/render") for account in accounts],
            ),
        )
        assert await view.due() == {}

    run(open_view, test)


def test_calls_are_executed_in_the_order_in_which_they_were_made(open_view: OpenView) -> None:
    """The next chunk is looked up while this one's commit is in flight.

    The look-up expects the head that the commit makes.
    """

    async def test(view: PartitionView) -> None:
        await begin(view)
        at = FIRST
        calls: list[asyncio.Task[Any]] = []
        for n in range(20):
            following = Position(100 + n, "n")
            accounts = {f"account-{m}": b"%d" % n for m in range(200)}
            calls.append(
                asyncio.create_task(
                    view.commit(at, ViewChange(head=b"h", position=following, accounts=accounts))
                )
            )
            calls.append(asyncio.create_task(view.fetch(following, ["account-7"], [])))
            at = following
        answers = await asyncio.gather(*calls)
        assert [list(found.accounts) for found in answers[1::2]] == [[b"%d" % n] for n in range(20)]

    run(open_view, test)


def test_a_cleared_view_is_empty_and_can_be_built_anew(open_view: OpenView) -> None:
    async def test(view: PartitionView) -> None:
        await begin(view)
        before = await everything(view)
        await view.clear()
        assert await everything(view) == (None, {}, {}, {})
        await view.clear()
        await begin(view)
        assert await everything(view) == before

    run(open_view, test)


def test_a_view_that_is_opened_again_is_as_it_was_left(open_view: OpenView) -> None:
    run(open_view, begin)

    async def test(view: PartitionView) -> None:
        assert position_of(await view.head()) == FIRST
        assert list((await view.fetch(FIRST, ["ann"], [])).accounts) == [b"A1"]

    run(open_view, test)


async def begin_beside(view: PartitionView) -> None:
    """Begin another fold of the same ledger, with other accounts, due dates and windows."""
    await view.beside().commit(
        None,
        ViewChange(
            head=b"anew",
            position=SECOND,
            accounts={"ann": b"A9", "eve": b"E9"},
            identities={101: {GEN_2: b"two, anew"}, 102: {GEN_3: b"three"}},
            due_ms={"eve": 5},
        ),
    )


ANEW = ((SECOND, b"anew"), {"ann": b"A9", "eve": b"E9"}, {"eve": 5}, {101: 1, 102: 1})


def test_a_view_that_is_built_beside_is_not_seen_and_changes_nothing(open_view: OpenView) -> None:
    async def test(view: PartitionView) -> None:
        await begin(view)
        before = await everything(view)
        await begin_beside(view)
        assert await everything(view) == before
        assert await everything(view.beside()) == ANEW
        await view.beside().clear()
        assert await everything(view) == before

    run(open_view, test)


@pytest.mark.parametrize("prepare", [begin, None], ids=["over another view", "over nothing"])
def test_a_view_beside_takes_over_whole_and_leaves_nothing_behind(
    open_view: OpenView, prepare: Callable[[PartitionView], Coroutine[Any, Any, None]] | None
) -> None:
    async def test(view: PartitionView) -> None:
        if prepare is not None:
            await prepare(view)
        await begin_beside(view)
        await view.take_over(SECOND)
        assert await everything(view) == ANEW
        assert await everything(view.beside()) == (None, {}, {}, {})
        found = await view.fetch(SECOND, ["ann", "bob"], [(100, GEN_1), (101, GEN_2), (102, GEN_3)])
        assert list(found.accounts) == [b"A9", None]
        assert list(found.identities) == [None, b"two, anew", b"three"]
        await view.commit(
            SECOND,
            ViewChange(head=b"on", position=Position(30, "cc"), identities={103: {GEN_1: b"one"}}),
        )
        assert (await view.snapshot()).identities == {101: 1, 102: 1, 103: 1}

    run(open_view, test)


@pytest.mark.parametrize("expected", [FIRST, Position(25, "cc")], ids=["offset", "hash"])
def test_a_view_beside_with_another_head_does_not_take_over(
    open_view: OpenView, expected: Position
) -> None:
    """Two rebuilds ran at once, or an answer was lost.

    The second switch finds no view to switch to, or another one.
    """

    async def test(view: PartitionView) -> None:
        await begin(view)
        before = await everything(view)
        with pytest.raises(HeadMoved) as refused:
            await view.take_over(expected)
        assert refused.value.found is None
        await begin_beside(view)
        with pytest.raises(HeadMoved) as refused:
            await view.take_over(expected)
        assert refused.value.found == SECOND
        assert (await everything(view), await everything(view.beside())) == (before, ANEW)

    run(open_view, test)


def test_a_reader_during_a_switch_sees_one_view_or_the_other(open_view: OpenView) -> None:
    async def test(view: PartitionView) -> None:
        await begin(view)
        old = await everything(view)
        await begin_beside(view)
        seen: list[object] = []
        has_looked = asyncio.Event()

        async def look() -> None:
            for _ in range(40):
                seen.append(await everything(view))
                has_looked.set()
                await asyncio.sleep(0)

        looking = asyncio.create_task(look())
        await has_looked.wait()
        await view.take_over(SECOND)
        await looking
        assert [each for each in seen if each not in (old, ANEW)] == []
        assert (seen[0], seen[-1]) == (old, ANEW)

    run(open_view, test)
