"""When a ledger counts as idle."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from kafka import TopicPartition
from kafka.errors import NotCoordinatorError

from usageledger.log.topics import Topics
from usageledger.operations.idleness import wait_until_idle
from usageledger.operations.lags import Lag, LagReader, LedgerLags, service_lags

IDLE = LedgerLags((Lag("usage", 0, 0), Lag("limits", 0, 0)), {("usage", 0): 5})
IDLE_WITH_MORE = LedgerLags(IDLE.lags, {("usage", 0): 6})


def busy(records: int) -> LedgerLags:
    return LedgerLags((Lag("usage", 0, records), Lag("limits", 0, 0)), {("usage", 0): 5})


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def waited(
    looks: Iterator[LedgerLags], timeout_s: float | None = None, stalled_after_s: float = 60.0
) -> tuple[LedgerLags, float, int]:
    clock, seen = Clock(), list[LedgerLags]()
    last = wait_until_idle(
        lambda: next(looks),
        timeout_s,
        seen.append,
        stalled_after_s=stalled_after_s,
        clock=clock,
        sleep=clock.sleep,
    )
    return last, clock.now_s, len(seen)


def test_a_ledger_is_idle_when_it_was_so_twice_in_a_row() -> None:
    last, _, looks = waited(iter([busy(2), IDLE, busy(1), IDLE, IDLE]))
    assert (last, looks) == (IDLE, 5)


def test_records_that_were_decided_between_two_looks_count_as_work() -> None:
    last, _, looks = waited(iter([IDLE, IDLE_WITH_MORE, IDLE_WITH_MORE]))
    assert (last, looks) == (IDLE_WITH_MORE, 3)


def test_a_wait_ends_when_its_time_is_up_and_says_what_lags() -> None:
    last, waited_s, _ = waited(iter(busy(1_000 - n) for n in range(1_000)), timeout_s=3)
    assert not last.is_idle
    assert 3 <= waited_s < 4
    assert [str(lag) for lag in last.waiting] == [
        f"usage: partition 0 has {last.records('usage')} records still to decide"
    ]


def test_a_wait_without_a_limit_ends_when_nothing_moves() -> None:
    last, waited_s, _ = waited(iter(busy(3) for _ in range(1_000)), stalled_after_s=10)
    assert not last.is_idle
    assert 10 <= waited_s < 11


def test_a_wait_goes_on_while_something_moves() -> None:
    last, waited_s, _ = waited(
        iter([*(busy(500 - n) for n in range(500)), IDLE, IDLE]), stalled_after_s=1
    )
    assert last.is_idle
    assert waited_s > 50


def test_an_idle_look_at_the_deadline_is_confirmed_by_another() -> None:
    last, _, looks = waited(iter([IDLE, IDLE]), timeout_s=0)
    assert (last, looks) == (IDLE, 2)


def test_the_longest_queue_is_named_first() -> None:
    lags = LedgerLags((Lag("usage", 0, 1), Lag("account", 3, 2_000), Lag("limits", 2, 1)), {})
    assert [str(lag) for lag in lags.waiting] == [
        "account: partition 3 has 2,000 records still to decide",
        "usage: partition 0 has 1 record still to decide",
        "limit events: partition 2 has 1 record still to announce",
    ]


def test_the_processor_answers_for_its_inputs_and_the_servers_for_nothing() -> None:
    lags = LedgerLags(
        (Lag("usage", 0, 1), Lag("account", 0, 2), Lag("catalog", 0, 4), Lag("limits", 0, 8)), {}
    )
    assert service_lags(lags) == {"kafka": None, "redis": None, "processor": 7, "limits": 8}


class Admin:
    """Always asks the same broker for a group's offsets, as kafka-python's client does."""

    def __init__(self, leads: bool) -> None:
        self._leads = leads
        self.is_closed = False

    def list_group_offsets(self, group: str) -> dict[str, dict[Any, Any]]:
        if not self._leads:
            raise NotCoordinatorError
        return {group: {TopicPartition(Topics().ledger, 0): SimpleNamespace(offset=521)}}

    def close(self) -> None:
        self.is_closed = True


def test_a_moved_group_coordinator_is_found_by_a_new_client() -> None:
    """After a broker had been frozen, nothing counted as announced: `wait-idle` never ended."""
    admins = [Admin(leads=False), Admin(leads=True)]
    connected = iter(admins)
    reader: Any = SimpleNamespace(
        partition_count=lambda _topic: 1, start_offset=lambda *_: 0, end_offset=lambda *_: 0
    )
    lags = LagReader(reader, None, lambda: next(connected), "")
    assert (lags.announced(), lags.announced()) == ({}, {0: 521})
    assert [admin.is_closed for admin in admins] == [True, False]
