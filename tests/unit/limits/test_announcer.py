"""Each crossing is announced in order, without a gap and with one id, whichever consumer fails."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from kafka.cluster import ClusterMetadata

from tests.worlds.limits_world import Fate, Ledger, World
from usageledger.limits.announcer import LimitsError, PartitionsStopped
from usageledger.log.assignor import KnownPartitionsAssignor


def a_ledger(partition: int = 0) -> Ledger:
    """Claims, entries without and with one to three crossings, and entries that do not exist for a
    reader.
    """
    ledger = Ledger(partition)
    ledger.claim()
    ledger.entry()
    ledger.entry("limit.threshold", "limit.threshold", "limit.reached")
    ledger.claim()
    ledger.ignored_entry("limit.reached")
    ledger.entry("limit.cleared", account="acct_2")
    ledger.entry()
    ledger.entry("limit.threshold", "limit.reached")
    ledger.entry("limit.cleared")
    ledger.entry()
    return ledger


class Crash(Exception):
    """The process is gone."""


class KillAt:
    """Ends the process at the n-th call on Kafka."""

    def __init__(self, call: int) -> None:
        self._left = call
        self.has_killed = False

    def __call__(self, call: str) -> None:
        if self._left == 0:
            self.has_killed = True
            raise Crash(call)
        self._left -= 1


def the_same_bytes_under_each_id(values: list[bytes]) -> bool:
    by_id: dict[str, bytes] = {}
    return all(by_id.setdefault(json.loads(value)["id"], value) == value for value in values)


def test_each_crossing_of_a_valid_entry_is_announced_once_in_order() -> None:
    world = World(a_ledger())
    announcer, _, _ = world.announcer()
    world.run(announcer)
    assert world.reader_addresses() == world.ledgers[0].addresses
    assert len(world.limit_events[0]) == len(world.ledgers[0].addresses) == 7
    assert announcer.announced_count == 7
    assert world.committed == {0: len(world.ledgers[0].records)}


def test_a_consumer_that_starts_again_goes_on_after_the_last_event() -> None:
    world = World(a_ledger())
    world.run(world.announcer()[0])
    before = list(world.limit_events[0])
    world.run(world.announcer()[0])
    assert world.limit_events[0] == before
    world.ledgers[0].entry("limit.threshold")
    world.run(world.announcer()[0])
    assert len(world.limit_events[0]) == len(before) + 1


def test_a_consumer_goes_on_in_the_middle_of_an_entry() -> None:
    """The second of an entry's three crossings was the last to be announced."""
    world = World(a_ledger())
    world.run(world.announcer()[0])
    world.limit_events[0] = world.limit_events[0][:2]
    world.run(world.announcer()[0])
    assert len(world.limit_events[0]) == 7
    assert world.reader_addresses() == world.ledgers[0].addresses


@pytest.mark.peer_defect("FluxMeter, Autumn, Blnk")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_step_each_crossing_is_still_announced(moment: str) -> None:
    """FluxMeter, Autumn and Blnk lose limit notices in a crash, or repeat them under other ids."""
    call = 0
    while True:
        world = World(a_ledger(0), a_ledger(1))
        kill = KillAt(call)
        announcer, _, _ = world.announcer(**{moment: kill})
        with contextlib.suppress(Crash):
            world.run(announcer)
        if not kill.has_killed:
            break
        world.run(world.announcer()[0])
        for partition in (0, 1):
            assert world.reader_addresses(partition) == world.ledgers[partition].addresses, (
                f"killed {moment} call {call}"
            )
            assert the_same_bytes_under_each_id(world.limit_events[partition])
        call += 1
    assert call > 15


def test_killed_again_and_again_it_still_comes_to_the_end() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        world = World(a_ledger())
        for _ in range(30):
            announcer, _, _ = world.announcer(after=KillAt(rng.randrange(12)))
            try:
                world.run(announcer)
            except Crash:
                continue
        world.run(world.announcer()[0])
        assert world.reader_addresses() == world.ledgers[0].addresses, f"seed {seed}"


@pytest.mark.parametrize("fate", ["refused", "answer_lost", "late"])
def test_an_append_without_an_answer_is_looked_up_in_the_log(fate: Fate) -> None:
    for good_appends in range(4):
        world = World(a_ledger())
        announcer, _, limit_log = world.announcer()
        while len(world.limit_events[0]) < good_appends * 2 and announcer.announced_count < 6:
            announcer.step()
        limit_log.loses_next = fate
        world.run(announcer)
        limit_log.late_batches_arrive()
        world.run(world.announcer()[0])
        assert world.reader_addresses() == world.ledgers[0].addresses
        assert the_same_bytes_under_each_id(world.limit_events[0])


@pytest.mark.peer_defect("FluxMeter, Autumn, Blnk")
def test_overlapping_consumers_leave_only_repeats(rng: random.Random) -> None:
    """Despite rebalances, frozen processes that wake up and requests that arrive late, each append
    begins after an event that is there.
    """
    fates: list[Fate] = ["no", "no", "no", "refused", "answer_lost", "late"]
    for round_ in range(150):
        world = World(a_ledger())
        consumers = [world.announcer() for _ in range(3)]
        for _, feed, limit_log in consumers:
            feed.records_per_poll = rng.randint(1, 4)
            limit_log.batch_size = rng.randint(1, 3)
        for _ in range(60):
            announcer, feed, limit_log = rng.choice(consumers)
            limit_log.loses_next = rng.choice(fates)
            if rng.random() < 0.1:
                feed.generation += 1
            if rng.random() < 0.1:
                limit_log.late_batches_arrive()
            announcer.step()
            world.now_s += rng.random()
        for _, _, limit_log in consumers:
            limit_log.late_batches_arrive()
        world.run(world.announcer()[0])
        assert world.reader_addresses() == world.ledgers[0].addresses, f"round {round_}"
        assert the_same_bytes_under_each_id(world.limit_events[0])


def test_a_partition_that_was_away_is_looked_up_again() -> None:
    """Between two polls a partition went to another consumer and came back. The consumer forgets
    what it had in memory.
    """
    world = World(a_ledger())
    announcer, feed, _ = world.announcer()
    announcer.step()
    world.run(world.announcer()[0])
    assert len(world.limit_events[0]) == 7
    feed.generation += 1
    world.run(announcer)
    assert len(world.limit_events[0]) == 7


def test_a_revoked_partition_is_announced_no_more() -> None:
    world = World(a_ledger(0), a_ledger(1))
    announcer, feed, _ = world.announcer()
    feed.partitions, feed.generation = frozenset({1}), 2
    world.run(announcer)
    assert (len(world.limit_events[0]), len(world.limit_events[1])) == (0, 7)
    assert announcer.health().keys() == {1}


def test_bytes_that_are_no_entry_are_passed_over() -> None:
    ledger = Ledger(0)
    ledger.claim()
    ledger.entry("limit.reached")
    ledger.junk()
    ledger.claim()
    ledger.entry("limit.cleared")
    world = World(ledger)
    announcer, _, _ = world.announcer()
    world.run(announcer)
    assert world.reader_addresses() == ledger.addresses
    assert announcer.health()[0].state == "announcing"


def test_a_forged_entry_stops_its_partition_until_it_is_skipped() -> None:
    """An entry at its own offset was announced, whether it continued the hash chain or not."""
    ledger = Ledger(0)
    ledger.claim()
    ledger.entry("limit.reached")
    ledger.forgery("limit.cleared")
    world = World(ledger, a_ledger(1))
    announcer, _, _ = world.announcer()
    world.run(announcer)
    stopped = announcer.health()[0]
    assert stopped.state == "stopped"
    assert "usageledger processor skip 0@2 --topic ledger" in stopped.detail
    assert world.reader_addresses(1) == world.ledgers[1].addresses
    ledger.skip(2)
    ledger.claim()
    ledger.entry("limit.cleared")
    world.run(announcer)
    assert announcer.health()[0].state == "announcing"
    assert world.reader_addresses() == ledger.addresses


def test_a_skip_of_other_bytes_at_that_offset_changes_nothing() -> None:
    ledger, other = Ledger(0), Ledger(0)
    for each in (ledger, other):
        each.claim()
        each.entry("limit.reached")
    ledger.forgery("limit.cleared")
    other.forgery("limit.reached")
    ledger.skip(2)
    other.skip(2)
    ledger.records[3] = other.records[3]
    world = World(ledger)
    announcer, _, _ = world.announcer()
    world.run(announcer)
    assert announcer.health()[0].state == "stopped"


def test_when_every_partition_has_stopped_the_process_ends() -> None:
    world = World(a_ledger())
    world.run(world.announcer()[0])
    _shorten_the_ledger(world)
    with pytest.raises(PartitionsStopped, match="partition 0"):
        world.run(world.announcer()[0])


@pytest.mark.parametrize(
    "value",
    [
        b"junk",
        b"",
        b'{"id":"0-1-0","data":{"entry":{"partition":0,"offset":1,"index":0}}}',
        b'{"id":"0-1-0","data":{"entry":{"partition":0,"offset":1.5,"index":0,"crossings":1}}}',
        b'{"id":"0-2-0","data":{"entry":{"partition":0,"offset":1,"index":0,"crossings":1}}}',
        b'{"id":"0-1-1","data":{"entry":{"partition":0,"offset":1,"index":1,"crossings":1}}}',
        b'{"id":"0-1-0","data":{"entry":{"partition":0,"offset":1,"index":0,"crossings":1}}}',
        b'{"id":"7-1-0","type":"limit.reached","data":{"account":"a",'
        b'"entry":{"partition":7,"offset":1,"index":0,"crossings":1}}}',
    ],
)
def test_records_that_are_no_limit_events_do_not_change_where_a_consumer_goes_on(
    value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """One record that somebody wrote by hand silenced the partition for good."""
    world = World(a_ledger())
    world.limit_events[0] += [value, value]
    world.run(world.announcer()[0])
    events = [each for each in world.limit_events[0] if each != value]
    assert len(events) == 7
    world.limit_events[0].append(value)
    world.ledgers[0].entry("limit.threshold")
    announcer, _, _ = world.announcer()
    world.run(announcer)
    assert [each for each in world.limit_events[0] if each != value][:-1] == events
    assert len(world.limit_events[0]) == 7 + 3 + 1
    assert "is no limit event" in caplog.text


def test_recreated_limit_events_stop_their_partition_and_nothing_is_repeated() -> None:
    """Somebody deletes limit.events and creates it again.

    Apps would receive every limit event of the past as if the limit were reached now.
    """
    world = World(a_ledger(), a_ledger(1))
    world.run(world.announcer()[0])
    assert world.committed[0] == len(world.ledgers[0].records)
    world.limit_events[0].clear()
    announcer, _, _ = world.announcer()
    world.run(announcer)
    assert world.limit_events[0] == []
    assert "limit.events is empty" in announcer.health()[0].detail
    assert announcer.health()[1].state == "announcing"


def test_an_empty_log_of_limit_events_is_right_where_nothing_was_crossed() -> None:
    ledger = Ledger()
    ledger.claim()
    ledger.entry()
    world = World(ledger)
    world.run(world.announcer()[0])
    ledger.entry("limit.reached")
    announcer, _, _ = world.announcer()
    world.run(announcer)
    assert world.reader_addresses() == ledger.addresses
    assert announcer.health()[0].state == "announcing"


def _shorten_the_ledger(world: World) -> None:
    del world.ledgers[0].records[4:]


def _delete_from_the_ledger(world: World) -> None:
    world.first_offset = len(world.ledgers[0].records)


def _put_another_ledger_there(world: World) -> None:
    world.ledgers[0] = Ledger()
    for _ in range(20):
        world.ledgers[0].entry()


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (_shorten_the_ledger, "ends before"),
        (_delete_from_the_ledger, "begins at"),
        (_put_another_ledger_there, "of another ledger"),
    ],
)
def test_a_ledger_that_does_not_fit_its_limit_events_stops_and_resets_nothing(
    harm: Callable[[World], None], named: str
) -> None:
    world = World(a_ledger())
    world.run(world.announcer()[0])
    before = list(world.limit_events[0])
    harm(world)
    with pytest.raises(PartitionsStopped, match=named):
        world.run(world.announcer()[0])
    assert world.limit_events[0] == before


def test_a_consumer_that_fetches_nothing_any_more_is_found_out() -> None:
    world = World(a_ledger())
    announcer, feed, _ = world.announcer()
    announcer.step()
    feed.records_per_poll = 0
    with pytest.raises(LimitsError, match="nothing came from offset"):
        world.run(announcer, steps=100)


def test_a_position_that_was_reset_skips_nothing() -> None:
    world = World(a_ledger())
    announcer, feed, _ = world.announcer()
    announcer.step()
    feed.positions[0] = world.ledgers[0].addresses[-1].offset
    world.run(announcer)
    assert world.reader_addresses() == world.ledgers[0].addresses
    assert len(world.limit_events[0]) == 7


def test_records_that_come_with_a_rebalance_are_ignored_and_stop_nothing() -> None:
    """Consumers joined one after another, and two polls brought a rebalance.

    They brought records from the group's offset on, far beyond the last limit event. The same
    record was missing twice, so the partition was stopped, and the process with it.
    """
    ledger = Ledger()
    ledger.entry("limit.reached")
    for _ in range(20):
        ledger.entry()
    world = World(ledger)
    first, _, _ = world.announcer()
    world.run(first)
    ledger.entry("limit.cleared")
    rebalances = 4

    def rebalance(call: str) -> None:
        nonlocal rebalances
        if call == "poll" and rebalances and 0 not in feed.paused:
            rebalances -= 1
            feed.generation += 1
            feed.positions[0] = world.committed[0]

    announcer, feed, _ = world.announcer(before=rebalance)
    world.run(announcer)
    assert rebalances == 0
    assert world.reader_addresses() == ledger.addresses


def test_the_group_offset_follows_what_is_acknowledged_and_never_runs_ahead() -> None:
    world = World(a_ledger())
    announcer, _, limit_log = world.announcer()
    for _ in range(40):
        limit_log.loses_next = "refused"
        announcer.step()
        world.now_s += 10.0
        announced_to = world.committed.get(0, 0)
        announced = {address.offset for address in world.reader_addresses()}
        assert all(
            address.offset in announced
            for address in world.ledgers[0].addresses
            if address.offset < announced_to
        )


def test_a_group_shares_out_partitions_of_which_its_leader_has_not_heard_yet() -> None:
    assignor = KnownPartitionsAssignor({"ledger": 3})
    metadata = assignor.metadata(["ledger"])
    members = [
        SimpleNamespace(member_id=name, group_instance_id=None, metadata=metadata)
        for name in ("a", "b")
    ]
    assigned = assignor.assign(ClusterMetadata(), members)
    assert {
        name: [place.partition for place in share.partitions()] for name, share in assigned.items()
    } == {"a": [0, 1], "b": [2]}
