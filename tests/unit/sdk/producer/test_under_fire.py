"""Recorded events are kept and sent, and refused ones are not stored, whatever the machine does."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.producer_fakes import (
    Clock,
    FailingFiles,
    FakeKafka,
    in_child,
    leave_as_a_dead_process_does,
)
from usageledger.sdk.producer import meter as meter_module
from usageledger.sdk.producer import segments
from usageledger.sdk.producer.meter import UsageMeter
from usageledger.sdk.producer.publisher import Blame, PublishError
from usageledger.sdk.producer.segments import Message
from usageledger.sdk.producer.sender import Sender, SenderSettings
from usageledger.sdk.producer.spool import Spool, SpoolError, SpoolFull

DEADLINE_S = 20.0
FULL = OSError(errno.ENOSPC, "no space")
BROKEN = OSError(errno.EIO, "input/output error")


def read_all(spool: Spool) -> list[Message]:
    return spool.read(1_000_000, 1 << 40)


def a_meter(kafka: FakeKafka, directory: Path, **settings: Any) -> UsageMeter:
    return UsageMeter(
        **{
            "source": "render",
            "spool_directory": directory,
            "connect_to": kafka.connect_to,
            "exit_timeout_s": 0.0,
            **settings,
        }
    )


# The disk.


def test_a_random_life_on_a_failing_disk_keeps_what_was_taken_and_nothing_else(
    tmp_path: Path, rng: random.Random
) -> None:
    """Appends, reads, settles, parks and crashes in random order, on a disk that is now and then
    full, short, broken, or unable to sync.
    """
    files = FailingFiles()
    spool = Spool(tmp_path, segment_bytes=300, durability="power", files=files)
    given_up: list[Spool] = []
    taken: set[bytes] = set()
    refused: set[bytes] = set()
    settled: set[bytes] = set()
    seen: Counter[bytes] = Counter()
    held: list[Message] = []
    for number in range(1_500):
        files.error = rng.choice([FULL, BROKEN]) if rng.random() < 0.1 else None
        files.sync_error = rng.choice([FULL, BROKEN]) if rng.random() < 0.1 else None
        files.takes_bytes = rng.randrange(30) if rng.random() < 0.05 else None
        action = rng.choices(
            ["append", "read", "settle", "park", "unpark", "roll", "crash"],
            [40, 20, 25, 4, 2, 4, 1],
        )[0]
        value = b"event %d" % number
        if action == "append":
            try:
                spool.append(b"account", value)
                taken.add(value)
            except SpoolError:
                refused.add(value)
        elif action == "read":
            held += spool.read(rng.randrange(1, 5), 1 << 20)
        elif action == "settle" and held:
            message = held.pop(rng.randrange(len(held)))
            spool.acknowledge(message)
            settled.add(message.value)
        elif action == "park" and held:
            message = held.pop()
            try:
                spool.park(message, "refused")
            except SpoolError:
                held.append(message)
        elif action == "unpark":
            spool.unpark()
        elif action == "roll":
            spool.roll()
        elif action == "crash":
            files.error = files.sync_error = files.takes_bytes = None
            spool.after_fork_in_child()
            given_up.append(spool)
            leave_as_a_dead_process_does(tmp_path)
            spool, held = Spool(tmp_path, segment_bytes=300, durability="power", files=files), []
            spool.adopt()
    files.error = files.sync_error = files.takes_bytes = None
    spool.unpark()
    held += read_all(spool)
    seen.update(message.value for message in held)
    assert not refused & (set(seen) | settled), "an event for which record raised is not stored"
    assert taken == set(seen) | settled, "an event for which record returned is sent or waits"
    rolled = spool.roll()
    for message in held:
        spool.acknowledge(message)
    assert spool.gone(rolled), "nothing is left that a flush would wait for"
    assert spool.figures() == (0, 0, 0)
    spool.close()
    assert not (tmp_path / "damaged").exists()


@pytest.mark.parametrize("fault", [FULL, BROKEN])
def test_a_file_whose_directory_cannot_be_synced_leaves_nothing_to_wait_for(
    tmp_path: Path, fault: OSError
) -> None:
    """Incident: a file was made, the sync of its directory failed, and the empty file stayed on the
    list of files to send. From then on each flush, and the end of the process, waited until its
    deadline, although everything was acknowledged.
    """
    files = FailingFiles()
    spool = Spool(tmp_path, durability="power", files=files)
    for _ in range(3):
        files.sync_error = fault
        with pytest.raises(SpoolError, match="NOT recorded"):
            spool.append(b"key", b"refused")
    files.sync_error = None
    assert list(tmp_path.rglob("*.segment")) == []
    spool.append(b"key", b"taken")
    rolled = spool.roll()
    [message] = read_all(spool)
    spool.acknowledge(message)
    assert spool.gone(rolled)
    spool.close()


def test_a_disk_that_fills_at_the_change_of_files_refuses_until_it_has_room(
    tmp_path: Path,
) -> None:
    files = FailingFiles()
    spool = Spool(tmp_path, segment_bytes=60, files=files)
    spool.append(b"key", b"before")
    files.error = FULL
    for _ in range(3):
        with pytest.raises(SpoolFull):
            spool.append(b"key", b"refused")
    files.error = None
    spool.append(b"key", b"after")
    messages = read_all(spool)
    assert [message.value for message in messages] == [b"before", b"after"]
    for message in messages:
        spool.acknowledge(message)
    assert spool.gone(spool.roll())
    spool.close()


def test_a_full_disk_hinders_neither_sending_nor_forgetting_what_was_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Noting an acknowledgement needs no room on the disk.

    If even that fails, the event is sent once more after a crash. It is logged once for each file.
    """
    files, kafka = FailingFiles(), FakeKafka()
    spool = Spool(tmp_path, files=files)
    sender = Sender(spool, kafka.connect_to("t"), clock=Clock())
    for number in range(50):
        spool.append(b"key", b"%d" % number)
    files.error = FULL
    for _ in range(3):
        sender.step()
    assert kafka.values() == [b"%d" % number for number in range(50)]
    assert spool.figures().waiting == 0
    assert caplog.text.count("could not mark") == 1
    sender.stop(0)


def test_a_file_that_cannot_be_removed_costs_nothing_but_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Incident: the file system became read-only after an error of the disk.

    Each finished file made the sender's round raise. For each, the sender replaced its connection
    and waited ten seconds.
    """
    kafka = FakeKafka()
    spool = Spool(tmp_path, segment_bytes=1)
    sender = Sender(spool, kafka.connect_to("t"), clock=Clock())
    for number in range(5):
        spool.append(b"key", b"%d" % number)

    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "read-only file system")

    monkeypatch.setattr(Path, "unlink", unlink)
    for _ in range(3):
        sender.step()
    assert kafka.values() == [b"%d" % number for number in range(5)]
    assert len(kafka.connections) == 1
    assert "could not be removed" in caplog.text
    monkeypatch.undo()
    sender.stop(0)


@pytest.mark.parametrize("byte", range(16))
def test_one_spoiled_event_costs_no_other_whichever_of_its_bytes_it_is(
    tmp_path: Path, byte: int
) -> None:
    """Incident: a damaged length made the rest of the file look like an append that was cut off.
    The sender removed it silently, with every later event.
    """
    dead = Spool(tmp_path)
    for number in range(9):
        dead.append(b"key", b"event %d" % number)
    [file] = tmp_path.rglob("*.segment")
    written = bytearray(file.read_bytes())
    frame_bytes = len(written) // 9
    written[4 * frame_bytes + byte] ^= 0x40
    file.write_bytes(written)
    leave_as_a_dead_process_does(tmp_path)
    spool = Spool(tmp_path)
    spool.adopt()
    assert [message.value for message in read_all(spool)] == [
        b"event %d" % number for number in range(9) if number != 4
    ]
    assert (tmp_path / "damaged").exists()
    spool.close()
    dead.after_fork_in_child()


def test_a_place_that_cannot_be_read_does_not_hold_up_what_lies_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Incident: a bad sector made each of the sender's rounds raise at the same offset, so nothing
    was sent any more.
    """
    kafka = FakeKafka()
    spool = Spool(tmp_path, segment_bytes=1)
    sender = Sender(spool, kafka.connect_to("t"), clock=Clock())
    for value in (b"first", b"on a bad sector", b"third"):
        spool.append(b"key", value)
    bad = sorted(tmp_path.rglob("*.segment"))[1].stat().st_ino
    pread = os.pread

    def failing_pread(fd: int, count: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == bad:
            raise BROKEN
        return pread(fd, count, offset)

    monkeypatch.setattr(os, "pread", failing_pread)
    for _ in range(3):
        sender.step()
    assert kafka.values() == [b"first", b"third"]
    assert "1 events are NOT sent" in caplog.text
    [kept] = (tmp_path / "damaged").iterdir()
    assert b"on a bad sector" in kept.read_bytes()
    monkeypatch.undo()
    sender.stop(0)


def test_any_bytes_at_all_can_lie_in_a_file_and_what_is_legible_is_found(
    rng: random.Random,
) -> None:
    for _ in range(300):
        frames = [
            segments.pack(b"key", rng.randbytes(rng.randrange(40)), "", number)
            for number in range(rng.randrange(1, 6))
        ]
        parts = [
            piece
            for frame in frames
            for piece in (bytes(rng.randrange(256) for _ in range(rng.randrange(8))), frame)
        ]
        found = list(segments.frames(b"".join(parts)))
        assert [frame.written_ms for frame in found] == list(range(len(frames)))


# The process.


def test_a_signal_handler_that_interrupts_record_is_refused_and_does_not_hang(
    tmp_path: Path,
) -> None:
    """Incident: on SIGTERM a worker closed its meter in the handler.

    The signal had come in the middle of `record`, in the same thread. The handler waited for ever
    for a lock that its own thread held.
    """

    class Interrupted(FailingFiles):
        def sync(self, fd: int) -> None:
            if handle is not None:
                handle()

    handle: Any = None
    spool = Spool(tmp_path, durability="power", files=Interrupted())
    refused: list[str] = []

    def handler() -> None:
        for call in (lambda: spool.append(b"key", b"from the handler"), spool.roll, spool.close):
            with pytest.raises(SpoolError, match="signal handler"):
                call()
            refused.append("refused")
        assert not spool.before_fork(), "nor does a fork wait for itself"

    handle = handler
    spool.append(b"key", b"interrupted")
    handle = None
    assert len(refused) >= 3
    assert [message.value for message in read_all(spool)] == [b"interrupted"]
    spool.close()


def test_a_process_that_is_told_to_end_keeps_what_it_recorded(tmp_path: Path) -> None:
    """SIGTERM in the middle of recording, with no handler, with one that raises SystemExit, and
    with one that closes the meter.
    """
    script = """
import os, signal, sys
from pathlib import Path
from tests.worlds.producer_fakes import FakeKafka
from usageledger.sdk.producer.meter import UsageMeter

kafka = FakeKafka()
kafka.is_down = True
meter = UsageMeter(
    source="render",
    spool_directory=sys.argv[1],
    connect_to=kafka.connect_to,
    exit_timeout_s=0.1,
)

def end(signum, frame):
    if sys.argv[2] == "close":
        meter.close(0.1)
    sys.exit(0)

if sys.argv[2] != "none":
    signal.signal(signal.SIGTERM, end)
number = 0
while True:
    id = meter.record(account="acct_1", feature="genai_image", id=f"gen_{number}")
    os.write(1, b"%s\\n" % id.encode())
    number += 1
"""
    paths = os.pathsep.join([str(Path(__file__).parents[4]), *(path for path in sys.path if path)])
    for way in ("none", "exit", "close"):
        directory = tmp_path / way
        command = [sys.executable, "-c", script, str(directory), way]
        with subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None
            recorded = [process.stdout.readline() for _ in range(200)]
            process.send_signal(signal.SIGTERM)
            recorded += [line for line in process.stdout if line.endswith(b"\n")]
            process.wait(DEADLINE_S)
        kafka = FakeKafka()
        with a_meter(kafka, directory) as meter:
            assert meter.flush(DEADLINE_S)
        sent = [event["id"] for event in kafka.events()]
        assert [line.decode().strip() for line in recorded] == sent[: len(recorded)]
        assert len(sent) <= len(recorded) + 1, "at most the one whose `record` was interrupted"


def test_voids_that_a_killed_process_left_are_sent_by_one_that_only_records(tmp_path: Path) -> None:
    """Incident: a parent that only records sent no voids. The voids of a killed worker waited on
    disk until some process was started again.
    """
    kafka = FakeKafka()
    meter = a_meter(kafka, tmp_path, sender_settings=SenderSettings(adopt_every_s=0.0, idle_s=0.01))

    def work() -> None:
        kafka.is_down = True
        meter.void(account="acct_1", id="gen_1", reason="black frames")
        os.kill(os.getpid(), 9)

    assert in_child(work) == -9
    assert kafka.stored.wait(DEADLINE_S)
    assert [event["type"] for event in kafka.events()] == ["usage.voided"]
    meter.close(DEADLINE_S)


def test_two_threads_that_fork_at_once_leave_record_free(tmp_path: Path) -> None:
    """Incident: two forks in two threads noted the locks that they held in the same variable. The
    first then released none, and `record` waited for ever.
    """
    meter = a_meter(FakeKafka(), tmp_path)
    forks = meter_module._forks

    def fork() -> None:
        forks._before()
        forks._after_in_parent()

    forks._before()
    try:
        # It begins while the first holds every lock, and gives up waiting after a second.
        other = threading.Thread(target=fork)
        other.start()
        other.join(DEADLINE_S)
        assert not other.is_alive()
    finally:
        forks._after_in_parent()
    recording = threading.Thread(
        target=meter.record,
        kwargs={"account": "acct_1", "feature": "genai_image", "id": "gen_1"},
        daemon=True,
    )
    recording.start()
    recording.join(DEADLINE_S)
    assert not recording.is_alive()
    assert meter.close(DEADLINE_S)


def test_a_pool_of_forked_workers_that_end_without_clean_up_loses_nothing(
    tmp_path: Path,
) -> None:
    """multiprocessing ends its children by os._exit: nothing registered with atexit runs there."""
    kafka = FakeKafka()
    meter = a_meter(kafka, tmp_path)

    def work(name: int) -> None:
        kafka.is_down = True
        for number in range(20):
            meter.record(account="acct_1", feature="genai_image", id=f"{name}_{number}")
        os._exit(0)

    assert [in_child(partial(work, name)) for name in range(6)] == [0] * 6
    assert meter.close(DEADLINE_S)
    with a_meter(kafka, tmp_path) as later:
        assert later.flush(DEADLINE_S)
    assert sorted(event["id"] for event in kafka.events()) == sorted(
        f"{name}_{number}" for name in range(6) for number in range(20)
    )


def test_the_first_record_of_a_forked_child_does_not_wait_for_what_others_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Incident: a child's first `record` read every file left in the directory, up to a gigabyte,
    before it returned.
    """
    dead = Spool(tmp_path / "usage.events.v1")
    dead.append(b"acct_1", b'{"id":"left"}')
    leave_as_a_dead_process_does(tmp_path / "usage.events.v1")
    reading, go_on = threading.Event(), threading.Event()
    scan = segments.scan

    def slow_scan(path: Path) -> tuple[segments.Segment, bool]:
        reading.set()
        assert go_on.wait(DEADLINE_S)
        return scan(path)

    monkeypatch.setattr(segments, "scan", slow_scan)
    kafka = FakeKafka()
    meter = a_meter(kafka, tmp_path)
    assert reading.wait(DEADLINE_S)
    meter.record(account="acct_1", feature="genai_image", id="first")
    assert not meter.flush(0.01), "the events found on disk are not sent yet"
    go_on.set()
    assert meter.flush(DEADLINE_S)
    assert [event["id"] for event in kafka.events()] == ["left", "first"]
    meter.close(DEADLINE_S)
    dead.after_fork_in_child()


def test_two_meters_of_one_process_share_a_directory_and_send_each_event_once(
    tmp_path: Path,
) -> None:
    kafka = FakeKafka()
    settings = SenderSettings(adopt_every_s=0.0, idle_s=0.001)
    meters = [a_meter(kafka, tmp_path, sender_settings=settings) for _ in range(3)]
    for number in range(60):
        meters[number % 3].record(account="acct_1", feature="genai_image", id=f"gen_{number}")
    assert all(meter.close(DEADLINE_S) for meter in meters)
    assert sorted(event["id"] for event in kafka.events()) == sorted(
        f"gen_{number}" for number in range(60)
    )
    assert list(tmp_path.rglob("*.segment")) == []


def test_a_storm_of_threads_into_a_spool_that_fills_and_empties_loses_nothing(
    tmp_path: Path,
) -> None:
    kafka = FakeKafka()
    meter = a_meter(
        kafka, tmp_path, spool_count_max=50, sender_settings=SenderSettings(in_flight_max=10)
    )
    recorded: list[list[str]] = [[] for _ in range(16)]

    def work(thread: int) -> None:
        for number in range(60):
            id = f"{thread}_{number}"
            try:
                recorded[thread].append(
                    meter.record(account=f"acct_{thread}", feature="genai_image", id=id)
                )
            except SpoolFull:
                continue

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert meter.close(DEADLINE_S)
    for number, ids in enumerate(recorded):
        assert [
            event["id"] for event in kafka.events() if event["subject"] == f"acct_{number}"
        ] == ids


# The clock.


def test_a_clock_that_is_stepped_moves_the_events_times_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day forward, then two back, while events wait: each is sent, in the order recorded, with
    the time that the clock said.
    """
    kafka = FakeKafka()
    kafka.is_down = True
    now = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
    step, *_ = steps = [
        timedelta(0),
        timedelta(days=1),
        timedelta(days=-1),
        timedelta(days=-400),
        timedelta(days=400),
    ]
    wall = time.time
    with a_meter(
        kafka, tmp_path, clock=lambda: now + step, sender_settings=SenderSettings(idle_s=0.01)
    ) as meter:
        for number, step in enumerate(steps):
            monkeypatch.setattr(
                time, "time_ns", lambda step=step: int((wall() + step.total_seconds()) * 1e9)
            )
            meter.record(account="acct_1", feature="genai_image", id=f"gen_{number}")
            assert meter.waiting().age_s >= 0
        monkeypatch.undo()
        kafka.is_down = False
        assert meter.flush(DEADLINE_S)
    events = kafka.events()
    assert [event["id"] for event in events] == [f"gen_{number}" for number in range(5)]
    assert [event["time"] for event in events] == [
        (now + step).strftime("%Y-%m-%dT%H:%M:%SZ") for step in steps
    ]
    assert [event["recordedtime"] for event in events] == [event["time"] for event in events]


def test_the_parts_of_a_process_whose_clock_was_set_back_are_adopted_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up = []
    for days in (0, 30, -30):
        monkeypatch.setattr(
            time, "time_ns", lambda days=days: 1_800_000_000_000_000_000 + days * 86_400_000_000_000
        )
        dead = Spool(tmp_path)
        dead.append(b"key", b"%d" % days)
        given_up.append(dead)
    monkeypatch.undo()
    leave_as_a_dead_process_does(tmp_path)
    spool = Spool(tmp_path)
    assert spool.adopt() == 3
    assert sorted(message.value for message in read_all(spool)) == [b"-30", b"0", b"30"]
    spool.close()
    for dead in given_up:
        dead.after_fork_in_child()


# The connection.


def test_a_failure_that_a_late_acknowledgement_has_overtaken_changes_nothing(
    tmp_path: Path,
) -> None:
    """Incident: the new connection refused a message just as the stuck one acknowledged it. The
    sender looked for it among the messages to repeat, where it no longer was. That raised, and the
    sender paused for ten seconds.
    """
    kafka, clock = FakeKafka(), Clock()
    kafka.answers = False
    spool = Spool(tmp_path)
    sender = Sender(spool, kafka.connect_to("t"), SenderSettings(stuck_after_s=60), clock=clock)
    spool.append(b"key", b"event")
    sender.step()
    [(_, _, stuck_done)] = kafka.connections[0].held
    clock.now += 61
    sender.step()
    [(_, _, new_done)] = kafka.connections[1].held
    new_done(PublishError("MessageSizeTooLarge", Blame.EVENT))
    stuck_done(None)
    sender.step()
    assert spool.figures() == (0, 0, 0)
    assert sender.last_error is None
    sender.stop(0)
