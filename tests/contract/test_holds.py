"""One contract for every keeper of holds: memory, Redis and Redis Cluster behave alike."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

import pytest

from tests.valkey_server import running_cluster
from usageledger.counters.calling import Call, ask_async
from usageledger.counters.connection import connect
from usageledger.counters.holding import (
    FindHold,
    Held,
    Hold,
    Holder,
    PlaceHold,
    ReleaseHold,
    content_of,
    holder_of_source,
    use_of,
)
from usageledger.counters.keys import PartitionKeys
from usageledger.counters.memory import MemoryView
from usageledger.counters.reading import ReadAccount
from usageledger.counters.redis_view import RedisView
from usageledger.counters.view import PartitionView, Position, ViewChange
from usageledger.domain.checking import Use

T = TypeVar("T")

USE = content_of(Use(feature="genai_video", model="veo_3", quantity=Decimal("1.50")))
MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Keeper:
    """A partition's view with its holds, as the owner and the holders use them."""

    view: PartitionView
    call: Callable[[Call[Any]], Awaitable[Any]]

    async def ask(self, call: Call[T]) -> T:
        answer: T = await self.call(call)
        return answer

    async def held(self, account: str = "ann") -> int:
        return (await self.ask(ReadAccount(account))).held

    async def place(self, id: str = "job", credits: int = 40, **other: Any) -> Held:
        asked: dict[str, Any] = {
            "account": "ann",
            "seen": b"A1",
            "remaining": 100,
            "life_ms": MINUTE_MS,
            "content": USE,
        } | other
        return await self.ask(PlaceHold(id=id, credits=credits, **asked))

    async def until_held(self, credits: int) -> None:
        """Wait until the account's open holds sum up to this: some may have to expire."""
        for _ in range(1_000):
            if await self.held() == credits:
                return
            await asyncio.sleep(0.002)
        raise AssertionError("they did not expire")

    async def find(self, id: str = "job", account: str = "ann") -> Hold | None:
        return await self.ask(FindHold(account=account, id=id))

    async def release(
        self, id: str = "job", account: str = "ann", holders: tuple[Holder, ...] | None = ()
    ) -> Hold | None:
        return await self.ask(ReleaseHold(account=account, id=id, holders=holders))

    async def settle(self, *holds: tuple[str, str], source: str = "/render") -> None:
        """Settle holds as the owner's next commit does."""
        head = await self.view.head()
        before = None if head is None else head.position
        after = Position(0 if before is None else before.next_offset + 1, "hash")
        await self.view.commit(
            before,
            ViewChange(
                head=b"head",
                position=after,
                accounts={"ann": b"A1"},
                settled_holds=[(*hold, source) for hold in holds],
            ),
        )


OpenKeeper = Callable[[], AbstractAsyncContextManager[Keeper]]


def in_memory(_: pytest.FixtureRequest) -> OpenKeeper:
    @asynccontextmanager
    async def open_it() -> AsyncIterator[Keeper]:
        view = MemoryView()

        async def call(call: Call[Any]) -> Any:
            return view.ask(call)

        yield Keeper(view, call)

    return open_it


def in_redis(request: pytest.FixtureRequest) -> OpenKeeper:
    return keeper_at(request.getfixturevalue("redis_url"))


def in_a_cluster(request: pytest.FixtureRequest) -> OpenKeeper:
    return keeper_at(request.getfixturevalue("cluster_url"))


def keeper_at(url: str) -> OpenKeeper:
    prefix = f"t{uuid.uuid4().hex[:10]}"

    @asynccontextmanager
    async def open_it() -> AsyncIterator[Keeper]:
        async with connect(url) as client:
            yield Keeper(
                RedisView(client, prefix, 3),
                lambda call: ask_async(client, PartitionKeys(prefix, 3), call),
            )

    return open_it


@pytest.fixture(scope="module")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as node:
        yield node.cluster_url


@pytest.fixture(params=[in_memory, in_redis, in_a_cluster], ids=["memory", "redis", "cluster"])
def run(
    request: pytest.FixtureRequest,
) -> Callable[[Callable[[Keeper], Coroutine[Any, Any, None]]], None]:
    """Runs a test with a keeper that knows account ``ann``, as ``A1``."""
    open_it: OpenKeeper = request.param(request)

    async def bounded(test: Callable[[Keeper], Coroutine[Any, Any, None]]) -> None:
        async with asyncio.timeout(30), open_it() as keeper:
            await keeper.settle()
            await test(keeper)

    return lambda test: asyncio.run(bounded(test))


Run = Callable[[Callable[[Keeper], Coroutine[Any, Any, None]]], None]


def test_open_holds_are_summed_up_for_each_account(run: Run) -> None:
    async def test(keeper: Keeper) -> None:
        assert await keeper.held() == 0
        assert await keeper.find() is None
        held = await keeper.place()
        assert (held.outcome, held.sum) == ("held", 40)
        assert held.hold is not None
        assert (held.hold.state, held.hold.credits, held.hold.content) == ("open", 40, USE)
        assert use_of(held.hold) == Use(
            feature="genai_video", model="veo_3", quantity=Decimal("1.5")
        )
        assert (await keeper.place("other", 60)).sum == 100
        assert await keeper.find() == held.hold
        assert (await keeper.held(), await keeper.held("bob")) == (100, 0)
        assert (await keeper.ask(ReadAccount("ann"))).open_holds == 2
        await keeper.release()
        assert (await keeper.ask(ReadAccount("ann"))).open_holds == 1

    run(test)


@pytest.mark.parametrize(
    ("remaining", "credits", "is_held"),
    [(100, 60, True), (100, 61, False), (40, 1, False), (40, 0, True), (-5, 0, True)],
)
def test_a_hold_is_given_if_what_remains_covers_it_beside_the_open_ones(
    run: Run, remaining: int, credits: int, is_held: bool
) -> None:
    async def test(keeper: Keeper) -> None:
        await keeper.place("first", 40)
        held = await keeper.place("second", credits, remaining=remaining)
        assert held.outcome == ("held" if is_held else "insufficient_credits")
        assert held.sum == await keeper.held() == 40 + credits * is_held
        assert (await keeper.find("second") is not None) is is_held

    run(test)


def test_repeating_a_hold_reserves_nothing_more_even_if_nothing_is_left(run: Run) -> None:
    """A caller that received no answer asks again."""

    async def test(keeper: Keeper) -> None:
        first = await keeper.place("job", 100)
        again = await keeper.place("job", 100, remaining=0, seen=b"A0", life_ms=5)
        assert (again.outcome, again.hold, again.sum) == ("held", first.hold, 100)

    run(test)


def test_an_id_that_already_holds_something_else_is_refused(run: Run) -> None:
    async def test(keeper: Keeper) -> None:
        first = await keeper.place()
        other = await keeper.place(content=content_of(Use(feature="chat_message")))
        assert (other.outcome, other.hold, other.sum) == ("id_holds_something_else", first.hold, 40)

    run(test)


def test_each_account_has_its_own_hold_ids(run: Run) -> None:
    async def test(keeper: Keeper) -> None:
        await keeper.place()
        assert (await keeper.place(account="bob", seen=None)).sum == 40
        await keeper.release(account="bob")
        assert (await keeper.held(), await keeper.held("bob")) == (40, 0)

    run(test)


@pytest.mark.parametrize("seen", [b"A0", None, b""])
def test_a_hold_based_on_an_outdated_state_returns_the_present_one(
    run: Run, seen: bytes | None
) -> None:
    async def test(keeper: Keeper) -> None:
        await keeper.place("first", 40)
        moved = await keeper.place("second", 1, seen=seen)
        assert (moved.outcome, moved.account, moved.sum) == ("account_moved", b"A1", 40)
        unknown = await keeper.place("second", 1, account="eve", seen=b"E1")
        assert (unknown.outcome, unknown.account) == ("account_moved", None)
        assert await keeper.held() == 40

    run(test)


def test_a_hold_is_released_only_once(run: Run) -> None:
    async def test(keeper: Keeper) -> None:
        await keeper.place("other", 60)
        await keeper.place()
        for _ in range(3):
            released = await keeper.release()
            assert released is not None
            assert (released.state, released.credits) == ("released", 40)
            assert await keeper.held() == 60
        assert (await keeper.find()) == released
        assert await keeper.release("nobody's") is None

    run(test)


def test_a_released_hold_can_be_placed_again_under_its_id(run: Run) -> None:
    """A job that failed is tried again under the same id."""

    async def test(keeper: Keeper) -> None:
        await keeper.place()
        await keeper.release()
        again = await keeper.place(credits=50, content=content_of(Use(feature="chat_message")))
        assert (again.outcome, again.sum, await keeper.held()) == ("held", 50, 50)
        found = await keeper.find()
        assert found is not None
        assert found.state == "open"

    run(test)


@pytest.mark.peer_defect("FluxMeter: holds")
def test_a_hold_is_settled_once_however_often_its_use_is_reported(run: Run) -> None:
    async def test(keeper: Keeper) -> None:
        await keeper.place("other", 60)
        await keeper.place()
        for _ in range(3):
            await keeper.settle(("ann", "job"), ("ann", "job"))
            assert await keeper.held() == 60
            found = await keeper.find()
            assert found is not None
            assert (found.state, found.credits, found.content) == ("settled", 40, USE)

    run(test)


def test_a_hold_is_released_by_its_holder_or_by_an_admin(run: Run) -> None:
    async def test(keeper: Keeper) -> None:
        await keeper.place(holder="key:mine")
        for others in ((), ("",), ("key:other", "token:mine"), ("key:min",), ("source:mine",)):
            kept = await keeper.release(holders=others)
            assert kept is not None
            assert (kept.state, kept.holder, await keeper.held()) == ("open", "key:mine", 40)
        freed = await keeper.release(holders=("token:x", "key:mine"))
        assert freed is not None
        assert (freed.state, freed.holder, await keeper.held()) == ("released", "key:mine", 0)
        await keeper.place("for admin", holder="key:mine")
        freed = await keeper.release("for admin", holders=None)
        assert freed is not None
        assert (freed.state, await keeper.held()) == ("released", 0)

    run(test)


def test_a_hold_whose_holder_is_unknown_is_released_by_anybody(run: Run) -> None:
    async def test(keeper: Keeper) -> None:
        await keeper.place()
        freed = await keeper.release(holders=("key:other",))
        assert freed is not None
        assert (freed.state, freed.content, await keeper.held()) == ("released", USE, 0)

    run(test)


def test_a_repeat_of_a_hold_does_not_change_its_holder(run: Run) -> None:
    async def test(keeper: Keeper) -> None:
        await keeper.place(holder="key:mine")
        again = await keeper.place(holder="key:other")
        assert again.hold is not None
        assert (again.outcome, again.hold.holder) == ("held", "key:mine")

    run(test)


@pytest.mark.parametrize("source", ["/render", "a b/ü%", " ".join("xyz")])
def test_the_hold_of_a_source_is_settled_by_its_own_uses_alone(run: Run, source: str) -> None:
    """Another service named the holds of others, and reserved credits were free too early."""

    async def test(keeper: Keeper) -> None:
        await keeper.place(holder=holder_of_source(source))
        await keeper.settle(("ann", "job"), source="/other")
        found = await keeper.find()
        assert found is not None
        assert (found.state, await keeper.held()) == ("open", 40)
        await keeper.settle(("ann", "job"), source=source)
        found = await keeper.find()
        assert found is not None
        assert (found.state, found.content, await keeper.held()) == ("settled", USE, 0)

    run(test)


def test_of_several_uses_in_a_commit_that_name_a_hold_one_of_its_source_settles_it(
    run: Run,
) -> None:
    async def test(keeper: Keeper) -> None:
        await keeper.place(holder=holder_of_source("/render"))
        await keeper.place("other", 60, holder=holder_of_source("/music"))
        head = await keeper.view.head()
        settled = [
            ("ann", "job", "/music"),
            ("ann", "other", "/render"),
            ("ann", "job", "/render"),
            ("ann", "job", "/render"),
        ]
        change = ViewChange(head=b"h", position=Position(900, "h"), settled_holds=settled)
        await keeper.view.commit(None if head is None else head.position, change)
        assert await keeper.held() == 60

    run(test)


def test_a_hold_of_a_key_is_settled_by_uses_of_any_source(run: Run) -> None:
    """A service holds over HTTP and reports to Kafka, where its key is not known."""

    async def test(keeper: Keeper) -> None:
        await keeper.place(holder="key:mine")
        await keeper.settle(("ann", "job"), source="/render")
        assert await keeper.held() == 0

    run(test)


def test_a_hold_is_settled_in_the_commit_of_its_use_or_not_at_all(run: Run) -> None:
    async def test(keeper: Keeper) -> None:
        await keeper.place()
        with pytest.raises(Exception, match="head"):
            await keeper.view.commit(
                Position(77, "elsewhere"),
                ViewChange(
                    head=b"", position=Position(78, ""), settled_holds=[("ann", "job", "/render")]
                ),
            )
        assert await keeper.held() == 40
        await keeper.settle(("ann", "job"))
        assert await keeper.held() == 0

    run(test)


def test_repeating_a_settled_hold_says_that_it_is_settled_and_reserves_nothing(run: Run) -> None:
    """A job is tried again after it was done and charged. Its own report will be a duplicate."""

    async def test(keeper: Keeper) -> None:
        await keeper.place()
        await keeper.settle(("ann", "job"))
        again = await keeper.place()
        assert again.hold is not None
        assert (again.outcome, again.hold.state, again.sum) == ("held", "settled", 0)
        released = await keeper.release()
        assert released is not None
        assert released.state == "settled"
        assert await keeper.held() == 0

    run(test)


def test_a_released_hold_is_settled_if_its_use_arrives_after_all(run: Run) -> None:
    async def test(keeper: Keeper) -> None:
        await keeper.place()
        await keeper.release()
        await keeper.settle(("ann", "job"))
        found = await keeper.find()
        assert found is not None
        assert (found.state, await keeper.held()) == ("settled", 0)

    run(test)


def test_settling_a_hold_that_does_not_exist_changes_nothing(run: Run) -> None:
    async def test(keeper: Keeper) -> None:
        await keeper.place("other", 60)
        await keeper.settle(("ann", "job"), ("bob", "other"), ("nobody", "x"))
        assert await keeper.find() is None
        assert (await keeper.held(), await keeper.held("bob")) == (60, 0)

    run(test)


def test_many_holds_of_many_accounts_are_settled_in_one_commit(run: Run) -> None:
    async def test(keeper: Keeper) -> None:
        holds = [(f"account-{n % 5}", f"job-{n}") for n in range(3_000)]
        for account, id in holds[::10]:
            await keeper.place(id, 1, account=account, seen=None, remaining=1_000)
        assert sum([await keeper.held(f"account-{n}") for n in range(5)]) == 300
        await keeper.settle(*holds[1_000:])
        assert sum([await keeper.held(f"account-{n}") for n in range(5)]) == 100

    run(test)


@pytest.mark.peer_defect("FluxMeter: holds")
def test_a_hold_that_is_never_settled_expires(run: Run) -> None:
    """Its worker has crashed. The credits are free again for readers and for the next hold."""

    async def test(keeper: Keeper) -> None:
        await keeper.place("crashed", 60, life_ms=1)
        await keeper.place("other", 40)
        await keeper.until_held(40)
        assert await keeper.find("crashed") is None
        assert await keeper.release("crashed") is None
        await keeper.settle(("ann", "crashed"))
        assert await keeper.held() == 40
        assert (await keeper.place("next", 60)).sum == 100
        assert await keeper.held() == 100

    run(test)


def test_an_expired_hold_can_be_placed_again_under_its_id(run: Run) -> None:
    async def test(keeper: Keeper) -> None:
        await keeper.place(life_ms=1)
        await keeper.until_held(0)
        assert await keeper.find() is None
        again = await keeper.place(credits=70)
        assert (again.outcome, again.sum, await keeper.held()) == ("held", 70, 70)

    run(test)


def test_an_account_has_at_most_the_given_number_of_open_holds(run: Run) -> None:
    async def test(keeper: Keeper) -> None:
        for n in range(3):
            assert (await keeper.place(f"job-{n}", 1, open_max=3)).outcome == "held"
        refused = await keeper.place("job-3", 1, open_max=3)
        assert (refused.outcome, refused.sum, await keeper.held()) == ("too_many_open_holds", 3, 3)
        assert (await keeper.place("job-2", 1, open_max=3)).outcome == "held"
        await keeper.release("job-0")
        assert (await keeper.place("job-3", 1, open_max=3)).outcome == "held"

    run(test)


@pytest.mark.parametrize("bound", ["open_of_holder_max", "open_in_partition_max"])
def test_the_open_holds_of_a_holder_and_in_all_are_bounded(run: Run, bound: str) -> None:
    """A key could fill Redis, a thousand holds an account, with as many accounts as it liked."""

    async def test(keeper: Keeper) -> None:
        mine: dict[str, Any] = {"seen": None, "holder": "key:1", bound: 3}
        for n in range(3):
            placed = await keeper.place("job", 1, account=f"a:{n}", **mine)
            assert placed.outcome == "held"
        refused = await keeper.place("job", 1, account="a:3", **mine)
        assert (refused.outcome, refused.sum) == ("too_many_open_holds", 0)
        assert (await keeper.place("job", 1, account="a:1", **mine)).outcome == "held"
        other = await keeper.place("job", 1, account="a:4", **mine | {"holder": "key:2"})
        assert (other.outcome == "held") is (bound == "open_of_holder_max")
        # Holds that were released, settled or have expired make room.
        await keeper.release("job", "a:0", None)
        assert (await keeper.place("job", 1, account="a:3", **mine)).outcome == "held"
        await keeper.settle(("a:1", "job"))
        short = await keeper.place("job", 1, account="a:5", **mine | {"life_ms": 1})
        assert short.outcome == "held"
        await asyncio.sleep(0.01)
        assert (await keeper.place("job", 1, account="a:6", **mine)).outcome == "held"

    run(test)


def test_holds_stay_when_a_view_is_cleared_or_replaced(run: Run) -> None:
    async def test(keeper: Keeper) -> None:
        held = await keeper.place()
        await keeper.view.clear()
        assert await keeper.find() == held.hold
        beside = keeper.view.beside()
        await beside.commit(
            None,
            ViewChange(
                head=b"h", position=Position(5, "anew"), settled_holds=[("ann", "job", "/render")]
            ),
        )
        assert await keeper.find() == held.hold
        await keeper.view.take_over(Position(5, "anew"))
        assert (await keeper.find(), await keeper.held()) == (held.hold, 40)

    run(test)


def test_amounts_are_exact_up_to_two_to_the_53rd(run: Run) -> None:
    async def test(keeper: Keeper) -> None:
        most = 2**53 - 1
        assert (await keeper.place("all", most - 1, remaining=most)).sum == most - 1
        assert (await keeper.place("last", 1, remaining=most)).sum == most
        assert (await keeper.place("more", 1, remaining=most)).outcome == "insufficient_credits"
        await keeper.release("all")
        assert await keeper.held() == 1

    run(test)


@pytest.mark.parametrize(
    "name", ["a b", "ü/日本", "{x}", "}", "-1", "1e3", "0", "with:colon", "open 5 6 x"]
)
def test_account_and_hold_names_can_be_any_bytes(run: Run, name: str) -> None:
    async def test(keeper: Keeper) -> None:
        held = await keeper.place(name, 5, account=name, seen=None)
        assert await keeper.find(name, name) == held.hold
        assert await keeper.held(name) == 5
        await keeper.settle((name, name))
        assert await keeper.held(name) == 0

    run(test)
