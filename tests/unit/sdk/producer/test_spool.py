"""The spool keeps each message that it accepted until the message is settled, even if the process
is killed or the disk is full.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worlds.producer_fakes import FailingFiles, in_child, leave_as_a_dead_process_does
from usageledger.sdk.producer.segments import Message
from usageledger.sdk.producer.spool import Spool, SpoolError, SpoolFull


def read_all(spool: Spool) -> list[Message]:
    return spool.read(1_000_000, 1 << 40)


def values(messages: list[Message]) -> list[bytes]:
    return [message.value for message in messages]


def test_what_was_appended_is_in_a_file_before_append_returns(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(b"acct_1", b"the event")
    assert [b"the event" in path.read_bytes() for path in tmp_path.rglob("*.segment")] == [True]
    spool.close()


def test_messages_come_out_once_and_in_the_order_they_went_in(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=200)
    for number in range(50):
        spool.append(b"key", b"%d" % number)
    read = [*spool.read(7, 1 << 20), *spool.read(1_000, 300), *read_all(spool)]
    assert values(read) == [b"%d" % number for number in range(50)]
    assert [message.key for message in read] == [b"key"] * 50
    assert read_all(spool) == []
    spool.append(b"key", b"later")
    assert values(read_all(spool)) == [b"later"]
    spool.close()


def test_a_settled_message_is_gone_and_so_is_its_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=100)
    for number in range(10):
        spool.append(b"key", b"%d" % number)
    for message in read_all(spool):
        spool.acknowledge(message)
        spool.acknowledge(message)
    assert spool.figures() == (0, 0, 0)
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_left_comes_first_and_without_what_was_settled(tmp_path: Path) -> None:
    dead = Spool(tmp_path, segment_bytes=150)
    for number in range(10):
        dead.append(b"key", b"%d" % number)
    for message in dead.read(4, 1 << 20)[1:3]:
        dead.acknowledge(message)
    leave_as_a_dead_process_does(tmp_path)

    spool = Spool(tmp_path)
    spool.append(b"key", b"new")
    assert spool.adopt() == 8
    assert spool.figures().waiting == 9
    read = read_all(spool)
    assert values(read) == [b"0", b"3", b"4", b"5", b"6", b"7", b"8", b"9", b"new"]
    for message in read:
        spool.acknowledge(message)
    spool.close()
    dead.after_fork_in_child()
    assert list(tmp_path.iterdir()) == []


def test_what_a_live_process_owns_is_not_adopted(tmp_path: Path) -> None:
    owner, other = Spool(tmp_path), Spool(tmp_path)
    owner.append(b"key", b"mine")
    assert other.adopt() == 0
    assert in_child(lambda: _assert_equal(Spool(tmp_path).adopt(), 0)) == 0
    owner.close()
    assert other.adopt() == 1
    other.close()


def test_a_killed_process_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    def append_and_die() -> None:
        spool = Spool(tmp_path)
        for number in range(100):
            spool.append(b"key", b"%d" % number)
        os.kill(os.getpid(), 9)

    assert in_child(append_and_die) == -9
    spool = Spool(tmp_path)
    assert spool.adopt() == 100
    assert values(read_all(spool)) == [b"%d" % number for number in range(100)]
    spool.close()


def test_a_message_cut_off_by_a_crash_was_never_recorded_and_harms_no_other(
    tmp_path: Path,
) -> None:
    dead = Spool(tmp_path)
    for value in (b"first", b"second", b"cut off"):
        dead.append(b"key", value)
    [file] = tmp_path.rglob("*.segment")
    whole = file.read_bytes()
    leave_as_a_dead_process_does(tmp_path)
    start = whole.index(b"cut off") - 25
    for length in range(start + 1, len(whole)):
        file.write_bytes(whole[:length])
        spool = Spool(tmp_path)
        spool.adopt()
        assert values(read_all(spool)) == [b"first", b"second"]
        assert not (tmp_path / "damaged").exists()
        spool.close()
    dead.after_fork_in_child()


def test_a_file_that_the_disk_damaged_is_kept_and_its_legible_events_are_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = Spool(tmp_path)
    for value in (b"first", b"spoiled", b"third"):
        dead.append(b"key", value)
    [file] = tmp_path.rglob("*.segment")
    file.write_bytes(file.read_bytes().replace(b"spoiled", b"Spoiled"))
    leave_as_a_dead_process_does(tmp_path)

    spool = Spool(tmp_path)
    spool.adopt()
    assert values(read_all(spool)) == [b"first", b"third"]
    [kept] = (tmp_path / "damaged").iterdir()
    assert b"Spoiled" in kept.read_bytes()
    assert "cannot be read" in caplog.text
    spool.close()
    dead.after_fork_in_child()


def test_damage_under_a_live_process_is_told_and_does_not_stop_what_comes_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path)
    for value in (b"first", b"spoiled", b"third"):
        spool.append(b"key", value)
    [file] = tmp_path.rglob("*.segment")
    with file.open("r+b") as opened:
        opened.seek(file.read_bytes().index(b"spoiled"))
        opened.write(b"X")
    first, third = read_all(spool)
    assert third.value == b"third"
    spool.append(b"key", b"later")
    assert values(read_all(spool)) == [b"later"]
    assert "1 events are NOT sent" in caplog.text
    assert spool.figures().waiting == 3
    spool.acknowledge(first)
    assert spool.figures().waiting == 2
    spool.close()


@pytest.mark.parametrize(("count_max", "bytes_max"), [(3, 1 << 20), (1_000, 100)])
def test_a_full_spool_refuses_loudly_and_has_room_again_once_kafka_took_something(
    tmp_path: Path, count_max: int, bytes_max: int
) -> None:
    spool = Spool(tmp_path, count_max=count_max, bytes_max=bytes_max)
    for _ in range(3):
        spool.append(b"key", b"event")
    with pytest.raises(SpoolFull, match=r"NOT recorded.*full.*spool_bytes_max"):
        spool.append(b"key", b"event")
    assert spool.figures().waiting == 3
    for message in read_all(spool):
        spool.acknowledge(message)
    spool.append(b"key", b"again")
    assert values(read_all(spool)) == [b"again"]
    spool.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_refuses_loudly_and_spoils_nothing(tmp_path: Path, code: int) -> None:
    files = FailingFiles()
    spool = Spool(tmp_path, files=files)
    spool.append(b"key", b"before")
    files.error = OSError(code, "no space")
    with pytest.raises(SpoolFull, match=r"NOT recorded.*disk"):
        spool.append(b"key", b"lost")
    files.error = None
    spool.append(b"key", b"after")
    assert values(read_all(spool)) == [b"before", b"after"]
    spool.close()


def test_a_message_of_which_the_disk_took_a_part_is_taken_back(tmp_path: Path) -> None:
    files = FailingFiles()
    spool = Spool(tmp_path, files=files)
    spool.append(b"key", b"before")
    [file] = tmp_path.rglob("*.segment")
    size = file.stat().st_size
    files.takes_bytes = 5
    with pytest.raises(SpoolFull):
        spool.append(b"key", b"lost")
    assert file.stat().st_size == size
    files.takes_bytes = None
    spool.append(b"key", b"after")
    assert values(read_all(spool)) == [b"before", b"after"]
    spool.close()


def test_a_disk_that_fails_is_an_error_that_says_nothing_was_recorded(tmp_path: Path) -> None:
    files = FailingFiles()
    spool = Spool(tmp_path, files=files)
    files.error = OSError(errno.EIO, "broken")
    with pytest.raises(SpoolError, match="NOT recorded") as caught:
        spool.append(b"key", b"lost")
    assert not isinstance(caught.value, SpoolFull)
    files.error = None
    spool.close()


def test_a_directory_that_cannot_be_used_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match="cannot be written"):
        Spool(tmp_path / "file")


def test_what_must_survive_the_machine_is_synced_with_each_append(tmp_path: Path) -> None:
    files = FailingFiles()
    spool = Spool(tmp_path, durability="power", files=files)
    before = files.synced
    spool.append(b"key", b"one")
    spool.append(b"key", b"two")
    assert files.synced - before == 3, "a new file's directory, and each append"
    spool.close()


def test_a_parked_message_waits_apart_and_comes_back_behind_the_others(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for value in (b"bad", b"good"):
        spool.append(b"key", value)
    bad, good = read_all(spool)
    spool.park(bad, "too large")
    spool.acknowledge(good)
    assert spool.figures() == (0, 0, 1)
    spool.append(b"key", b"new")
    assert spool.unpark() == 1
    assert spool.figures().parked == 0
    assert values(read_all(spool)) == [b"new", b"bad"]
    spool.close()


def test_what_was_parked_survives_its_process_with_the_reason(tmp_path: Path) -> None:
    dead = Spool(tmp_path)
    dead.append(b"key", b"bad")
    dead.park(read_all(dead)[0], "too large for the broker")
    leave_as_a_dead_process_does(tmp_path)
    assert any(
        b"too large for the broker" in path.read_bytes() for path in tmp_path.rglob("*.parked")
    )
    spool = Spool(tmp_path)
    assert spool.adopt() == 1
    assert values(read_all(spool)) == [b"bad"]
    spool.close()
    dead.after_fork_in_child()


@pytest.mark.parametrize("steps", range(5))
def test_a_crash_between_any_two_steps_loses_no_message_and_repeats_it_at_most(
    tmp_path: Path, steps: int
) -> None:
    """append, read, append, park, settle: the child is killed after each of them in turn."""

    def live_and_die() -> None:
        spool = Spool(tmp_path)
        read: list[Message] = []
        work: list[Callable[[], object]] = [
            lambda: spool.append(b"key", b"one"),
            lambda: read.extend(read_all(spool)),
            lambda: spool.append(b"key", b"two"),
            lambda: spool.park(read[0], "refused"),
            lambda: read.extend(read_all(spool)),
        ]
        for step in work[: steps + 1]:
            step()
        os.kill(os.getpid(), 9)

    assert in_child(live_and_die) == -9
    spool = Spool(tmp_path)
    spool.adopt()
    assert sorted(values(read_all(spool))) == ([b"one"] if steps < 2 else [b"one", b"two"])
    spool.close()


def test_files_that_were_rolled_are_gone_when_all_in_them_is_settled(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(b"key", b"before")
    files = spool.roll()
    spool.append(b"key", b"after")
    before, after = read_all(spool)
    spool.acknowledge(after)
    assert not spool.gone(files)
    spool.acknowledge(before)
    assert spool.gone(files)
    assert spool.gone(spool.roll() - spool.roll())
    spool.close()


def test_a_closed_spool_takes_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.close()
    with pytest.raises(SpoolError, match="closed"):
        spool.append(b"key", b"late")


def test_a_forked_child_keeps_no_hold_on_its_parents_messages(tmp_path: Path) -> None:
    """The parent is killed while its child lives on: the child's copy of the lock must not keep the
    messages from adoption.
    """
    ready, ready_child = os.pipe()
    end_child, end = os.pipe()

    def parent() -> None:
        spool = Spool(tmp_path)
        spool.append(b"key", b"mine")
        if os.fork() == 0:
            os.close(end)
            spool.after_fork_in_child()
            os.write(ready_child, b"!")
            os.read(end_child, 1)
            os._exit(0)
        os.read(ready, 1)
        os.kill(os.getpid(), 9)

    try:
        assert in_child(parent) == -9
        spool = Spool(tmp_path)
        assert spool.adopt() == 1
        spool.close()
    finally:
        for fd in (ready, ready_child, end_child, end):
            os.close(fd)


def _assert_equal(found: object, wanted: object) -> None:
    assert found == wanted
