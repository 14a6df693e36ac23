"""The worker and an owner that has stopped, without Kafka and Faust."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.processor.test_owner import run_async
from tests.worlds.ledger_world import DEADLINE_S, a_world, rebuild_of
from usageledger.counters.memory import MemoryView
from usageledger.counters.view import Position
from usageledger.log.topics import Topics
from usageledger.processor import worker as worker_module
from usageledger.processor.worker import _Worker


class _LedgerEnds:
    """`KafkaOffsets`, as far as the end of the ledger is asked."""

    def __init__(self, world: Any) -> None:
        self.world = world

    async def end_offset(self, place: object) -> int:
        return int(self.world.ledger.end_offset)


def waiting(world: Any, end: int | None) -> asyncio.Task[None]:
    worker = _Worker(
        Topics(""),
        lambda *_: pytest.fail("nothing is assigned"),
        _LedgerEnds(world),  # type: ignore[arg-type]
        lambda _: None,
        60.0,
    )
    return asyncio.ensure_future(worker._wait_for_another_claim(0, end))


def hold_the_switch(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Make a rebuild set the first event right before its switch, and wait for the second."""
    is_about_to, may_go_on = asyncio.Event(), asyncio.Event()
    take_over = MemoryView.take_over

    async def awaited(view: MemoryView, beside: Position) -> None:
        is_about_to.set()
        await may_go_on.wait()
        await take_over(view, beside)

    monkeypatch.setattr(MemoryView, "take_over", awaited)
    return is_about_to, may_go_on


@run_async
async def test_a_claim_that_an_owner_had_not_noticed_when_it_stopped_wakes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rebuild of a damaged view had claimed. Right before its switch, the owner met the damage.

    The owner stopped and waited for a claim after that one. The view was whole again, and the
    partition made no progress.
    """
    monkeypatch.setattr(worker_module, "STOPPED_LOOK_S", 0.001)
    async with a_world() as world:
        worker = world.start_worker()
        world.use("2026-01-01T10:00:00Z")
        await world.settled()
        world.view.stored_accounts["a"] = b"damaged"
        is_about_to, has_stopped = hold_the_switch(monkeypatch)
        rebuilding = asyncio.ensure_future(rebuild_of(world).run())
        await is_about_to.wait()
        world.use("2026-01-01T10:00:01Z")
        await world.until(lambda: worker.owner.state == "stopped")
        has_stopped.set()
        await rebuilding
        await asyncio.wait_for(waiting(world, worker.owner.ledger_end), DEADLINE_S)
        worker.task = asyncio.ensure_future(worker.owner.run())
        await world.settled()
        assert world.used() == 64


@run_async
async def test_an_owners_own_claim_and_appends_do_not_wake_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "STOPPED_LOOK_S", 0.001)
    async with a_world() as world:
        worker = world.start_worker()
        world.use("2026-01-01T10:00:00Z")
        await world.settled()
        world.view.stored_accounts["a"] = b"damaged"
        world.use("2026-01-01T10:00:01Z")
        await world.until(lambda: worker.owner.state == "stopped")
        asleep = waiting(world, worker.owner.ledger_end)
        await asyncio.sleep(0.02)
        assert not asleep.done()
        asleep.cancel()


@run_async
async def test_an_owner_that_claims_between_a_rebuilds_claim_and_its_switch_is_woken_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An owner that had stopped at a damaged view saw the claim of its rebuild at once, claimed,
    met the damage once more and stopped.

    Then the new view took the old one's place, and the owner did not notice. The rebuild that
    should free the partition left it stopped.
    """
    monkeypatch.setattr(worker_module, "STOPPED_LOOK_S", 0.001)
    async with a_world() as world:
        worker = world.start_worker()
        world.use("2026-01-01T10:00:00Z")
        await world.settled()
        world.view.stored_accounts["a"] = b"damaged"
        world.use("2026-01-01T10:00:01Z")
        await world.until(lambda: worker.owner.state == "stopped")
        is_about_to, has_stopped = hold_the_switch(monkeypatch)
        rebuilding = asyncio.ensure_future(rebuild_of(world).run())
        await is_about_to.wait()
        await asyncio.wait_for(waiting(world, worker.owner.ledger_end), DEADLINE_S)
        await worker.owner.run()
        has_stopped.set()
        await rebuilding
        await asyncio.wait_for(waiting(world, worker.owner.ledger_end), DEADLINE_S)
        worker.task = asyncio.ensure_future(worker.owner.run())
        await world.settled()
        assert world.used() == 64


@run_async
async def test_a_rebuild_claims_once_where_nobody_else_has() -> None:
    async with a_world() as world:
        worker = world.start_worker()
        world.use("2026-01-01T10:00:00Z")
        await world.settled()
        await worker.kill()
        ledger_end = world.ledger.end_offset
        await rebuild_of(world).run()
        assert world.ledger.end_offset == ledger_end + 1


@run_async
async def test_an_owner_that_stops_before_it_has_claimed_is_not_woken_by_what_was_there() -> None:
    """It would claim in vain, be woken at once by the end of its own last ownership, and again,
    without a pause.
    """
    async with a_world() as world:
        worker = world.start_worker()
        world.use("2026-01-01T10:00:00Z")
        await world.settled()
        await worker.kill()
        world.ledger.truncate_before(2)
        await worker.owner.run()
        assert (worker.owner.state, worker.owner.ledger_end) == ("stopped", None)
