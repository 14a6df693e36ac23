"""Attacks on the owner of a partition.

Each test describes its incident. Time is virtual, so waits cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

import pytest

from tests.simulation.scheduler import run_virtually
from tests.unit.processor.test_owner import replayed
from tests.worlds import ledger_world
from tests.worlds.hostile_view import HostileView
from tests.worlds.ledger_world import World, a_world, change_settings
from usageledger.counters.memory import MemoryView
from usageledger.domain.encoding import decode_head, encode
from usageledger.ledger import adoption, partition_book
from usageledger.ledger.due_list import DueList
from usageledger.ledger.records import KeyedValue, Record
from usageledger.ledger.timestamps import milliseconds
from usageledger.log import memory
from usageledger.processor import owner as owner_module
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.inputs import Source

DEADLINE_S = 600.0


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual seconds are cheap, and workers that claim in turn back off."""
    monkeypatch.setattr(ledger_world, "DEADLINE_S", DEADLINE_S / 2)


def attacked(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtually(test(*args, **kwargs), deadline_s=DEADLINE_S)

    return run


async def rebuilt(world: World) -> HostileView:
    """The view that a worker builds from the ledger when it finds none."""
    await world.stop()
    world.view = view = HostileView()
    world.start_worker()
    await world.settled()
    return view


def kinds(world: World) -> list[str]:
    return [entry.kind for entry in world.entries()]


class TestIdentities:
    @attacked
    async def test_a_duplicate_is_found_though_its_id_returns_months_later_in_one_fetch(
        self,
    ) -> None:
        """An import chunk spans months.

        The id was looked up only in the windows of its last use in the chunk. So a duplicate in the
        windows of its first use was charged twice.
        """
        async with a_world(importing=True) as world:
            world.use("2025-01-10T10:00:00Z", event_id="gen_1")
            world.start_worker()
            await world.settled()
            await world.stop()
            world.use("2025-01-10T10:00:00Z", event_id="gen_1", appended="2025-01-12T10:00:00Z")
            world.use("2025-06-01T10:00:00Z", event_id="gen_1")
            world.start_worker()
            await world.settled()
            assert kinds(world)[-3:] == ["usage", "duplicate", "usage"]
            replayed(world)

    @attacked
    async def test_a_rebuilt_view_remembers_a_voided_use_whose_id_came_again_months_later(
        self,
    ) -> None:
        """The same in catching up: the void found no usage, and what the rebuilt view remembered
        was not what the live one did.
        """
        async with a_world(importing=True) as world:
            world.use("2025-05-10T10:00:00Z", event_id="gen_1")
            world.start_worker()
            await world.settled()
            await world.stop()
            halfway = world.view.snapshot_for_rollback()
            world.send("usage.voided", "2025-05-12T10:00:00Z", source="/test", id="gen_1")
            world.start_worker()
            await world.settled()
            live = world.view.identities
            await world.stop()
            world.view = MemoryView()
            world.view.restore(halfway)
            # Not decided live before the rollback: it only has to lie in the same chunk of the log.
            world.start_worker()
            await world.settled()
            assert world.view.identities == live
            assert (await rebuilt(world)).identities == live

    @attacked
    async def test_an_id_counts_again_when_it_has_expired_and_then_in_both_its_windows(
        self,
    ) -> None:
        async with a_world(importing=True) as world:
            world.start_worker()
            for day, kind in (
                ("01-03", "usage"),
                ("02-07", "duplicate"),
                ("02-08", "usage"),
                ("03-14", "duplicate"),
                ("03-16", "usage"),
            ):
                world.use(f"2025-{day}T10:00:00Z", event_id="gen_1")
                await world.settled()
                assert world.entries()[-1].kind == kind, day
            replayed(world)

    @attacked
    async def test_a_void_that_awaits_its_usage_is_remembered_over_a_window_and_a_kill(
        self,
    ) -> None:
        async with a_world(importing=True) as world:
            world.send("usage.voided", "2025-01-10T10:00:00Z", source="/test", id="gen_1")
            world.start_worker()
            await world.settled()
            await world.stop()
            world.use("2025-02-10T10:00:00Z", event_id="gen_1")
            world.start_worker()
            await world.settled()
            assert world.entries()[-1].is_void_on_arrival
            assert world.used() == 0
            replayed(world)


class TestTheLog:
    @attacked
    async def test_a_log_that_lost_entries_and_regrew_by_claims_is_recognised(
        self,
    ) -> None:
        """After an unclean election claims took the lost entries' offsets.

        The view was not beyond the log's end, so the owner trusted it. The lost uses stayed
        counted, and the next entry chained to a missing one.
        """
        async with a_world() as world:
            for n in range(3):
                world.use(f"2026-01-01T10:00:0{n}Z")
            worker = world.start_worker()
            await world.settled()
            await worker.kill()
            world.ledger.truncate_from(world.ledger.end_offset - 2)
            claim = world.ledger.records[0]
            world.ledger.append_as_another(*[KeyedValue(None, claim.value or b"")] * 4)
            world.start_worker()
            await world.until(lambda: world.decided_inputs() == world.sent_inputs())
            world.use("2026-01-01T10:00:09Z")
            await world.settled()
            assert world.used() == 4 * 32
            replayed(world)

    @attacked
    async def test_many_claims_behind_the_last_entry_are_not_taken_for_lost_entries(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A quiet partition that was claimed again and again."""
        change_settings(monkeypatch, look_back_records=2)
        async with a_world() as world:
            for _ in range(30):
                worker = world.start_worker()
                await world.until(
                    lambda worker=worker: (
                        world.view.stored_head is not None and worker.owner.state == "running"
                    )
                )
                await worker.kill()
            world.start_worker()
            world.use("2026-01-01T10:00:00Z")
            await world.settled()
            assert len(world.ledger.records) == 31 + len(world.entries())
            assert "lost records" not in caplog.text
            replayed(world)

    @attacked
    async def test_a_view_decided_by_newer_rules_stops_a_worker_without_them(
        self,
    ) -> None:
        """The claim that named them lies before the view's head, where nobody reads any more."""
        async with a_world() as world:
            world.use("2026-01-01T10:00:00Z")
            worker = world.start_worker()
            await world.settled()
            await worker.kill()
            stored = world.view.stored_head
            assert stored is not None
            head = decode_head(stored.value)
            newer = type(head)(
                **{name: getattr(head, name) for name in head.__struct_fields__}
                | {"tzdata": "2099z"}
            )
            world.view.stored_head = stored._replace(value=encode(newer))
            again = world.start_worker()
            await world.until(lambda: again.owner.state == "stopped")
            assert "newer rules" in (again.owner.stopped_because or "")

    @attacked
    async def test_a_record_appended_behind_a_vanished_workers_claim_reaches_no_view(
        self,
    ) -> None:
        """Nobody moved the view, so it would have taken the commit: that the entries lie off their
        offsets is all there is to see.
        """
        async with a_world() as world:
            view = world.view = HostileView()
            world.start_worker()
            world.use("2026-01-01T10:00:00Z")
            await world.settled()
            world.ledger.append_as_another(KeyedValue(None, world.ledger.records[0].value or b""))
            world.use("2026-01-01T10:00:01Z")
            await world.settled()
            assert world.used() == 64
            assert {position.hash for position in view.moved_to} <= {
                "",
                *(sealed.hash for sealed in world.sealed()),
            }
            replayed(world)

    @attacked
    async def test_two_workers_that_claim_an_empty_ledger_at_once_agree_on_its_id(self) -> None:
        async with a_world() as world:
            workers = [world.start_worker() for _ in range(4)]
            world.use("2026-01-01T10:00:00Z")
            await world.settled()
            await asyncio.gather(*(worker.kill() for worker in workers[1:]))
            world.use("2026-01-01T10:00:01Z")
            await world.settled()
            assert world.used() == 64
            stored = world.view.stored_head
            assert stored is not None
            first = world.ledger.records[0].value or b""
            assert decode_head(stored.value).ledger.encode() in first
            replayed(world)

    @attacked
    @pytest.mark.parametrize("appended", [True, False])
    async def test_a_first_claim_whose_answer_is_lost_begins_one_ledger(
        self, appended: bool
    ) -> None:
        async with a_world() as world:
            worker = world.start_worker()
            worker.ledger.lose_next_answer(appended=appended)
            world.use("2026-01-01T10:00:00Z")
            await world.settled()
            assert worker.owner.state == "running"
            replayed(world)

    @attacked
    async def test_catching_up_never_leaves_the_view_between_two_entries_of_one_input(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A chunk of the log ends anywhere.

        An audit at that moment would find a view that no input leads to.
        """
        async with a_world() as world:
            for n in range(8):
                world.use(
                    f"2026-01-01T10:00:0{n}Z", account=f"account-{n}"
                )  # account_opened and usage
            world.start_worker()
            await world.settled()
            await world.stop()
            last_of_group = {
                sealed.hash for sealed in world.sealed() if sealed.entry.kind != "account_opened"
            }
            for records in range(1, 6):
                monkeypatch.setattr(memory, "READ_CHUNK_RECORDS", records)
                change_settings(monkeypatch, records_per_commit=records)
                view = await rebuilt(world)
                assert {
                    position.hash for position in view.moved_to if position.hash
                } <= last_of_group, records
                assert len(view.moved_to) > 2, "it was committed on the way"
            replayed(world)

    @attacked
    async def test_an_append_that_is_cancelled_from_within_is_a_failed_append(self) -> None:
        """A producer that is closed cancels the futures of its batches.

        Nobody had asked the owner to end, and it ended without a message.
        """
        async with a_world() as world:
            worker = world.start_worker()
            await world.until(lambda: worker.owner.state == "running")
            append = worker.ledger.append
            cancelled: list[bool] = []

            async def cancelling(*args: Any) -> None:
                if cancelled:
                    return await append(*args)
                cancelled.append(True)
                raise asyncio.CancelledError

            worker.ledger.append = cancelling  # type: ignore[method-assign, assignment]
            world.use("2026-01-01T10:00:00Z")
            await world.settled()
            assert (cancelled, worker.task.done()) == ([True], False)


class TestTheCatalogTopic:
    @attacked
    async def test_a_catalog_topic_that_cannot_be_read_for_a_minute_stops_no_partition(
        self,
    ) -> None:
        """The topic's broker was down for more than half a minute while a worker took over.

        The partition stopped until an operator came, though the broker's return mended everything.
        """
        async with a_world() as world:
            first = world.start_worker()
            world.use("2026-01-01T10:00:00Z")
            await world.settled()
            await first.kill()
            adopted, world.catalogs = world.catalogs, CatalogLog()
            worker = world.start_worker()
            world.use("2026-01-01T10:00:01Z")
            await asyncio.sleep(100)
            assert worker.owner.state in ("claiming", "catching_up")
            world.catalogs.put(adopted.before(1))
            await world.settled()
            replayed(world)

    @attacked
    async def test_a_catalog_topic_that_ends_before_what_was_adopted_stops_the_partition(
        self,
    ) -> None:
        """Truncated or made anew.

        An answer to a question that was asked before says nothing: the version may have come since.
        """
        async with a_world() as world:
            first = world.start_worker()
            world.use("2026-01-01T10:00:00Z")
            await world.settled()
            await first.kill()
            world.catalogs = CatalogLog()
            worker = world.start_worker()
            await world.until(lambda: worker.owner.state == "catching_up")
            await asyncio.sleep(1)
            world.catalogs.note_end(0)
            await asyncio.sleep(1)
            assert worker.owner.stopped_because is None
            world.catalogs.note_end(0)
            await world.until(lambda: worker.owner.stopped_because is not None)
            assert "the catalog topic does not hold the records before offset 1" in (
                worker.owner.stopped_because or ""
            )


class TestTheView:
    @attacked
    @pytest.mark.parametrize("applied", [True, False])
    async def test_a_commit_whose_answer_is_lost_is_counted_once(self, applied: bool) -> None:
        async with a_world() as world:
            view = world.view = HostileView()
            world.start_worker()
            world.use("2026-01-01T10:00:00Z")
            await world.settled()
            view.fail_next("commit", applied=applied)
            world.use("2026-01-01T10:00:01Z")
            await world.settled()
            assert world.used() == 64
            replayed(world)

    @attacked
    async def test_a_due_list_read_from_a_view_that_fell_back_meanwhile_is_not_believed(
        self,
    ) -> None:
        """The due list is read after the last commit, and nothing said from where: renewals of the
        lost second were not known.
        """
        async with a_world() as world:
            world.now = datetime(2026, 2, 1, tzinfo=UTC)
            worker = world.start_worker()
            await world.until(lambda: world.entries() != [])
            await worker.kill()
            before = world.view.snapshot_for_rollback()
            worker = world.start_worker()
            world.send("account.subscribed", "2026-02-01T00:00:00Z", plan="pro")
            world.use("2026-02-01T00:00:01Z", quantity="7")
            await world.settled()
            await worker.kill()
            after = world.view.snapshot_for_rollback()
            view = world.view = HostileView()
            view.restore(after)
            view.before["due"] = lambda: view.restore(before)
            # No event of this chunk needs a look-up, which would have noticed.
            world.now = datetime(2026, 3, 2, tzinfo=UTC)
            world.inputs[Source.USAGE].append(Record(1, milliseconds(world.now), None, b"junk"))
            world.start_worker()
            await world.until(lambda: world.decided_inputs() == world.sent_inputs())
            replayed(world)

    @attacked
    @pytest.mark.parametrize("part", ["head", "account", "identity"])
    async def test_a_view_that_cannot_be_read_stops_the_partition_and_says_so(
        self, part: str
    ) -> None:
        async with a_world() as world:
            world.use("2026-01-01T10:00:00Z", event_id="gen_1")
            worker = world.start_worker()
            await world.settled()
            await worker.kill()
            if part == "head":
                assert world.view.stored_head is not None
                world.view.stored_head = world.view.stored_head._replace(value=b"{}")
            elif part == "account":
                world.view.stored_accounts["a"] = b"not an account"
            else:
                for found in world.view.identities.values():
                    found.update(dict.fromkeys(found, b"\xff"))
            world.use("2026-01-01T10:00:00Z", event_id="gen_1")
            worker = world.start_worker()
            await world.until(lambda: worker.owner.state == "stopped")
            assert "view" in (worker.owner.stopped_because or "")

    @attacked
    async def test_nothing_is_kept_in_memory_once_it_is_committed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ownerships = watch_ownerships(monkeypatch)
        async with a_world() as world:
            world.start_worker()
            for n in range(200):
                world.use(
                    f"2026-01-01T10:{n // 60:02d}:{n % 60:02d}Z",
                    account=f"account-{n % 40}",
                    event_id=f"gen_{n % 150}",
                )
                if n % 20 == 0:
                    await asyncio.sleep(0)
            await world.settled()
            await asyncio.sleep(5)
            (ownership,) = ownerships
            assert (
                ownership._book.accounts,
                ownership._book.identities,
                ownership._last_batch_of_account | ownership._last_batch_of_identity,
            ) == (
                {},
                {},
                {},
            )


class TestWhatTheCodeChokesOn:
    """DESIGN: that partition stops and says so, the others go on.

    An exception would end the whole process, again and again.
    """

    @attacked
    @pytest.mark.parametrize("where", ["decode_usage", "decide"])
    async def test_the_partition_stops_right_before_the_input_and_names_it(
        self, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        choke_on(monkeypatch, where, "poison")
        async with a_world() as world:
            for n in range(5):
                world.use(f"2026-01-01T10:00:0{n}Z", event_id="poison" if n == 3 else None)
            worker = world.start_worker()
            await world.until(lambda: worker.owner.state == "stopped")
            assert "usage 0-3" in (worker.owner.stopped_because or "")
            assert "ZeroDivisionError" in (worker.owner.stopped_because or "")
            assert world.decided_inputs() == [("usage", 0), ("usage", 1), ("usage", 2)]
            assert world.view_hash() == world.last_hash()
            assert worker.control.acknowledged == {Source.USAGE: 3}
            again = world.start_worker()
            await world.until(lambda: again.owner.state == "stopped")
            assert world.decided_inputs() == [("usage", 0), ("usage", 1), ("usage", 2)]
            replayed(world)

    @attacked
    async def test_once_the_code_is_mended_the_partition_goes_on_from_there(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        choke_on(monkeypatch, "decide", "poison")
        async with a_world() as world:
            for n in range(5):
                world.use(f"2026-01-01T10:00:0{n}Z", event_id="poison" if n == 3 else None)
            worker = world.start_worker()
            await world.until(lambda: worker.owner.state == "stopped")
            monkeypatch.undo()
            world.start_worker()
            await world.settled()
            assert world.used() == 5 * 32
            replayed(world)

    @attacked
    async def test_a_catalog_that_chokes_stops_the_partition(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        choke_on(monkeypatch, "decode_catalog", "poison")
        async with a_world() as world:
            worker = world.start_worker()
            world.use("2026-01-01T10:00:00Z")
            await world.settled()
            world.publish_catalog(version="poison")
            await world.until(lambda: worker.owner.state == "stopped")
            assert "catalog 0-1" in (worker.owner.stopped_because or "")

    @attacked
    async def test_an_account_that_chokes_when_it_is_due_stops_the_partition(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def choke(*_: Any, **__: Any) -> Any:
            raise ZeroDivisionError("poison")

        monkeypatch.setattr(partition_book, "decide_due", choke)
        async with a_world(importing=True) as world:
            world.send("account.subscribed", "2025-01-31T10:00:00Z", plan="pro")
            world.use("2025-02-01T10:00:00Z", quantity="7")
            world.use("2025-03-01T10:00:00Z", account="b")
            worker = world.start_worker()
            await world.until(lambda: worker.owner.state == "stopped")
            assert "'a'" in (worker.owner.stopped_because or "")
            assert "2025-02-28" in (worker.owner.stopped_because or "")
            assert world.view_hash() == world.last_hash()

    @attacked
    async def test_an_entry_of_the_log_that_cannot_be_folded_stops_the_partition(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with a_world() as world:
            world.use("2026-01-01T10:00:00Z")
            worker = world.start_worker()
            await world.settled()
            await worker.kill()
            await world.view.clear()
            choke_on(monkeypatch, "evolve", None)
            worker = world.start_worker()
            await world.until(lambda: worker.owner.state == "stopped")
            assert "ledger entry 0-" in (worker.owner.stopped_because or "")

    @attacked
    async def test_entries_that_no_batch_takes_stop_the_partition_and_name_their_input(
        self,
    ) -> None:
        async with a_world() as world:
            worker = world.start_worker()
            await world.until(lambda: world.entries() != [])
            worker.ledger._group_bytes_max = 1_000
            world.use("2026-01-01T10:00:00Z")
            await world.until(lambda: worker.owner.state == "stopped")
            assert "usage 0-0" in (worker.owner.stopped_because or "")


class TestTheOrder:
    @attacked
    @pytest.mark.parametrize("timestamp_ms", [-1, 0, 2**62, 40_000_000_000_000])
    async def test_any_timestamp_is_decided(self, timestamp_ms: int) -> None:
        """One beyond the year 2999, with an account that is due later still: nothing could be
        taken, and the owner fell over.
        """
        async with a_world(importing=True) as world:
            world.send("account.subscribed", "2999-12-30T10:00:00Z", plan="pro")
            world.use("2999-12-30T11:00:00Z", quantity="7")
            world.use("2999-12-30T12:00:00Z", account="b")
            world.inputs[Source.USAGE].append(
                world.inputs[Source.USAGE][-1]._replace(offset=2, timestamp_ms=timestamp_ms)
            )
            world.start_worker()
            await world.settled()
            replayed(world)

    @attacked
    async def test_an_import_whose_dates_jump_about_is_decided_and_replays(self) -> None:
        async with a_world(importing=True) as world:
            for day in (20, 3, 17, 17, 1, 28):
                world.use(f"2025-01-{day:02d}T10:00:00Z", quantity="4")
                world.send(
                    "credits.granted",
                    f"2025-01-{29 - day:02d}T10:00:00Z",
                    credits="5",
                    expires_at="2025-02-01T00:00:00Z",
                )
            world.use("2025-02-02T10:00:00Z")
            world.start_worker()
            await world.settled()
            times = [entry.appended_at for entry in world.entries()]
            assert times == sorted(times)
            replayed(world)

    @attacked
    async def test_an_account_event_of_the_same_millisecond_is_decided_before_the_use(self) -> None:
        async with a_world(importing=True) as world:
            world.use("2025-01-10T10:00:00Z", quantity="1")
            world.send("account.subscribed", "2025-01-10T10:00:00Z", plan="pro")
            world.start_worker()
            await world.settled()
            assert kinds(world) == ["catalog_adopted", "account_opened", "plan_change", "usage"]

    @attacked
    async def test_records_beyond_a_gap_are_decided_at_their_own_offsets(self) -> None:
        async with a_world() as world:
            world.use("2026-01-01T10:00:00Z")
            world.use("2026-01-01T10:00:01Z")
            world.inputs[Source.USAGE][1] = world.inputs[Source.USAGE][1]._replace(offset=7)
            worker = world.start_worker()
            await world.until(lambda: world.decided_inputs() == [("usage", 0), ("usage", 7)])
            await world.until(lambda: worker.control.acknowledged == {Source.USAGE: 8})

    @attacked
    async def test_a_live_ledger_waits_a_second_for_an_input_that_has_more_and_no_longer(
        self,
    ) -> None:
        async with a_world() as world:
            worker = world.start_worker()
            await world.until(lambda: worker.owner.state == "running")

            def known_end_offset(source: Source) -> int | None:
                return 1 if source is Source.ACCOUNT else None

            worker.control.known_end_offset = known_end_offset  # type: ignore[method-assign]
            asked_at = asyncio.get_running_loop().time()
            world.use("2026-01-01T10:00:00Z")
            await world.settled()
            assert 1.0 <= asyncio.get_running_loop().time() - asked_at < 1.6

    @attacked
    async def test_an_owner_that_claims_again_waits_again(self) -> None:
        """The patience of the ownership before was still counted. So an account event that was on
        its way came after the use.
        """
        async with a_world() as world:
            view = world.view = HostileView()
            empty = view.snapshot_for_rollback()
            worker = world.start_worker()
            await world.until(lambda: worker.owner.state == "running")
            worker.control.known_end_offset = lambda source: None  # type: ignore[method-assign]
            await asyncio.sleep(0.3)
            world.use("2026-01-01T10:00:01Z")
            view.before["verify"] = lambda: view.restore(empty)
            await world.until(lambda: len(world.ledger.records) > len(world.entries()) + 1)
            await asyncio.sleep(0.6)
            world.send("account.subscribed", "2026-01-01T10:00:00Z", plan="pro")
            await world.settled()
            assert kinds(world)[-1] == "usage"

    @attacked
    async def test_a_flood_of_usage_does_not_keep_a_catalog_from_being_adopted(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        change_settings(monkeypatch, records_per_step=10)
        async with a_world() as world:
            for n in range(2_000):
                world.use(f"2026-01-01T10:{n // 60:02d}:{n % 60:02d}Z")
            world.start_worker()
            for _ in range(300):
                await asyncio.sleep(0)
            assert 0 < len(world.entries()) < 1_000
            world.publish_catalog(version="next")
            await world.settled()
            place = next(
                n for n, entry in enumerate(world.entries()) if entry.catalog_version == "next"
            )
            assert place < 1_000
            replayed(world)


class TestWhatIsDue:
    @attacked
    async def test_an_account_that_is_no_longer_due_by_what_is_caught_up_is_not_acted_on_again(
        self,
    ) -> None:
        """Killed between a renewal's append and its commit.

        The worker that caught up did not know that the account had been due, so the view kept the
        date. On that date the ledger got an entry that no state called for. Every later audit found
        a difference.
        """
        async with a_world(importing=True) as world:
            world.send("account.subscribed", "2025-01-31T10:00:00Z", plan="pro")
            world.use("2025-02-01T10:00:00Z", quantity="7")
            world.start_worker()
            await world.settled()
            await world.stop()
            before = world.view.snapshot_for_rollback()
            world.use("2025-03-01T10:00:00Z", account="b")
            world.start_worker()
            await world.settled()
            await world.stop()
            assert (kinds(world)[-3], world.view.due_ms) == ("renewal", {})
            world.view.restore(before)
            world.use("2025-06-01T10:00:00Z", account="b")
            world.start_worker()
            await world.settled()
            assert world.view.due_ms == {}
            replayed(world)

    @attacked
    async def test_a_due_act_waits_for_a_record_that_the_feeder_lost(self) -> None:
        """The record after it was buffered, and its time showed that the renewal was due.

        The gap showed only when that record was decided itself. So the renewal was written before
        an earlier use, which was then refused: its period was closed.
        """
        async with a_world(importing=True) as world:
            world.send("account.subscribed", "2025-01-31T10:00:00Z", plan="pro")
            world.use("2025-02-01T10:00:00Z", quantity="7")
            worker = world.start_worker()
            await world.settled()
            answer = worker.control.end_offset

            async def answer_slowly(source: Source) -> int:
                await asyncio.sleep(0.1)
                return await answer(source)

            worker.control.end_offset = answer_slowly  # type: ignore[method-assign]
            worker.control.loses_next = {1}
            world.use("2025-02-02T10:00:00Z")
            world.use("2025-03-10T10:00:00Z", account="b")
            await world.settled()
            assert kinds(world)[-4:] == ["usage", "renewal", "account_opened", "usage"]
            replayed(world)

    @attacked
    async def test_more_accounts_due_at_one_moment_than_a_chunk_takes_are_all_acted_on(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        change_settings(monkeypatch, due_per_step=3)
        async with a_world(importing=True) as world:
            for n in range(20):
                world.send(
                    "account.subscribed", "2025-01-31T10:00:00Z", account=f"account-{n}", plan="pro"
                )
                world.use("2025-02-01T10:00:00Z", account=f"account-{n}", quantity="7")
            worker = world.start_worker()
            await world.settled()
            appended = watch_appends(worker)
            world.use("2025-06-01T00:00:00Z", account="z")
            await world.settled()
            assert kinds(world).count("renewal") == 20
            sizes = [len(groups) for groups in appended]
            assert (sum(sizes), max(sizes)) == (21, 3)
            replayed(world)

    @attacked
    async def test_a_clock_that_jumps_by_decades_writes_its_renewals_in_chunks(self) -> None:
        """500 accounts that are blocked for 20 years are 120,000 renewals: in one chunk they took
        longer than an append may.
        """
        async with a_world(importing=True) as world:
            for n in range(6):
                world.send(
                    "account.subscribed", "2000-01-31T10:00:00Z", account=f"account-{n}", plan="pro"
                )
                grant = {"credits": "1", "expires_at": "2400-01-01T00:00:00Z"}
                world.send(
                    "credits.granted", "2000-02-01T10:00:00Z", account=f"account-{n}", **grant
                )
            world.use("2020-01-01T10:00:00Z", account="z")
            worker = world.start_worker()
            appended = watch_appends(worker)
            await world.settled()
            assert kinds(world).count("renewal") == 6 * 239
            assert max(len(groups) for groups in appended) <= 500
            replayed(world)

    @attacked
    async def test_an_act_that_fell_due_before_a_view_was_lost_is_done_after_it(self) -> None:
        async with a_world() as world:
            world.now = datetime(2026, 2, 1, tzinfo=UTC)
            world.send("account.subscribed", "2026-02-01T00:00:00Z", plan="pro")
            empty = world.view.snapshot_for_rollback()
            world.use("2026-02-01T00:00:01Z", quantity="7")
            world.start_worker()
            await world.settled()
            world.view.restore(empty)
            world.now = datetime(2026, 3, 1, 0, 0, 5, tzinfo=UTC)
            await world.until(lambda: kinds(world)[-1] == "renewal")
            await world.settled()
            replayed(world)

    @attacked
    async def test_a_due_act_for_an_account_that_the_view_does_not_know_ends(self) -> None:
        async with a_world() as world:
            world.use("2026-01-01T10:00:00Z")
            worker = world.start_worker()
            await world.settled()
            await worker.kill()
            world.view.due_ms["nobody"] = milliseconds(world.now) - 10_000
            world.view.due_ms["a"] = milliseconds(world.now) - 5_000
            world.start_worker()
            await world.until(lambda: world.view.due_ms == {})
            replayed(world)

    @attacked
    async def test_the_end_of_an_import_lets_what_is_due_come_by_the_wall_clock(self) -> None:
        async with a_world(importing=True) as world:
            world.now = datetime(2025, 6, 1, tzinfo=UTC)
            world.send("account.subscribed", "2025-01-31T10:00:00Z", plan="pro")
            world.use("2025-02-01T10:00:00Z", quantity="7")
            world.start_worker()
            await world.settled()
            await asyncio.sleep(30)
            assert kinds(world)[-1] == "usage"
            world.is_importing = False
            await world.until(lambda: kinds(world)[-1] == "renewal")
            assert world.entries()[-1].appended_at == datetime(2025, 2, 28, 10, tzinfo=UTC)
            replayed(world)

    def test_fifty_thousand_accounts_due_at_once_are_not_all_scanned(self) -> None:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        due = DueList()
        for n in range(50_000):
            due.set(CountedId(f"account-{n:05d}"), at)
        found = 0
        CountedId.comparisons = 0
        while batch := due.until(at, 500):
            # 500 leave a heap of depth 16 and come back: a scan would compare each of the 50,000.
            assert 500 < CountedId.comparisons < 25_000
            assert batch == sorted(batch) and len(batch) == 500
            for account in batch:
                assert due.next() == (at, account)
                due.set(account, at + timedelta(days=30))
            found += len(batch)
            CountedId.comparisons = 0
        assert found == 50_000

    def test_asking_who_is_due_changes_nothing(self) -> None:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        due = DueList()
        for n in range(10):
            due.set(f"account-{n % 5}", at + timedelta(hours=n))
            due.set(f"account-{n % 5}", None if n == 7 else at + timedelta(hours=n))
        dates = due.all()
        assert due.until(at + timedelta(hours=8), 10) == ["account-0", "account-1", "account-3"]
        assert due.until(at + timedelta(hours=8), 10) == ["account-0", "account-1", "account-3"]
        assert due.until(at + timedelta(hours=8), 2) == ["account-0", "account-1"]
        assert due.all() == dates

    def test_an_account_whose_date_comes_and_goes_takes_no_more_memory_each_time(self) -> None:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        due = DueList()
        due.set("b", at - timedelta(days=1))
        for _ in range(10_000):
            due.set("a", at)
            due.set("a", None)
        due.set("a", at)
        assert len(due._heap) < 200
        assert [due.next(), due.until(at, 5)] == [(at - timedelta(days=1), "b"), ["b", "a"]]


class CountedId(str):
    """An account's id that counts how often one is compared with another."""

    __slots__ = ()
    __hash__ = str.__hash__
    comparisons = 0

    def __eq__(self, other: object) -> bool:
        CountedId.comparisons += 1
        return str.__eq__(self, other)

    def __lt__(self, other: str) -> bool:
        CountedId.comparisons += 1
        return str.__lt__(self, other)


def watch_appends(worker: Any) -> list[Any]:
    """The entries that the worker appends, call by call."""
    seen: list[Any] = []
    append = worker.ledger.append

    async def watched(expected_offset: int, groups: Any) -> None:
        seen.append(groups)
        await append(expected_offset, groups)

    worker.ledger.append = watched
    return seen


def watch_ownerships(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The ownerships that begin."""
    seen: list[Any] = []
    run = owner_module._Ownership.run

    async def watched(ownership: Any) -> None:
        seen.append(ownership)
        await run(ownership)

    monkeypatch.setattr(owner_module._Ownership, "run", watched)
    return seen


def choke_on(monkeypatch: pytest.MonkeyPatch, function: str, what: str | None) -> None:
    """Let a function of the domain fail on whatever mentions ``what``."""
    module = adoption if hasattr(adoption, function) else partition_book
    original = getattr(module, function)

    def choking(*args: Any, **kwargs: Any) -> Any:
        if what is None or what in repr(args):
            raise ZeroDivisionError("an error in the code")
        return original(*args, **kwargs)

    monkeypatch.setattr(module, function, choking)
