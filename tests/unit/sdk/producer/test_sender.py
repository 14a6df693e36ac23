"""Whatever Kafka does, the sender delivers each message at least once, under the same id, and
reports those that it cannot deliver.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worlds.producer_fakes import Clock, FailingFiles, FakeKafka, leave_as_a_dead_process_does
from usageledger.sdk.producer.outbox import Outbox
from usageledger.sdk.producer.publisher import Blame, Publisher
from usageledger.sdk.producer.sender import Sender, SenderSettings
from usageledger.sdk.producer.spool import Spool


class Rig:
    """A spool, a Kafka, a clock, and the sender between them, driven step by step."""

    def __init__(self, directory: Path, **settings: float) -> None:
        self.kafka = FakeKafka()
        self.clock = Clock()
        self.files = FailingFiles()
        self.spool = Spool(directory, files=self.files)
        self.settings = SenderSettings(**settings)  # type: ignore[arg-type]
        self.sender = self.new_sender()

    def new_sender(self) -> Sender:
        return Sender(self.spool, self.kafka.connect_to("t"), self.settings, clock=self.clock)

    def append(self, *values: bytes) -> None:
        for value in values:
            self.spool.append(b"acct_1", value)

    def step(self, times: int = 1, after_s: float = 0.0) -> None:
        for _ in range(times):
            self.clock.now += after_s
            self.sender.step()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, stuck_after_s=60, in_flight_max=100, unpark_every_s=1_000)
    yield rig
    rig.sender.stop(0)
    rig.spool.close()


def test_a_message_leaves_the_spool_only_when_it_is_acknowledged(rig: Rig) -> None:
    rig.kafka.answers = False
    rig.append(b"one", b"two")
    rig.step(3)
    assert rig.spool.figures().waiting == 2
    rig.kafka.connections[0].deliver()
    assert rig.spool.figures().waiting == 2, "the sender has not seen it yet"
    rig.step()
    assert rig.spool.figures().waiting == 0
    assert rig.kafka.values() == [b"one", b"two"]


def test_no_more_is_on_its_way_than_allowed(tmp_path: Path) -> None:
    rig = Rig(tmp_path, in_flight_max=3)
    rig.kafka.answers = False
    rig.append(*(b"%d" % number for number in range(10)))
    rig.step(3)
    assert len(rig.kafka.connections[0].held) == 3
    rig.kafka.connections[0].deliver()
    rig.step()
    assert rig.kafka.values() == [b"0", b"1", b"2"]
    assert len(rig.kafka.connections[0].held) == 3
    rig.spool.close()


def test_bytes_on_their_way_are_bounded_too(tmp_path: Path) -> None:
    rig = Rig(tmp_path, in_flight_bytes_max=100)
    rig.kafka.answers = False
    rig.append(*(b"x" * 60 for _ in range(5)))
    rig.step(3)
    assert len(rig.kafka.connections[0].held) == 2, "the second begins within the bound"
    rig.spool.close()


def test_a_message_whose_answer_was_lost_is_sent_again_as_it_was(rig: Rig) -> None:
    rig.kafka.loses_answers = 1
    rig.append(b"one", b"two")
    rig.step(2)
    rig.step(3, after_s=10)
    assert rig.kafka.values()[0] == b"one"
    assert sorted(set(rig.kafka.values())) == [b"one", b"two"]
    assert rig.kafka.values().count(b"one") == 2
    assert rig.spool.figures() == (0, 0, 0)


def test_after_a_failure_all_that_was_on_its_way_goes_out_again_in_order(rig: Rig) -> None:
    rig.kafka.answers = False
    rig.append(b"one", b"two", b"three")
    rig.step()
    first = rig.kafka.connections[0]
    rig.kafka.loses_answers = 2
    first.deliver()
    rig.append(b"four")
    rig.kafka.answers = True
    rig.step()
    assert first.is_closed
    rig.step(2, after_s=10)
    assert rig.kafka.values() == [b"one", b"two", b"three", b"one", b"two", b"four"]
    assert rig.spool.figures().waiting == 0


def test_a_connection_that_is_stuck_is_replaced_and_its_messages_sent_again(rig: Rig) -> None:
    rig.kafka.answers = False
    rig.append(b"one", b"two")
    rig.step()
    rig.step(after_s=60)
    assert len(rig.kafka.connections) == 1
    rig.kafka.answers = True
    rig.step(after_s=1)
    assert [connection.is_closed for connection in rig.kafka.connections] == [True, False]
    rig.step()
    assert rig.kafka.values() == [b"one", b"two"]
    assert rig.spool.figures().waiting == 0


def test_one_partition_that_is_stuck_shows_although_others_flow(rig: Rig) -> None:
    rig.kafka.answers = False
    rig.append(b"stuck")
    rig.step()
    held = rig.kafka.connections[0].held.pop()
    rig.kafka.answers = True
    for number in range(7):
        rig.append(b"flows %d" % number)
        rig.step(after_s=10)
    rig.step()
    assert len(rig.kafka.connections) == 2
    assert b"stuck" in rig.kafka.values()
    held[2](None)
    rig.step()
    assert rig.spool.figures().waiting == 0


def test_an_acknowledgement_that_comes_after_its_connection_was_replaced_counts(rig: Rig) -> None:
    rig.kafka.answers = False
    rig.append(b"one")
    rig.step()
    rig.step(after_s=61)
    rig.kafka.connections[0].deliver()
    rig.step()
    assert rig.spool.figures().waiting == 0
    rig.kafka.connections[1].deliver()
    rig.step()
    assert rig.kafka.values() == [b"one", b"one"], "a repeat under the same id"


def test_a_failure_told_by_a_replaced_connection_does_not_matter(rig: Rig) -> None:
    rig.kafka.answers = False
    rig.append(b"one")
    rig.step()
    rig.step(after_s=61)
    rig.kafka.loses_answers = 1
    rig.kafka.connections[0].deliver()
    rig.step()
    assert len(rig.kafka.connections) == 2
    assert not rig.kafka.connections[1].is_closed


def test_a_broker_that_is_down_is_tried_ever_less_often_and_then_gets_everything(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.kafka.is_down = True
    rig.append(b"one", b"two")
    rig.step(200, after_s=0.5)
    assert rig.sender.last_error == "no broker"
    warnings = [record for record in caplog.records if "wait on disk" in record.getMessage()]
    assert 1 <= len(warnings) <= 5, "reported, but not at every attempt"
    rig.kafka.is_down = False
    rig.step(22, after_s=0.5)
    assert rig.kafka.values() == [b"one", b"two"]
    assert rig.sender.last_error is None
    assert "again" in caplog.records[-1].getMessage()


def test_attempts_to_connect_are_spaced(rig: Rig) -> None:
    attempts = 0

    def connect() -> Publisher:
        nonlocal attempts
        attempts += 1
        return rig.kafka.connect_to("t")()

    rig.kafka.is_down = True
    sender = Sender(rig.spool, connect, rig.settings, clock=rig.clock)
    rig.append(b"one")
    for _ in range(1_000):
        rig.clock.now += 0.1
        sender.step()
    assert 12 <= attempts <= 30, "100 s"


@pytest.mark.parametrize("blame", [Blame.EVENT, Blame.UNCLEAR])
def test_one_message_that_the_broker_refuses_is_parked_and_the_others_pass(
    rig: Rig, blame: Blame, caplog: pytest.LogCaptureFixture
) -> None:
    """kafka-python fails every event on its way with the error of one. The others must not be
    parked for it.
    """
    rig.kafka.refuses = lambda value: value == b"bad"
    rig.kafka.refuses_with = blame
    rig.kafka.answers = False
    rig.append(b"one", b"bad", b"two", b"three")
    rig.step()
    rig.append(b"four")
    rig.kafka.connections[0].deliver()
    rig.kafka.answers = True
    for _ in range(60):
        rig.step(after_s=10)
        for connection in rig.kafka.connections:
            if not connection.is_closed:
                connection.deliver()
    assert rig.kafka.values() == [b"one", b"two", b"three", b"four"]
    assert rig.spool.figures() == (0, 0, 1)
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) >= 1
    assert "refuses an event of 'acct_1'" in told[0].getMessage()


def test_what_is_parked_is_tried_again_alone_and_arrives_when_the_reason_is_mended(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, unpark_every_s=300)
    rig.kafka.refuses = lambda value: value == b"bad"
    rig.append(b"bad")
    rig.step()
    rig.kafka.connections[0].deliver()
    rig.step(2)
    assert rig.spool.figures() == (0, 0, 1)
    rig.append(b"one")
    rig.step(2, after_s=301)
    rig.kafka.connections[-1].deliver()
    rig.step(2)
    assert rig.spool.figures().parked == 1, "refused again, and alone"
    assert rig.kafka.values() == [b"one"]
    rig.kafka.refuses = lambda value: False
    rig.step(3, after_s=301)
    assert rig.kafka.values() == [b"one", b"bad"]
    assert rig.spool.figures() == (0, 0, 0)
    rig.spool.close()


def test_a_topic_that_we_may_not_write_to_parks_nothing_and_keeps_the_order(rig: Rig) -> None:
    rig.kafka.refuses = lambda value: True
    rig.kafka.refuses_with = Blame.CONNECTION
    rig.append(b"one", b"two")
    for _ in range(5):
        rig.step(after_s=20)
        rig.kafka.connections[-1].deliver()
    assert rig.spool.figures().waiting == 2
    assert rig.spool.figures().parked == 0
    assert rig.sender.last_error is not None
    rig.kafka.refuses = lambda value: False
    rig.step(3, after_s=20)
    assert rig.kafka.values() == [b"one", b"two"]


def test_a_message_that_a_full_disk_cannot_park_stays_and_blocks_no_other(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.kafka.refuses = lambda value: value == b"bad"
    rig.append(b"bad")
    rig.step()
    rig.append(b"good")
    rig.files.error = OSError(28, "No space left on device")
    rig.kafka.connections[0].deliver()
    rig.step(2)
    assert rig.kafka.values() == [b"good"]
    assert rig.spool.figures().waiting == 1
    assert "could not be parked" in caplog.text
    assert rig.sender.oldest_written_ms() is not None
    rig.files.error = None
    rig.kafka.refuses = lambda value: False
    rig.step(3, after_s=1_001)
    assert rig.kafka.values() == [b"good", b"bad"]
    assert rig.spool.figures().waiting == 0


def test_what_a_process_that_has_ended_left_is_adopted_by_one_that_lives(tmp_path: Path) -> None:
    rig = Rig(tmp_path, adopt_every_s=30)
    other = Spool(tmp_path)
    other.append(b"acct_1", b"orphan")
    rig.step(2, after_s=31)
    assert rig.kafka.values() == []
    leave_as_a_dead_process_does(tmp_path)
    rig.step(2, after_s=31)
    assert b"orphan" in rig.kafka.values()
    rig.spool.close()
    other.after_fork_in_child()


def test_the_oldest_that_waits_is_known_wherever_it_is(rig: Rig) -> None:
    assert rig.sender.oldest_written_ms() is None
    rig.spool.append(b"k", b"one", now_ms=1_000)
    rig.spool.append(b"k", b"two", now_ms=2_000)
    assert rig.sender.oldest_written_ms() == 1_000, "in the spool"
    rig.kafka.answers = False
    rig.step()
    assert rig.sender.oldest_written_ms() == 1_000, "on its way"
    rig.kafka.is_down = True
    rig.step(after_s=61)
    assert rig.sender.oldest_written_ms() == 1_000, "to be sent again"
    rig.kafka.is_down = False
    rig.kafka.answers = True
    rig.step(2, after_s=20)
    assert rig.sender.oldest_written_ms() is None


@pytest.mark.peer_defect("OpenMeter #5118")
@pytest.mark.parametrize("crash_after", ["append", "send", "store", "answer", "settle"])
def test_a_crash_after_any_step_is_made_good_by_the_next_process(
    tmp_path: Path, crash_after: str
) -> None:
    """OpenMeter #5118, at the producer: an identity is never used up before its event is in the
    log.
    """
    rig = Rig(tmp_path)
    rig.kafka.answers = False
    rig.append(b"one", b"two")
    if crash_after != "append":
        rig.step()
    if crash_after in ("store", "answer", "settle"):
        [connection] = rig.kafka.connections
        rig.kafka.loses_answers = 2 if crash_after == "store" else 0
        connection.deliver()
    if crash_after == "settle":
        rig.step()
    rig.spool.after_fork_in_child()

    leave_as_a_dead_process_does(tmp_path)
    later = Rig(tmp_path)
    later.spool.adopt()
    later.step(3)
    every = rig.kafka.values() + later.kafka.values()
    assert sorted(set(every)) == [b"one", b"two"]
    assert len(every) == (2 if crash_after in ("append", "send", "settle") else 4)
    assert later.spool.figures().waiting == 0
    later.spool.close()


def test_a_flush_does_not_count_as_sent_what_is_tried_again_as_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that the broker refuses was sent once more just as a flush counted parked events.

    It found none, so the flush succeeded. The worker then deleted the events that it would have
    recorded again.
    """
    kafka = FakeKafka()
    kafka.answers = False
    spool = Spool(tmp_path)
    spool.append(b"acct_1", b"too large")
    spool.park(spool.read(1, 1_000)[0], "MessageSizeTooLarge")
    outbox = Outbox(spool, kafka.connect_to("usage"), SenderSettings(idle_s=0.01))
    gone = spool.gone

    def gone_and_unparked(paths: frozenset[Path]) -> bool:
        spool.unpark()
        return gone(paths)

    monkeypatch.setattr(spool, "gone", gone_and_unparked)
    assert not outbox.flush(time.monotonic() + 0.2)
    outbox.close(time.monotonic())
