"""Logs of the stack's processes stay small while the processes run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.local.test_supervisor import Bench
from usageledger.local import processes
from usageledger.local.processes import last_lines, rotate_log
from usageledger.local.supervisor import Supervisor


@pytest.fixture(autouse=True)
def small_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOG_BYTES_MAX", 1_000)


def test_a_log_is_rotated_while_its_writer_goes_on(tmp_path: Path) -> None:
    """A log could grow until the disk was full: it was rotated at a restart alone."""
    path = tmp_path / "gateway.log"
    written: list[str] = []
    with path.open("ab", buffering=0) as log:
        for number in range(500):
            written.append(f"line {number}")
            log.write(f"line {number}\n".encode())
            rotate_log(path)
            assert path.stat().st_size <= 1_000
    found = (tmp_path / "gateway.log.1").read_text().splitlines() + path.read_text().splitlines()
    # The first line may have been cut.
    assert found[1:] == written[1 - len(found) :]
    assert len(found) > 100
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["gateway.log", "gateway.log.1"]


def test_of_a_log_that_grew_too_fast_the_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "gateway.log"
    path.write_bytes(b"old\n" * 5_000 + b"new\n" * 250)
    rotate_log(path)
    assert (tmp_path / "gateway.log.1").read_bytes() == b"new\n" * 250
    assert path.read_bytes() == b""


def test_the_last_lines_of_a_rotated_log_are_those_since(tmp_path: Path) -> None:
    path = tmp_path / "gateway.log"
    path.write_text("Traceback\n")
    assert last_lines(path, 10, start=900) == ["Traceback"]


def test_the_supervisor_rotates_the_logs_of_its_units(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.unit.log_path = tmp_path / "processor.log"
    bench.unit.log_path.write_bytes(b"x" * 2_000)
    bench.supervisor.start(bench.unit)
    bench.supervisor.step()
    assert bench.unit.log_path.stat().st_size == 0
    assert (tmp_path / "processor.log.1").stat().st_size == 1_000


def test_the_supervisor_rotates_the_log_of_a_detached_stack(tmp_path: Path) -> None:
    """A stack that cannot start a service says so each time, for as long as it runs."""
    bench = Bench(tmp_path)
    own_log = tmp_path / "supervisor.log"
    supervisor = Supervisor(tmp_path / "status.json", bench.progress, own_log=own_log)
    with own_log.open("ab", buffering=0) as output:
        output.write(b"x" * 2_000)
        supervisor.step()
        output.write(b"new\n")
    assert own_log.read_bytes() == b"new\n"
    assert (tmp_path / "supervisor.log.1").stat().st_size == 1_000


def test_a_log_that_cannot_be_rotated_is_reported_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.unit.log_path = tmp_path / "processor.log"
    bench.unit.log_path.write_bytes(b"x" * 2_000)
    (tmp_path / "processor.log.1").mkdir()
    bench.supervisor.start(bench.unit)
    for _ in range(3):
        bench.supervisor.step()
        bench.unit.log_path.write_bytes(b"x" * 2_000)
    assert sum("cannot be rotated" in line for line in bench.progress.warned) == 1
