"""A view that is rebuilt beside the old one: nobody sees a half, nothing is counted twice, whoever
is at work meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.processor.test_owner import replayed
from tests.unit.processor.test_owner_under_attack import attacked
from tests.worlds import ledger_world
from tests.worlds.ledger_world import World, a_world, change_settings, rebuild_of
from usageledger.counters.holding import Hold
from usageledger.counters.memory import MemoryView
from usageledger.domain.encoding import decode_head
from usageledger.log import memory
from usageledger.processor import rebuilding
from usageledger.processor.catch_up import PartitionStopped

HELD = Hold("open", 5_000_000, 2**52, "", b"what it is for")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_world, "DEADLINE_S", 300.0)
    monkeypatch.setattr(memory, "READ_CHUNK_RECORDS", 5)
    change_settings(monkeypatch, records_per_commit=5)


def content(view: MemoryView) -> object:
    return view.stored_accounts, view.due_ms, view.identities


async def decided(world: World, count: int) -> Any:
    """So many uses, decided by a worker."""
    for n in range(count):
        world.use(f"2026-01-01T10:{n // 60:02}:{n % 60:02}Z", account="ab"[n % 2])
    worker = world.start_worker()
    await world.settled()
    return worker


@attacked
async def test_a_damaged_view_is_as_it_was_once_it_is_rebuilt() -> None:
    async with a_world() as world:
        worker = await decided(world, 30)
        await worker.kill()
        before = world.view.snapshot_for_rollback()
        world.view.holds["ann", "hold"] = HELD
        world.view.stored_accounts["a"] = b"damaged"
        del world.view.stored_accounts["b"]
        again = world.start_worker()
        world.use("2026-01-01T11:00:00Z")
        await world.until(lambda: again.owner.state == "stopped")
        assert "usageledger rebuild --partition 0" in (again.owner.stopped_because or "")
        made = await rebuild_of(world).run()
        assert (made.begun_at, made.position.next_offset) == (0, world.ledger.end_offset)
        assert world.view.stored_accounts == before.accounts
        assert world.view.holds == {("ann", "hold"): HELD}
        # The owner that stopped sees the claim, and goes on by itself.
        again.task = asyncio.ensure_future(again.owner.run())
        await world.settled()
        assert world.used("a") == 16 * 32
        replayed(world)


@attacked
async def test_a_running_owner_goes_on_after_the_switch_and_readers_see_no_half() -> None:
    async with a_world() as world:
        await decided(world, 40)
        accounts = set(world.view.stored_accounts)
        rebuild = asyncio.ensure_future(rebuild_of(world).run())
        count = 40
        while not rebuild.done():
            world.use(f"2026-01-01T12:{count // 60:02}:{count % 60:02}Z", account="ab"[count % 2])
            count += 1
            assert set(world.view.stored_accounts) == accounts
            await asyncio.sleep(0)
        await rebuild
        await world.settled()
        assert world.used("a") + world.used("b") == count * 32
        assert replayed(world).counts.inputs == count


@attacked
async def test_one_that_was_cut_short_is_gone_on_with() -> None:
    async with a_world() as world:
        await decided(world, 40)
        told: list[int] = []

        def cut_at_the_fourth(done: int, of: int) -> None:
            told.append(done)
            if len(told) == 4:
                cut.cancel()

        cut = asyncio.ensure_future(rebuild_of(world, cut_at_the_fourth).run())
        await asyncio.gather(cut, return_exceptions=True)
        assert world.view.view_beside is not None
        stood = world.view.view_beside.stored_head
        assert stood is not None
        before = content(world.view)
        read: list[int] = []
        made = await rebuild_of(world, lambda done, of: read.append(done)).run()
        assert made.begun_at == stood.position.next_offset > 0
        assert min(read) > made.begun_at
        assert content(world.view) == before


@attacked
async def test_one_that_was_cut_short_begins_again_when_told_to() -> None:
    async with a_world() as world:
        await decided(world, 10)
        beside = world.view.beside()
        before = content(world.view)
        beside.stored_head = world.view.stored_head
        beside.stored_accounts["a"] = b"damaged"
        made = await rebuild_of(world).run(anew=True)
        assert made.begun_at == 0
        assert content(world.view) == before


@attacked
@pytest.mark.parametrize("left", ["another ledger's", "of what the log has lost", "unreadable"])
async def test_an_attempt_that_does_not_fit_is_begun_again_and_that_is_said(
    left: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_world() as world:
        worker = await decided(world, 10)
        await worker.kill()
        before, head = content(world.view), world.view.stored_head
        assert head is not None
        beside = world.view.beside()
        beside.stored_accounts["stranger"] = b"of no ledger"
        if left == "another ledger's":
            value = head.value.replace(
                decode_head(head.value).ledger.encode(), b"ledger-of-another"
            )
            beside.stored_head = head._replace(value=value)
        elif left == "unreadable":
            beside.stored_head = head._replace(value=b"junk")
        else:
            beside.stored_head = head._replace(position=head.position._replace(hash="f" * 64))
        made = await rebuild_of(world).run()
        assert made.begun_at == 0
        assert "does not fit this ledger" in caplog.text
        assert content(world.view) == before


@attacked
async def test_a_record_appended_while_the_ledger_is_read_is_read_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Left to the claim, a long rebuild would leave a long rest, for which the partition would
    decide nothing.
    """
    monkeypatch.setattr(rebuilding, "NEARLY_RECORDS", 3)
    async with a_world() as world:
        await decided(world, 20)
        sent = [20]

        def send_more(done: int, of: int) -> None:
            if sent[0] < 60:
                for _ in range(5):
                    world.use(f"2026-01-01T12:00:{sent[0] % 60:02}Z")
                    sent[0] += 1

        await rebuild_of(world, send_more).run()
        await world.settled()
        assert replayed(world).counts.inputs == sent[0] == 60


@attacked
@pytest.mark.parametrize("head", ["as it was", "damaged", "gone"])
async def test_an_operators_claim_does_not_raise_the_rules_that_the_workers_go_by(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator's machine had a newer release: its claim stopped every worker of the older one.

    Once more where the view's head said nothing of the rules, for which a rebuild is the remedy:
    then the log's last claim says them.
    """
    async with a_world() as world:
        await decided(world, 5)
        assert world.view.stored_head is not None
        if head == "damaged":
            world.view.stored_head = world.view.stored_head._replace(value=b"damaged")
        elif head == "gone":
            await world.view.clear()
        with monkeypatch.context() as newer:
            newer.setattr("usageledger.domain.claim.DECIDE_VERSION", 99)
            await rebuild_of(world).run()
        world.use("2026-01-01T12:00:00Z")
        await world.settled()
        assert replayed(world).counts.inputs == 6


@attacked
async def test_an_empty_ledger_has_nothing_to_rebuild_from() -> None:
    async with a_world() as world:
        with pytest.raises(PartitionStopped, match="is empty"):
            await rebuild_of(world).run()
        assert world.ledger.end_offset == 0


@attacked
async def test_a_view_ahead_of_a_truncated_log_is_read_until_the_new_one_is_complete() -> None:
    """It was thrown away first: until the last entry was folded, accounts had counters from
    somewhere in their past, or none.
    """
    async with a_world() as world:
        worker = await decided(world, 40)
        await worker.kill()
        world.ledger.truncate_from(world.ledger.end_offset - 3)
        old = dict(world.view.stored_accounts)
        world.start_worker()
        while world.view.stored_accounts == old:  # noqa: ASYNC110 - each step is to be seen
            await asyncio.sleep(0)
        assert set(world.view.stored_accounts) == set(old)
        await world.settled()
        assert world.used("a") + world.used("b") == 40 * 32


@attacked
async def test_another_ledgers_view_is_left_alone() -> None:
    """Two ledgers on one prefix: whoever rebuilt one took the counters of the other away."""
    async with a_world() as world:
        worker = await decided(world, 5)
        await worker.kill()
        head = world.view.stored_head
        assert head is not None
        other = head._replace(
            value=head.value.replace(decode_head(head.value).ledger.encode(), b"ledger-of-another")
        )
        world.view.stored_head = other
        end = world.ledger.end_offset
        with pytest.raises(PartitionStopped, match="another ledger"):
            await rebuild_of(world).run()
        assert (world.view.stored_head, world.ledger.end_offset) == (other, end)
