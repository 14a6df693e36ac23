"""An operator's skip leaves out the one input on which the code fails, and nothing else."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.processor.test_owner import replayed
from tests.unit.processor.test_owner_under_attack import attacked, choke_on
from tests.worlds import ledger_world
from tests.worlds.hostile_view import HostileView
from tests.worlds.ledger_world import Hesitant, ListedInputs, World, a_world
from usageledger.audit.replay import Difference
from usageledger.domain.chain import SealedEntry, seal
from usageledger.domain.entry import InputAddress, Topic
from usageledger.domain.head import Head
from usageledger.ledger.records import KeyedValue
from usageledger.log.memory import MemoryLedgerPartition
from usageledger.processor.catch_up import PartitionStopped
from usageledger.processor.inputs import InputBuffer, Source
from usageledger.processor.skipping import SkipRefused, skip_input


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_world, "DEADLINE_S", 300.0)


async def skip(
    world: World,
    offset: int,
    *,
    topic: Topic = "usage",
    reason: str = "it breaks the code",
    ledger: MemoryLedgerPartition | None = None,
) -> SealedEntry:
    """Do as ``processor skip 0@OFFSET`` does, on the world's ledger."""
    control = ListedInputs(world)
    control.buffer = inputs = InputBuffer(control)
    return await skip_input(
        InputAddress(topic=topic, partition=0, offset=offset),
        reason,
        partition_count=1,
        ledger=Hesitant(ledger or MemoryLedgerPartition(world.ledger)),
        view=Hesitant(world.view),
        inputs=inputs,
        catalogs=world.catalogs,
        operator="operator",
        is_importing=world.is_importing,
        now=lambda: world.now,
    )


async def stopped_at_poison(world: World) -> Any:
    """A worker that has stopped at the fourth of five usage events, on which the code fails."""
    for n in range(5):
        world.use(f"2026-01-01T10:00:0{n}Z", event_id="poison" if n == 3 else None)
    worker = world.start_worker()
    await world.until(lambda: worker.owner.state == "stopped")
    return worker


@attacked
@pytest.mark.parametrize("where", ["decode_usage", "decide"])
async def test_a_skip_charges_nothing_and_the_partition_goes_on(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choke_on(monkeypatch, where, "poison")
    async with a_world() as world:
        worker = await stopped_at_poison(world)
        assert "processor skip 0@3 --topic usage" in worker.owner.stopped_because
        skipped = (await skip(world, 3, reason="see #812")).entry
        assert (skipped.kind, skipped.account, skipped.credits, skipped.reason) == (
            "skip",
            "a",
            0,
            "see #812",
        )
        assert "ZeroDivisionError" in (skipped.detail or "")
        await worker.kill()
        world.start_worker()
        await world.settled()
        assert world.used() == 4 * 32
        counts = replayed(world).counts
        assert (counts.inputs, counts.accepted_inputs, counts.skipped_inputs) == (5, 4, 1)


@attacked
async def test_the_owner_that_stopped_can_be_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    choke_on(monkeypatch, "decide", "poison")
    async with a_world() as world:
        worker = await stopped_at_poison(world)
        await skip(world, 3)
        worker.task = asyncio.ensure_future(worker.owner.run())
        await world.settled()
        assert (worker.owner.state, worker.owner.stopped_because) == ("running", None)


@attacked
@pytest.mark.parametrize("steps", range(0, 60, 3))
async def test_a_skip_survives_an_owner_that_claims_meanwhile(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused skip had claimed the partition, and the stopped owner saw that.

    It claimed again in the middle of the operator's next skip, which failed.
    """
    choke_on(monkeypatch, "decide", "poison")
    async with a_world() as world:
        await stopped_at_poison(world)
        skipping = asyncio.ensure_future(skip(world, 3))
        for _ in range(steps):
            await asyncio.sleep(0)
        owner = world.start_worker()
        assert (await skipping).entry.kind == "skip"
        if owner.task.done():
            world.start_worker()
        await world.settled()
        assert [entry.kind for entry in world.entries()].count("skip") == 1
        assert world.used() == 4 * 32
        replayed(world)


@attacked
@pytest.mark.parametrize("call", ["head", "fetch", "due", "commit"])
@pytest.mark.parametrize("applied", [True, False])
async def test_a_store_that_does_not_answer_once_is_asked_again(
    call: str, applied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    choke_on(monkeypatch, "decide", "poison")
    async with a_world() as world:
        world.view = view = HostileView()
        await stopped_at_poison(world)
        view.fail_next(call, applied=applied)
        assert (await skip(world, 3)).entry.kind == "skip"
        world.start_worker()
        await world.settled()
        assert [entry.kind for entry in world.entries()].count("skip") == 1


@attacked
@pytest.mark.parametrize("appended", [True, False])
async def test_a_skip_whose_answer_is_lost_is_found_in_the_log(
    appended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker appended the skip and its answer was lost.

    The next attempt found the input decided, and the operator read that nothing was skipped.
    """
    choke_on(monkeypatch, "decide", "poison")
    async with a_world() as world:
        await stopped_at_poison(world)
        ledger = MemoryLedgerPartition(world.ledger)
        claim, claims = ledger.claim, iter(range(2))

        async def claimed(claiming: KeyedValue) -> int:
            offset = await claim(claiming)
            if next(claims) == 0:
                ledger.lose_next_answer(appended=appended)
            return offset

        ledger.claim = claimed  # type: ignore[method-assign, assignment]
        skipped = await skip(world, 3, ledger=ledger)
        assert [sealed for sealed in world.sealed() if sealed.entry.kind == "skip"] == [skipped]
        world.start_worker()
        await world.settled()
        replayed(world)


@attacked
async def test_an_input_behind_a_transactions_mark_can_be_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The owner stopped at the input and named the command to run.

    The command answered each time that the partition had not come to that input.
    """
    choke_on(monkeypatch, "decide", "poison")
    async with a_world() as world:
        for offset in (0, 2, 4):
            world.use(f"2026-01-01T10:00:0{offset}Z", event_id="poison" if offset == 2 else None)
            world.inputs[Source.USAGE][-1] = world.inputs[Source.USAGE][-1]._replace(offset=offset)
        worker = world.start_worker()
        await world.until(lambda: worker.owner.state == "stopped")
        assert "processor skip 0@2" in (worker.owner.stopped_because or "")
        await skip(world, 2)
        await worker.kill()
        world.start_worker()
        await world.settled()
        assert world.used() == 64


@attacked
async def test_after_a_skip_and_a_rebuild_the_event_may_be_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choke_on(monkeypatch, "decide", "poison")
    async with a_world() as world:
        await stopped_at_poison(world)
        await skip(world, 3)
        await world.stop()
        await world.view.clear()
        monkeypatch.undo()
        monkeypatch.setattr(ledger_world, "DEADLINE_S", 300.0)
        world.use("2026-01-01T10:00:03Z", event_id="poison", appended="2026-01-01T10:00:09Z")
        world.start_worker()
        await world.settled()
        assert world.entries()[-1].kind == "usage"
        assert world.used() == 5 * 32
        replayed(world)


@attacked
@pytest.mark.parametrize(
    ("offset", "topic", "why"),
    [(2, "usage", "decided"), (4, "usage", "not come to"), (0, "account", "nothing|decides usage")],
)
async def test_no_other_input_is_skipped(
    offset: int, topic: Topic, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choke_on(monkeypatch, "decide", "poison")
    async with a_world() as world:
        await stopped_at_poison(world)
        with pytest.raises(SkipRefused, match=why):
            await skip(world, offset, topic=topic)
        assert [entry.kind for entry in world.entries()].count("skip") == 0


@attacked
async def test_an_input_that_can_be_decided_is_never_skipped() -> None:
    async with a_world() as world:
        world.start_worker()
        world.use("2026-01-01T10:00:00Z")
        await world.settled()
        await world.stop()
        world.use("2026-01-01T10:00:01Z")
        with pytest.raises(SkipRefused, match="without a fault"):
            await skip(world, 1)
        assert len(world.decided_inputs()) == 1


@attacked
async def test_an_earlier_record_of_the_other_input_is_decided_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An input skipped out of turn would be in the ledger before one that precedes it."""
    choke_on(monkeypatch, "decide", "poison")
    async with a_world() as world:
        world.start_worker()
        await world.until(lambda: world.entries() != [])
        await world.stop()
        world.send("account.subscribed", "2026-01-01T09:00:00Z", plan="pro")
        world.use("2026-01-01T10:00:00Z", event_id="poison")
        with pytest.raises(SkipRefused, match="decides account 0@0"):
            await skip(world, 0)


@attacked
async def test_a_newer_catalog_is_adopted_first(monkeypatch: pytest.MonkeyPatch) -> None:
    choke_on(monkeypatch, "decide", "poison")
    async with a_world() as world:
        await stopped_at_poison(world)
        world.publish_catalog(version="another")
        with pytest.raises(SkipRefused, match="a catalog to adopt"):
            await skip(world, 3)


@attacked
async def test_a_catalog_is_never_skipped_and_a_skip_needs_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choke_on(monkeypatch, "decide", "poison")
    async with a_world() as world:
        await stopped_at_poison(world)
        for topic, reason in (("catalog", "why"), ("usage", " ")):
            with pytest.raises(SkipRefused, match="usage or an account event"):
                # A topic is one of three.
                await skip(world, 3, topic=topic, reason=reason)  # type: ignore[arg-type]


@attacked
async def test_an_empty_ledger_has_nothing_to_skip() -> None:
    async with a_world() as world:
        with pytest.raises(PartitionStopped, match="nothing was ever decided"):
            await skip(world, 0)
        assert world.ledger.end_offset == 0


@attacked
async def test_entries_that_a_superseded_owner_has_sent_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An operator's claim supersedes an owner as any other claim does.

    The frozen owner's entries are appended at offsets that they do not name, so nobody counts them.
    """
    choke_on(monkeypatch, "decide", "poison")
    async with a_world() as world:
        frozen = world.start_worker()
        await world.until(lambda: world.entries() != [])
        frozen.ledger.freeze()
        world.use("2026-01-01T10:00:00Z")
        world.use("2026-01-01T10:00:01Z", event_id="poison")
        other = world.start_worker()
        await world.until(lambda: other.owner.state == "stopped")
        await skip(world, 1)
        frozen.ledger.thaw()
        await world.settled()
        assert [entry.kind for entry in world.entries()] == [
            "catalog_adopted",
            "account_opened",
            "usage",
            "skip",
        ]
        replayed(world)
        assert world.inputs[Source.USAGE][1].offset == 1
        assert datetime(2026, 1, 1, 10, 0, 1, tzinfo=UTC) == world.entries()[-1].appended_at


@attacked
async def test_an_audit_finds_a_skip_that_charges_or_names_another_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choke_on(monkeypatch, "decide", "poison")
    async with a_world() as world:
        await stopped_at_poison(world)
        entry = (await skip(world, 3)).entry
        assert entry.input is not None
        elsewhere = replace(entry.input, offset=4)
        for forged, difference in (
            (replace(entry, credits=-5_000_000), "credits"),
            (replace(entry, input=elsewhere), "offset 3"),
        ):
            head = Head(ledger="", next_offset=entry.offset, hash=entry.previous_hash)
            (sealed,), _ = seal([forged], head, 0)
            world.ledger.records[entry.offset] = world.ledger.records[entry.offset]._replace(
                value=sealed.value
            )
            with pytest.raises(Difference, match=difference):
                replayed(world)
