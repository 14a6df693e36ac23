"""Keeps servers and services running: reports an end, and restarts after a growing delay."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any, Literal, Protocol

from usageledger.local.errors import StackError
from usageledger.local.files import write_atomically
from usageledger.local.processes import rotate_log
from usageledger.local.progress import Progress
from usageledger.runtime.backoff import Backoff

RESTART = Backoff.doubling(0.5, 30.0)
HEALTHY_AFTER_S = 60.0
STEP_S = 0.2
LOG_LINES = 12

State = Literal["starting", "running", "backing_off", "stopped"]


class Unit(Protocol):
    """A server of ours, a server that others run (it never ends), or a service."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def log_path(self) -> Path | None: ...

    @property
    def pid(self) -> int | None: ...

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        ...

    @property
    def ready_timeout_s(self) -> float: ...

    def spawn(self) -> None: ...

    def is_ready(self) -> bool: ...

    def stop(self, timeout_s: float) -> None: ...

    def last_lines(self, count: int = 10) -> list[str]: ...


@dataclass(slots=True)
class _Watched:
    """The supervisor's state of a unit.

    Times are monotonic, except ``since``, which is for people.
    """

    unit: Unit
    state: State
    since: datetime
    began_s: float
    restarts: int = 0
    failures: int = field(default=0)
    """The failures in a row, since the unit was last healthy."""
    restart_at_s: float = 0.0


class Supervisor:
    """Watches units that were started, in one thread: call ``step`` repeatedly, or ``run``."""

    def __init__(
        self,
        status_path: Path,
        progress: Progress,
        *,
        own_log: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        """``own_log`` is the file to which this process's own output goes, if it goes to one."""
        self._status_path = status_path
        self._own_log = own_log
        self._stuck_logs: set[Path] = set()
        self._progress = progress
        self._clock = clock
        self._now = now or (lambda: datetime.now(UTC))
        self._watched: list[_Watched] = []

    def adopt(self, unit: Unit, state: State = "running") -> None:
        """Watch a unit that is started already."""
        self._watched.append(_Watched(unit, state, self._now(), self._clock()))
        self._write_status()

    def start(self, unit: Unit) -> None:
        """Start a unit and watch it. A failure to start is treated like any other end."""
        self._watched.append(_Watched(unit, "stopped", self._now(), self._clock()))
        self._spawn(self._watched[-1])
        self._write_status()

    def step(self) -> None:
        """Check every unit once, start it again if that is due, and keep all logs small."""
        before = self.status()
        for watched in self._watched:
            self._look_at(watched)
            self._rotate_log(watched.unit.log_path)
        self._rotate_log(self._own_log)
        if self.status() != before:
            self._write_status()

    def run(self, stopping: Event) -> None:
        """Step until ``stopping`` is set."""
        while not stopping.wait(STEP_S):
            self.step()

    def is_steady(self) -> bool:
        """Whether every unit runs, or has failed at least once, which was reported."""
        return all(watched.state == "running" or watched.failures > 0 for watched in self._watched)

    def stop(self, units: Sequence[Unit], timeout_s: float) -> None:
        """Stop these units in parallel, each within ``timeout_s``, and watch them no more."""
        if units:
            with ThreadPoolExecutor(len(units), "usageledger-stop") as pool:
                list(pool.map(lambda unit: self._stop(unit, timeout_s), units))
        for watched in self._watched:
            if watched.unit in units:
                self._enter(watched, "stopped")
        self._write_status()

    def status(self) -> list[dict[str, Any]]:
        """An object for each unit.

        It has name, pid (None while there is no process), state, restarts, since, description, log.
        """
        return [
            {
                "name": watched.unit.name,
                "pid": watched.unit.pid,
                "state": watched.state,
                "restarts": watched.restarts,
                "since": watched.since.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "description": watched.unit.description,
                "log": str(watched.unit.log_path) if watched.unit.log_path else None,
            }
            for watched in self._watched
        ]

    def _look_at(self, watched: _Watched) -> None:
        if watched.state == "backing_off":
            if self._clock() >= watched.restart_at_s:
                watched.restarts += 1
                self._spawn(watched)
        elif watched.state == "starting":
            self._look_at_start(watched)
        elif watched.state == "running":
            if watched.unit.exit_code is not None:
                self._back_off(watched, _how_it_ended(watched.unit.exit_code))
            elif watched.failures and self._clock() - watched.began_s >= HEALTHY_AFTER_S:
                watched.failures = 0

    def _look_at_start(self, watched: _Watched) -> None:
        unit = watched.unit
        if unit.exit_code is not None:
            self._back_off(watched, _how_it_ended(unit.exit_code))
        elif unit.is_ready():
            self._enter(watched, "running")
            if watched.restarts:
                self._progress.say(f"{unit.name} runs again")
        elif self._clock() - watched.began_s > unit.ready_timeout_s:
            unit.stop(5.0)
            self._back_off(watched, f"did not come up within {unit.ready_timeout_s:.0f} s")

    def _rotate_log(self, path: Path | None) -> None:
        """Rotate a log. A full disk must not end the supervisor, which would stop the stack."""
        if path is None:
            return
        try:
            rotate_log(path)
        except OSError as error:
            if path not in self._stuck_logs:
                self._progress.warn(f"{path} cannot be rotated: {error}")
            self._stuck_logs.add(path)
        else:
            self._stuck_logs.discard(path)

    def _spawn(self, watched: _Watched) -> None:
        try:
            watched.unit.spawn()
        except (OSError, StackError) as error:
            self._back_off(watched, f"could not be started: {error}")
        else:
            self._enter(watched, "starting")

    def _stop(self, unit: Unit, timeout_s: float) -> None:
        """Stop a unit. One that cannot be stopped must not prevent the others from stopping."""
        try:
            unit.stop(timeout_s)
        except (OSError, StackError, subprocess.TimeoutExpired) as error:
            self._progress.warn(f"{unit.name} could not be stopped: {error}")

    def _back_off(self, watched: _Watched, how: str) -> None:
        watched.failures += 1
        delay_s = RESTART.delay_s(watched.failures)
        watched.restart_at_s = self._clock() + delay_s
        self._enter(watched, "backing_off")
        log = "".join(f"\n  {line}" for line in watched.unit.last_lines(LOG_LINES))
        where = f"\nThe end of {watched.unit.log_path}:{log}" if log else ""
        self._progress.warn(
            f"{watched.unit.name} {how}; it is started again in {delay_s:g} s.{where}"
        )

    def _enter(self, watched: _Watched, state: State) -> None:
        watched.state, watched.since, watched.began_s = state, self._now(), self._clock()

    def _write_status(self) -> None:
        write_atomically(
            self._status_path, json.dumps({"services": self.status()}, indent=1) + "\n"
        )


def _how_it_ended(exit_code: int) -> str:
    return (
        f"was killed by signal {-exit_code}"
        if exit_code < 0
        else f"ended with exit code {exit_code}"
    )
