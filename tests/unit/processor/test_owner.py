"""An owner on a log and a view in memory counts each event once, whatever workers and store do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

import pytest

from tests.worlds.ledger_world import DEADLINE_S, World, a_world, change_settings
from usageledger.audit.replay import PartitionReplay
from usageledger.counters.memory import MemoryView
from usageledger.counters.view import Position, ViewChange
from usageledger.ledger.reader_rule import BEFORE_FIRST_CLAIM_MAX
from usageledger.ledger.records import KeyedValue, LedgerError, Record
from usageledger.processor.inputs import Source
from usageledger.runtime.backoff import Backoff


def run_async(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 2 * DEADLINE_S))

    return run


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that stand for a second or more of real life are cut short."""
    change_settings(
        monkeypatch,
        verify_interval_s=0.02,
        claim_again=Backoff.doubling(0.001, 0.01, (0.5, 1.5)),
    )


async def _a_use_whose_view_is_lost(world: World) -> None:
    """A use that was decided and counted, by a worker that is gone, in a view that is gone as
    well.
    """
    worker = world.start_worker()
    world.use("2026-01-01T10:00:00Z")
    await world.settled()
    await worker.kill()
    await world.view.clear()


def replayed(world: World) -> PartitionReplay:
    """Decide everything again; raises at the first difference."""

    def read(topic: str, offset: int) -> Any:
        if topic == "catalog":
            return world.catalogs.at_or_after(offset)
        records = world.inputs[Source(topic)]
        return records[offset] if offset < len(records) else None

    replay = PartitionReplay(0, 1, read)
    for _ in replay.verified_entries(world.ledger.records):
        pass
    return replay


@run_async
async def test_a_sent_event_is_decided_and_counted() -> None:
    async with a_world() as world:
        world.use("2026-01-01T10:00:00Z", quantity="2")
        worker = world.start_worker()
        await world.settled()
        world.use("2026-01-01T10:00:01Z", quantity="1")
        await world.settled()
        assert world.used() == 96
        await world.until(lambda: worker.control.acknowledged == {Source.USAGE: 2})
        assert replayed(world).counts.inputs == 2


@run_async
async def test_an_id_that_comes_back_with_other_content_is_counted_and_named() -> None:
    """Two services with one source lost every other generation, and no figure showed it."""
    async with a_world() as world:
        world.use("2026-01-01T10:00:00Z", event_id="u1")
        world.use("2026-01-01T10:00:01Z", event_id="u1")
        world.use("2026-01-01T10:00:02Z", event_id="u1", quantity="2")
        worker = world.start_worker()
        await world.settled()
        assert (worker.owner.reused_ids.count, worker.owner.reused_ids.last) == (1, "a /test u1")
        assert world.used() == 32


@run_async
async def test_nothing_is_decided_before_a_catalog_is_adopted() -> None:
    world = World()
    try:
        world.use("2026-01-01T10:00:00Z")
        worker = world.start_worker()
        await world.until(lambda: worker.owner.state == "waiting_for_a_catalog")
        assert world.entries() == []
        world.publish_catalog()
        await world.settled()
        assert [entry.kind for entry in world.entries()] == [
            "catalog_adopted",
            "account_opened",
            "usage",
        ]
    finally:
        await world.stop()


@run_async
async def test_a_model_published_later_is_rated_when_its_event_is_sent_again() -> None:
    async with a_world() as world:
        world.start_worker()
        world.use("2026-01-01T10:00:00Z", model="veo_9", event_id="gen_1")
        await world.settled()
        document = {"id": "genai_video", "name": "GenAI Video", "section": "new"}
        rate = {"credits": "50", "unit": "generation"}
        world.publish_catalog(
            version="next",
            features=[{**document, "models": [{"id": "veo_9", "name": "Veo 9", "rate": rate}]}],
        )
        await world.until(lambda: world.entries()[-1].catalog_version == "next")
        world.use(
            "2026-01-01T10:00:00Z", appended="2026-01-02T10:00:00Z", model="veo_9", event_id="gen_1"
        )
        await world.settled()
        assert (world.entries()[-1].kind, world.used()) == ("usage", 50)
        replayed(world)


@run_async
@pytest.mark.parametrize("appended", [True, False])
async def test_an_append_whose_answer_is_lost_is_counted_once(appended: bool) -> None:
    async with a_world() as world:
        worker = world.start_worker()
        await world.until(lambda: world.entries() != [])
        worker.ledger.lose_next_answer(appended=appended)
        world.use("2026-01-01T10:00:00Z")
        await world.settled()
        assert world.used() == 32
        replayed(world)


@pytest.mark.peer_defect("OpenMeter #5118")
@run_async
async def test_a_worker_killed_at_any_moment_leaves_everything_to_the_next() -> None:
    """Kill after each number of steps of the event loop: before the claim, between append and
    commit, after it.
    """
    for steps in range(60):
        async with a_world() as world:
            for n in range(6):
                world.use(f"2026-01-01T10:00:0{n}Z")
            worker = world.start_worker()
            for _ in range(steps):
                await asyncio.sleep(0)
            await worker.kill()
            world.start_worker()
            await world.settled()
            assert world.used() == 6 * 32, steps
            replayed(world)


@pytest.mark.peer_defect("OpenMeter #5118")
@run_async
async def test_a_crash_between_any_two_steps_and_a_retry_of_the_event_count_it_once() -> None:
    """OpenMeter #5118 claims an identity before it writes, and never lets it go: a failed write and
    a retry count nothing.
    """
    for steps in range(0, 60, 2):
        async with a_world() as world:
            world.use("2026-01-01T10:00:00Z", event_id="gen_1")
            worker = world.start_worker()
            for _ in range(steps):
                await asyncio.sleep(0)
            await worker.kill()
            world.use("2026-01-01T10:00:00Z", event_id="gen_1", appended="2026-01-01T10:00:05Z")
            world.start_worker()
            await world.settled()
            assert world.used() == 32, steps
            assert replayed(world).counts.duplicate_inputs == 1


@run_async
async def test_an_append_of_a_superseded_worker_exists_for_nobody() -> None:
    async with a_world() as world:
        old = world.start_worker()
        world.use("2026-01-01T10:00:00Z")
        await world.settled()
        old.ledger.freeze()
        world.use("2026-01-01T10:00:01Z")
        await asyncio.sleep(0.01)
        world.start_worker()
        await world.settled()
        old.ledger.thaw()
        world.use("2026-01-01T10:00:02Z")
        await world.settled()
        assert world.used() == 3 * 32
        replayed(world)


@run_async
async def test_two_workers_that_both_believe_count_everything_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On a busy machine a claim and its catch-up take longer than the others' back-off, and then
    # neither would ever get to append.
    change_settings(monkeypatch, claim_again=Backoff.doubling(0.001, 0.5, (0.5, 1.5)))
    async with a_world() as world:
        world.start_worker(), world.start_worker()
        for n in range(30):
            world.use(f"2026-01-01T10:00:{n:02d}Z", quantity="0.5")
            await asyncio.sleep(0.001)
        await world.settled()
        assert world.used() == 30 * 32
        replayed(world)


@run_async
async def test_a_view_that_falls_back_in_an_idle_ledger_is_caught_up() -> None:
    async with a_world() as world:
        world.start_worker()
        world.use("2026-01-01T10:00:00Z")
        await world.settled()
        earlier = world.view.snapshot_for_rollback()
        world.use("2026-01-01T10:00:01Z")
        await world.settled()
        world.view.restore(earlier)
        await world.settled()
        assert world.used() == 64


@run_async
async def test_a_duplicate_of_an_event_that_the_view_has_forgotten_is_not_charged_again() -> None:
    """A look-up in a Redis that fell back would find no identity: it is fenced by the head."""
    async with a_world() as world:
        world.start_worker()
        empty = world.view.snapshot_for_rollback()
        world.use("2026-01-01T10:00:00Z", event_id="gen_1")
        await world.settled()
        world.view.restore(empty)
        world.use("2026-01-01T10:00:01Z", event_id="gen_1")
        await world.settled()
        assert (world.used(), world.entries()[-1].kind) == (32, "duplicate")


@run_async
async def test_an_emptied_view_is_rebuilt_from_the_ledger() -> None:
    async with a_world() as world:
        world.start_worker()
        for n in range(3):
            world.use(f"2026-01-01T10:00:0{n}Z", account=f"account-{n}")
        await world.settled()
        before = dict(world.view.stored_accounts)
        await world.view.clear()
        await world.settled()
        assert world.view.stored_accounts == before


@run_async
async def test_a_view_that_catches_up_shows_its_last_entrys_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A Redis that was emptied showed accounts as they had been long ago, and readers took them for
    up to date.
    """
    async with a_world() as world:
        await _a_use_whose_view_is_lost(world)
        changes: list[ViewChange] = []
        commit = MemoryView.commit

        async def noting(view: MemoryView, expected: Position | None, change: ViewChange) -> None:
            changes.append(change)
            await commit(view, expected, change)

        monkeypatch.setattr(MemoryView, "commit", noting)
        world.start_worker()
        await world.settled()
        assert changes[0].as_of_ms == int(datetime(2026, 1, 1, 10, tzinfo=UTC).timestamp() * 1_000)
        world.use("2026-01-01T10:00:01Z")
        await world.settled()
        assert changes[-1].as_of_ms is None


@run_async
async def test_a_view_ahead_of_a_log_that_lost_records_is_thrown_away() -> None:
    async with a_world() as world:
        worker = world.start_worker()
        for n in range(3):
            world.use(f"2026-01-01T10:00:0{n}Z")
        await world.settled()
        await worker.kill()
        world.ledger.truncate_from(world.ledger.end_offset - 2)
        world.start_worker()
        await world.settled()
        assert world.used() == 96
        replayed(world)


@run_async
async def test_another_ledgers_view_stops_the_partition_and_is_left_as_it_is() -> None:
    async with a_world() as theirs, a_world() as ours:
        theirs.use("2026-01-01T10:00:00Z")
        theirs.start_worker()
        await theirs.settled()
        await theirs.stop()
        before = dict(theirs.view.stored_accounts)
        ours.ledger.append_as_another(KeyedValue(None, b"{}"))
        ours.ledger.truncate_from(0)
        ours.view = theirs.view
        ours.start_worker().owner._new_ledger_id = lambda: "another"
        worker = ours._workers[0]
        await ours.until(lambda: worker.owner.state == "stopped")
        assert "another ledger" in (worker.owner.stopped_because or "")
        assert theirs.view.stored_accounts == before


@run_async
async def test_a_record_that_the_feeder_lost_is_read_anew_and_decided() -> None:
    """Records were skipped after Redis was emptied under load: a chunk from before a seek passed
    for one from after it.
    """
    async with a_world() as world:
        worker = world.start_worker()
        world.use("2026-01-01T10:00:00Z")
        await world.settled()
        worker.control.loses_next.update({1, 2})
        for n in range(1, 5):
            world.inputs[Source.USAGE].append(world.inputs[Source.USAGE][0]._replace(offset=n))
        world.use("2026-01-01T10:00:01Z")
        await world.settled()
        assert world.decided_inputs() == [("usage", offset) for offset in range(6)]
        replayed(world)


@run_async
async def test_what_strangers_wrote_before_the_first_claim_stops_nothing() -> None:
    """One record in an empty partition of the ledger kept every worker from claiming it."""
    async with a_world() as world:
        world.ledger.append_as_another(KeyedValue(None, b"junk"), KeyedValue(b"a", b"{}"))
        world.use("2026-01-01T10:00:00Z")
        first = world.start_worker()
        await world.settled()
        await first.kill()
        world.use("2026-01-01T10:00:01Z")
        world.start_worker()
        await world.settled()
        assert world.used() == 64
        assert len({claim.ledger for claim in replayed(world).claims}) == 1


@run_async
async def test_a_topic_that_is_no_ledgers_is_left_as_it_is() -> None:
    async with a_world() as world:
        world.ledger.append_as_another(*[KeyedValue(None, b"junk")] * BEFORE_FIRST_CLAIM_MAX)
        worker = world.start_worker()
        await world.until(lambda: worker.owner.state == "stopped")
        assert "this is not a ledger's topic" in (worker.owner.stopped_because or "")
        assert len(world.ledger.records) == BEFORE_FIRST_CLAIM_MAX


@run_async
async def test_offsets_that_kafka_itself_leaves_out_stop_nothing() -> None:
    """A producer that uses transactions leaves a mark between its records."""
    async with a_world() as world:
        world.start_worker()
        for offset in (0, 2, 4):
            world.use(f"2026-01-01T10:00:0{offset}Z", event_id=f"gen_{offset}")
            world.inputs[Source.USAGE][-1] = world.inputs[Source.USAGE][-1]._replace(offset=offset)
        await world.settled()
        assert world.used() == 96


@run_async
async def test_a_truncated_ledger_stops_the_partition() -> None:
    async with a_world() as world:
        await _a_use_whose_view_is_lost(world)
        world.ledger.truncate_before(2)
        again = world.start_worker()
        await world.until(lambda: again.owner.state == "stopped")
        assert "truncated" in (again.owner.stopped_because or "")


@run_async
async def test_an_import_is_decided_in_the_order_of_its_dates_across_both_topics() -> None:
    async with a_world(importing=True) as world:
        world.use("2025-01-10T10:00:00Z", quantity="5")
        world.send("account.subscribed", "2025-01-31T10:00:00Z", plan="pro")
        world.use("2025-02-01T10:00:00Z", quantity="2")
        world.send("account.plan_changed", "2025-02-02T10:00:00Z", plan="max")
        world.use("2025-03-15T10:00:00Z", quantity="3")
        world.start_worker()
        await world.settled()
        kinds = [entry.kind for entry in world.entries()]
        expected = [
            "catalog_adopted",
            "account_opened",
            "usage",
            "plan_change",
            "usage",
            "plan_change",
            "renewal",
            "usage",
        ]
        assert kinds == expected
        assert [entry.appended_at for entry in world.entries()] == sorted(
            entry.appended_at for entry in world.entries()
        )
        replayed(world)


@run_async
async def test_a_blocked_account_is_freed_by_its_renewal_before_any_later_event_of_others() -> None:
    async with a_world(importing=True) as world:
        world.send("account.subscribed", "2025-01-31T10:00:00Z", plan="pro")
        world.use("2025-02-01T10:00:00Z", quantity="7")
        world.use("2025-03-01T00:00:00Z", account="b")
        world.start_worker()
        await world.settled()
        last = world.entries()[-3:]
        assert [(entry.kind, entry.account) for entry in last] == [
            ("renewal", "a"),
            ("account_opened", "b"),
            ("usage", "b"),
        ]
        assert last[0].appended_at == datetime(2025, 2, 28, 10, tzinfo=UTC)
        assert [crossing.type for crossing in last[0].crossings] == ["limit.cleared"]
        replayed(world)


@run_async
async def test_a_live_ledger_frees_a_due_account_by_the_wall_clock_after_a_second() -> None:
    async with a_world() as world:
        world.now = datetime(2026, 2, 1, tzinfo=UTC)
        world.send("account.subscribed", "2026-02-01T00:00:00Z", plan="pro")
        world.use("2026-02-01T00:00:01Z", quantity="7")
        world.start_worker()
        await world.settled()
        world.now = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=0.9)
        await asyncio.sleep(0.05)
        assert world.entries()[-1].kind == "usage"
        world.now = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=1)
        await world.until(lambda: world.entries()[-1].kind == "renewal")
        assert world.entries()[-1].appended_at == datetime(2026, 3, 1, tzinfo=UTC)
        replayed(world)


@run_async
async def test_an_input_of_a_years_dates_renews_each_period_of_a_blocked_account() -> None:
    """One chunk can span many periods: what comes due among its own accounts comes in between."""
    async with a_world(importing=True) as world:
        world.send("account.subscribed", "2025-01-31T10:00:00Z", plan="pro")
        world.use("2025-02-01T10:00:00Z", quantity="7")
        for month in range(3, 13):
            world.use(f"2025-{month:02d}-15T10:00:00Z", quantity="7")
        world.use("2026-01-01T10:00:00Z", account="b")
        world.start_worker()
        await world.settled()
        crossings = [
            crossing.type
            for entry in world.entries()
            for crossing in entry.crossings
            if crossing.threshold is None
        ]
        assert crossings == ["limit.reached", "limit.cleared"] * 11 or crossings[::2] == [
            "limit.reached"
        ] * len(crossings[::2])
        renewals = [entry.appended_at.day for entry in world.entries() if entry.kind == "renewal"]
        assert renewals == [28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        replayed(world)


@run_async
async def test_events_that_come_while_the_log_is_slow_are_decided_together() -> None:
    """Under load on three brokers a partition stayed half a minute behind for good, though it had
    nothing else to do.

    Account events and usage alternated, so each was a chunk of its own, and each chunk went all the
    way to the log and back.
    """
    async with a_world() as world:
        worker = world.start_worker()
        world.use("2026-01-01T10:00:00Z")
        await world.settled()
        worker.ledger.freeze()
        began_at = world.ledger.end_offset
        for second in range(1, 41):
            world.use(f"2026-01-01T10:00:{second:02d}.000Z", f"account-{second % 3}", model="pika")
            world.send(
                "credits.granted",
                f"2026-01-01T10:00:{second:02d}.500Z",
                f"account-{second % 5}",
                credits="1",
                reason="a gift",
            )
        await world.until(
            lambda: not any(worker.inputs.buffered_count(source) for source in Source)
        )
        decided_from = {worker.owner.inputs.position(source) for source in Source}
        worker.ledger.thaw()
        await world.settled()
        assert decided_from == {40, 41}
        assert world.ledger.end_offset - began_at >= 80
        assert replayed(world).counts.inputs == 81


@run_async
async def test_an_owner_whose_cancellation_was_swallowed_does_not_claim_again() -> None:
    """A worker that gave up a partition ended as a whole: the owner had been cancelled just as the
    broker answered, and claimed again.
    """
    async with a_world() as world:
        worker = world.start_worker()
        is_asked = asyncio.Event()

        async def swallowing(positions: dict[Source, int]) -> None:
            is_asked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise LedgerError("the partition is no longer this worker's") from None

        # The feed is of a partition that is no longer the worker's.
        worker.control.seek = swallowing  # type: ignore[method-assign]
        await is_asked.wait()
        claims = len(world.ledger.records)
        worker.task.cancel()
        await asyncio.wait([worker.task], timeout=DEADLINE_S / 2)
        assert worker.task.cancelled()
        assert len(world.ledger.records) == claims


@run_async
async def test_nothing_at_hand_is_decided_before_a_catalog_is_adopted() -> None:
    """A new ledger whose first catalogs were all refused stopped: their chunks waited for a slow
    log, and a use was taken into the last.

    The code fails on a use where there is no catalog at all, and the operator was advised to skip
    it.
    """
    world = World()
    try:
        world.use("2026-01-01T10:00:00Z")
        worker = world.start_worker()
        await world.until(lambda: worker.owner.state == "waiting_for_a_catalog")
        worker.ledger.freeze()
        world.catalogs.put([Record(offset, 0, None, b"not a catalog") for offset in range(6)])
        for _ in range(100):
            await asyncio.sleep(0)
        worker.ledger.thaw()
        world.publish_catalog()
        await world.settled()
        assert [entry.kind for entry in world.entries()] == [
            *["refusal"] * 6,
            "catalog_adopted",
            "account_opened",
            "usage",
        ]
    finally:
        await world.stop()


@run_async
async def test_an_ownership_ends_also_if_a_cancellation_in_it_was_swallowed() -> None:
    """A record was missing from the input while the log was slow, and the broker's answer came with
    the cancellation, which was lost.

    The part that had appended waited for the next chunk, the owner for its end: for good, and as if
    it were running.
    """
    async with a_world() as world:
        worker = world.start_worker()
        await world.until(
            lambda: worker.owner.state == "running" and world.view_hash() == world.last_hash() != ""
        )
        is_asked = asyncio.Event()
        append = worker.ledger.append

        async def swallowing(expected_offset: int, groups: Any) -> None:
            worker.ledger.append = append  # type: ignore[method-assign] # once
            is_asked.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await append(expected_offset, groups)

        # The client library is answered as it is cancelled.
        worker.ledger.append = swallowing  # type: ignore[method-assign]
        world.use("2026-01-01T10:00:00Z")
        await is_asked.wait()
        worker.control.loses_next.add(1)
        world.use("2026-01-01T10:00:01Z")
        world.use("2026-01-01T10:00:02Z")
        await world.settled()
        assert world.used() == 96
        replayed(world)
