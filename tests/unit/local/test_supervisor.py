"""The supervisor when a unit ends, by a clock that the test sets."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from usageledger.local.errors import StackError
from usageledger.local.progress import Remembering
from usageledger.local.supervisor import Supervisor


class FakeUnit:
    """A unit that ends when the test says so."""

    ready_timeout_s = 30.0

    def __init__(self, name: str = "processor") -> None:
        self.name = name
        self.description = name
        self.log_path: Path | None = Path(f"{name}.log")
        self.spawned = 0
        self.stopped_within: list[float] = []
        self.exit_code: int | None = None
        self.ready = True
        self.spawn_error: Exception | None = None
        self.stop_error: Exception | None = None

    @property
    def pid(self) -> int | None:
        return 1000 + self.spawned if self.spawned and self.exit_code is None else None

    def spawn(self) -> None:
        if self.spawn_error is not None:
            raise self.spawn_error
        self.spawned += 1
        self.exit_code = None

    def is_ready(self) -> bool:
        return self.ready

    def stop(self, timeout_s: float) -> None:
        if self.stop_error is not None:
            raise self.stop_error
        self.stopped_within.append(timeout_s)
        self.exit_code = 0

    def last_lines(self, count: int = 10) -> list[str]:
        return ["Traceback", "ValueError: boom"][:count]


class Bench:
    """A supervisor with one unit, and its clock."""

    def __init__(self, directory: Path) -> None:
        self.time_s = 0.0
        self.progress = Remembering()
        self.status_path = directory / "status.json"
        self.supervisor = Supervisor(
            self.status_path,
            self.progress,
            clock=lambda: self.time_s,
            now=lambda: datetime(2026, 11, 22, 10, 0, tzinfo=UTC),
        )
        self.unit = FakeUnit()

    def pass_s(self, seconds: float) -> None:
        self.time_s += seconds
        self.supervisor.step()

    def crash(self, exit_code: int = 1) -> None:
        self.unit.exit_code = exit_code
        self.supervisor.step()

    def pause_until_restart_s(self) -> float:
        """Advance the clock by eighths of a second until the unit is started again. Return the
        seconds.
        """
        spawned, before = self.unit.spawned, self.time_s
        while self.unit.spawned == spawned:
            assert self.time_s - before < 100.0
            self.pass_s(0.125)
        self.supervisor.step()
        return self.time_s - before

    def status(self) -> dict[str, Any]:
        (service,) = json.loads(self.status_path.read_text(encoding="utf-8"))["services"]
        assert isinstance(service, dict)
        return service


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_unit_runs_once_it_is_ready(bench: Bench) -> None:
    bench.unit.ready = False
    bench.supervisor.start(bench.unit)
    assert bench.status()["state"] == "starting"
    assert not bench.supervisor.is_steady()
    bench.unit.ready = True
    bench.supervisor.step()
    assert (bench.status()["state"], bench.status()["pid"], bench.status()["restarts"]) == (
        "running",
        1001,
        0,
    )
    assert bench.supervisor.is_steady()


def test_a_crash_is_told_with_the_end_of_the_log(bench: Bench) -> None:
    bench.supervisor.start(bench.unit)
    bench.supervisor.step()
    bench.crash(exit_code=3)
    (warning,) = bench.progress.warned
    assert "processor ended with exit code 3; it is started again in 0.5 s" in warning
    assert "ValueError: boom" in warning
    assert (bench.status()["state"], bench.status()["pid"]) == ("backing_off", None)


def test_a_kill_is_told_as_one(bench: Bench) -> None:
    bench.supervisor.start(bench.unit)
    bench.supervisor.step()
    bench.crash(exit_code=-9)
    assert "was killed by signal 9" in bench.progress.warned[0]


def test_the_pause_before_each_restart_doubles_up_to_half_a_minute(bench: Bench) -> None:
    bench.supervisor.start(bench.unit)
    bench.supervisor.step()
    pauses = []
    for _ in range(8):
        bench.crash()
        pauses.append(bench.pause_until_restart_s())
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert bench.status()["restarts"] == 8


def test_a_minute_of_health_makes_the_pause_short_again_and_a_moment_less_does_not(
    bench: Bench,
) -> None:
    bench.supervisor.start(bench.unit)
    bench.supervisor.step()
    bench.crash()
    bench.pause_until_restart_s()
    bench.pass_s(59.75)
    bench.crash()
    assert bench.pause_until_restart_s() == 1.0
    bench.pass_s(60.25)
    bench.crash()
    assert bench.pause_until_restart_s() == 0.5


def test_a_unit_that_cannot_even_be_started_is_tried_again(bench: Bench) -> None:
    bench.unit.spawn_error = StackError("no engine")
    bench.supervisor.start(bench.unit)
    assert "could not be started: no engine" in bench.progress.warned[0]
    bench.unit.spawn_error = None
    assert bench.pause_until_restart_s() == 0.5
    assert bench.status()["state"] == "running"


def test_a_unit_that_does_not_come_up_in_time_is_ended_and_started_again(bench: Bench) -> None:
    bench.unit.ready = False
    bench.supervisor.start(bench.unit)
    bench.pass_s(31.0)
    assert bench.unit.stopped_within
    assert "did not come up within 30 s" in bench.progress.warned[0]
    assert bench.status()["state"] == "backing_off"


def test_a_stopped_unit_is_not_started_again(bench: Bench) -> None:
    bench.supervisor.start(bench.unit)
    bench.supervisor.step()
    bench.supervisor.stop([bench.unit], 5.0)
    bench.pass_s(100.0)
    assert bench.unit.spawned == 1
    assert bench.unit.stopped_within == [5.0]
    assert (bench.status()["state"], bench.status()["pid"]) == ("stopped", None)


def test_a_unit_that_cannot_be_ended_keeps_no_other_from_ending(bench: Bench) -> None:
    other = FakeUnit("limits")
    bench.unit.stop_error = StackError("the engine is gone")
    for unit in (bench.unit, other):
        bench.supervisor.start(unit)
    bench.supervisor.stop([bench.unit, other], 5.0)
    assert other.stopped_within == [5.0]
    assert "processor could not be stopped: the engine is gone" in bench.progress.warned
