"""An owner whose store refuses or does not answer waits for it, and claims nothing meanwhile.

Time is virtual, so waits cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from tests.simulation.scheduler import run_virtually
from tests.unit.processor.test_owner import replayed
from tests.worlds import ledger_world
from tests.worlds.hostile_view import HostileView
from tests.worlds.ledger_world import World, a_world

HOUR_S = 3_600.0
FULL = "Redis is full"

OUTAGES = {
    "full": ("commit",),
    "read-only": ("head", "commit", "verify", "due"),
    "no answer": ("head", "fetch", "commit", "verify", "due"),
}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual seconds are cheap."""
    monkeypatch.setattr(ledger_world, "DEADLINE_S", HOUR_S)


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtually(test(*args, **kwargs), deadline_s=4 * HOUR_S)

    return run


def claims(world: World) -> int:
    return len(world.ledger.records) - len(world.entries())


@virtually
@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_owner_waits_for_a_store_that_refuses_and_claims_nothing(outage: str) -> None:
    """A partition on a full Redis claimed every five seconds, and each claim stays for good."""
    async with a_world() as world:
        view = world.view = HostileView()
        worker = world.start_worker()
        world.use("2026-01-01T10:00:00Z")
        await world.settled()
        view.refuse(*OUTAGES[outage], why=FULL)
        for n in range(1, 9):
            world.use(f"2026-01-01T10:00:0{n}Z", account=f"account-{n % 2}")
            await asyncio.sleep(HOUR_S / 8)
        assert (worker.owner.state, worker.owner.waiting_because) == ("waiting_for_redis", FULL)
        assert claims(world) == 1
        view.mend()
        await world.settled()
        assert claims(world) == 1
        assert (worker.owner.state, worker.owner.waiting_because) == ("running", None)
        used = [world.used(account) for account in ("a", "account-0", "account-1")]
        assert used == [32, 4 * 32, 4 * 32]
        replayed(world)


@virtually
@pytest.mark.parametrize("outage", OUTAGES)
async def test_a_worker_that_starts_meanwhile_claims_once(outage: str) -> None:
    async with a_world() as world:
        view = world.view = HostileView()
        first = world.start_worker()
        world.use("2026-01-01T10:00:00Z")
        await world.settled()
        await first.kill()
        view.refuse(*OUTAGES[outage], why=FULL)
        world.use("2026-01-01T10:00:01Z")
        worker = world.start_worker()
        await asyncio.sleep(HOUR_S)
        assert worker.owner.state == "waiting_for_redis"
        assert claims(world) == 2
        view.mend()
        await world.settled()
        assert claims(world) == 2
        assert world.used() == 64
        replayed(world)


@virtually
@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("call", ["fetch", "commit", "verify"])
async def test_a_call_whose_answer_is_lost_is_repeated_by_the_same_owner(
    call: str, applied: bool
) -> None:
    async with a_world() as world:
        view = world.view = HostileView()
        world.start_worker()
        world.use("2026-01-01T10:00:00Z")
        await world.settled()
        view.fail_next(call, applied=applied)
        world.use("2026-01-01T10:00:01Z")
        await asyncio.sleep(10)
        await world.settled()
        assert claims(world) == 1
        assert world.used() == 64
        replayed(world)


@virtually
async def test_an_owner_whose_store_falls_back_after_it_refused_catches_it_up() -> None:
    async with a_world() as world:
        view = world.view = HostileView()
        world.start_worker()
        world.use("2026-01-01T10:00:00Z")
        await world.settled()
        before = view.snapshot_for_rollback()
        world.use("2026-01-01T10:00:01Z")
        await world.settled()
        view.refuse(*OUTAGES["read-only"], why="Redis is a read-only replica")
        world.use("2026-01-01T10:00:02Z")
        await asyncio.sleep(60)
        view.restore(before)
        view.mend()
        await world.settled()
        assert claims(world) == 2
        assert world.used() == 96
        replayed(world)


@virtually
async def test_an_owner_that_waits_gives_its_partition_up_at_once() -> None:
    async with a_world() as world:
        view = world.view = HostileView()
        worker = world.start_worker()
        world.use("2026-01-01T10:00:00Z")
        await world.settled()
        view.refuse(*OUTAGES["full"], why=FULL)
        world.use("2026-01-01T10:00:01Z")
        await asyncio.sleep(60)
        began = asyncio.get_running_loop().time()
        await worker.kill()
        assert asyncio.get_running_loop().time() == began
        assert worker.task.cancelled()
