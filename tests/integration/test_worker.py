"""The worker on a real broker: which records it feeds its owners, through restarts, rebalances and
failures.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import NewPartitions

from tests.integration.freezing import broker_pid, frozen
from tests.integration.recording_owner import (
    CHUNK_RECORDS,
    RecordingOwner,
    recording_owners,
    valid_entries,
)
from usageledger.ledger.records import Record, Superseded
from usageledger.log.kafka_ledger import KafkaLedgerPartition
from usageledger.log.topics import Topics, processor_group
from usageledger.processor.catch_up import PartitionStopped
from usageledger.processor.health import WorkerHealth
from usageledger.processor.inputs import Source
from usageledger.processor.worker import OwnerFactory, WorkerFailed, run_worker
from usageledger.runtime.kafka_connection import KafkaConnection

__all__ = ["broker_pid"]

REPOSITORY = Path(__file__).parents[2]
STUCK_S = 5.0
"""How long a partition may make no progress, where a test waits for longer than that. A busy
machine needs a second for a few records.
"""


class Stream:
    """Numbered records sent to the partitions of a ledger's two inputs, and the check that each was
    recorded once, in order.
    """

    def __init__(self, kafka: KafkaConnection, prefix: str, partitions: int) -> None:
        self.kafka, self.topics, self.partitions = kafka, Topics(prefix), partitions
        self.sent = {(source, partition): 0 for source in Source for partition in range(partitions)}

    def send(self, count: int, *, source: Source = Source.USAGE, size: int = 0) -> None:
        """Send a number of events to each partition of an input, with ``size`` bytes of padding."""
        topic = self.topics.usage if source is Source.USAGE else self.topics.account
        producer = KafkaProducer(**self.kafka.for_kafka_python(), linger_ms=5)
        try:
            for partition in range(self.partitions):
                first = self.sent[source, partition]
                for number in range(first, first + count):
                    producer.send(
                        topic,
                        value=f"{number} {'x' * size}".encode(),
                        key=b"acct",
                        partition=partition,
                    )
                self.sent[source, partition] += count
            producer.flush(timeout=60)
        finally:
            producer.close(timeout=60)

    def send_in_a_transaction(self, *, partition: int) -> None:
        """Send one record to a partition of the usage topic, and commit the transaction that it is
        sent in.
        """
        producer = KafkaProducer(
            **self.kafka.for_kafka_python(), transactional_id=f"{self.topics.prefix}-transactions"
        )
        try:
            producer.init_transactions()
            producer.begin_transaction()
            number = self.sent[Source.USAGE, partition]
            producer.send(
                self.topics.usage, value=f"{number} ".encode(), key=b"acct", partition=partition
            )
            producer.commit_transaction()
            self.sent[Source.USAGE, partition] += 1
        finally:
            producer.close(timeout=60)

    async def recorded(self) -> dict[tuple[Source, int], list[int]]:
        """The numbers that the ledger's valid entries hold, in order, of each input partition."""
        found: dict[tuple[Source, int], list[int]] = {place: [] for place in self.sent}
        for partition in range(self.partitions):
            ledger = KafkaLedgerPartition(
                kafka=self.kafka, topic=self.topics.ledger, partition=partition
            )
            for entry in await valid_entries(ledger):
                found[Source(entry["source"]), partition] += [
                    int(value.split()[0]) for value in entry["values"]
                ]
        return found

    async def all_recorded(self, within_s: float = 60) -> None:
        """Wait until the ledger has as many records as were sent; each must be there once, in
        order.
        """
        deadline = time.monotonic() + within_s
        while sum(map(len, (found := await self.recorded()).values())) < sum(self.sent.values()):
            counts = {place: len(numbers) for place, numbers in found.items()}
            assert time.monotonic() < deadline, f"recorded {counts} of {self.sent}"
            await asyncio.sleep(0.2)
        assert found == {place: list(range(count)) for place, count in self.sent.items()}

    def group_offsets(self) -> dict[tuple[Source, int], int]:
        """The offsets that the consumer group has committed, as lag tools see them."""
        sources = {self.topics.usage: Source.USAGE, self.topics.account: Source.ACCOUNT}
        with KafkaAdminClient(**self.kafka.for_kafka_python()) as admin:
            listed = admin.list_group_offsets(processor_group(self.topics.prefix))
        offsets = listed[processor_group(self.topics.prefix)]
        return {
            (sources[place.topic], place.partition): found.offset
            for place, found in offsets.items()
        }

    def group_members(self) -> list[Any]:
        """The members that the consumer group has now."""
        group = processor_group(self.topics.prefix)
        with KafkaAdminClient(**self.kafka.for_kafka_python()) as admin:
            members: list[Any] = admin.describe_groups([group])[group]["members"]
        return members


@pytest.fixture
def stream(kafka: KafkaConnection, prefix: str, request: pytest.FixtureRequest) -> Stream:
    marked = request.node.get_closest_marker("partitions")
    return Stream(kafka, prefix, marked.args[0] if marked else 2)


class RunningWorker:
    """A worker in this process, its owners and its latest health."""

    def __init__(
        self, task: asyncio.Task[None], stop: asyncio.Event, owners: list[RecordingOwner]
    ) -> None:
        self.task, self._stop, self.owners = task, stop, owners
        self.health = WorkerHealth(partitions=())

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.wait_for(self.task, 60)

    def states(self) -> dict[int, str]:
        return {partition.partition: partition.state for partition in self.health.partitions}


@asynccontextmanager
async def worker(
    stream: Stream,
    owner_factory: OwnerFactory | None = None,
    *,
    stuck_s: float = 60,
    **options: Any,
) -> AsyncIterator[RunningWorker]:
    """A running worker with recording owners, stopped at the end if it has not ended by itself."""
    owners: list[RecordingOwner] = []
    stop = asyncio.Event()
    factory = owner_factory or recording_owners(
        stream.kafka, stream.topics.prefix, owners, **options
    )

    def note_health(health: WorkerHealth) -> None:
        running.health = health

    work = run_worker(
        kafka=stream.kafka,
        prefix=stream.topics.prefix,
        owner_factory=factory,
        stop=stop,
        on_partitions=note_health,
        stuck_s=stuck_s,
    )
    running = RunningWorker(asyncio.create_task(work), stop, owners)
    try:
        yield running
    finally:
        stop.set()
        await asyncio.wait({running.task}, timeout=60)
        assert running.task.done()


async def until(condition: Callable[[], object], within_s: float = 40) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        await asyncio.sleep(0.05)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 150))


def test_every_record_of_both_inputs_is_fed_once_and_in_order(stream: Stream) -> None:
    async def work() -> None:
        stream.send(3_000)
        async with worker(stream) as running:
            await stream.all_recorded()
            stream.send(1_500)
            stream.send(700, source=Source.ACCOUNT)
            await stream.all_recorded()
            await running.stop()

    run(work())


def test_a_new_worker_goes_on_from_the_ledger_and_not_from_group_offsets(
    stream: Stream,
) -> None:
    async def work() -> None:
        stream.send(1_000)
        async with worker(stream) as first:
            await stream.all_recorded()
            await first.stop()
        misled = KafkaAdminClient(**stream.kafka.for_kafka_python())
        misled.delete_groups([processor_group(stream.topics.prefix)])
        misled.close()
        stream.send(500)
        async with worker(stream) as second:
            await stream.all_recorded()
            assert [owner.begun_at for owner in second.owners] == [
                [{Source.USAGE: 1_000, Source.ACCOUNT: 0}]
            ] * 2

    run(work())


def test_a_full_buffer_holds_its_partition_back_and_loses_nothing(stream: Stream) -> None:
    async def slowly(_: RecordingOwner, __: list[Record]) -> None:
        await asyncio.sleep(0.01)

    async def work() -> None:
        stream.send(12_000, size=300)
        async with worker(stream, records_max=1_000, before_append=slowly):
            await stream.all_recorded()

    run(work())


def test_an_owner_that_seeks_back_during_fetches_gets_each_record_once(
    stream: Stream,
) -> None:
    """After a lost claim the owner forgets everything and begins again from the ledger, while
    fetched chunks still arrive.
    """

    async def claim_again_now_and_then(owner: RecordingOwner, _: list[Record]) -> None:
        if len(owner.begun_at) < 12 and owner.records_seen > 900 * len(owner.begun_at):
            raise Superseded("as if another had claimed")

    async def work() -> None:
        stream.send(10_000, size=200)
        async with worker(stream, before_append=claim_again_now_and_then) as running:
            await stream.all_recorded()
            assert all(len(owner.begun_at) == 12 for owner in running.owners)

    run(work())


@pytest.mark.partitions(4)
def test_two_workers_share_the_partitions_in_pairs_and_lose_nothing(stream: Stream) -> None:
    async def work() -> None:
        stream.send(2_000)
        async with worker(stream) as first:
            await until(lambda: len(first.states()) == 4)
            async with worker(stream) as second:
                await until(lambda: len(first.states()) == len(second.states()) == 2)
                stream.send(2_000)
                stream.send(500, source=Source.ACCOUNT)
                await until(
                    lambda: {*first.states().values(), *second.states().values()} == {"running"}
                )
                assert sorted([*first.states(), *second.states()]) == [0, 1, 2, 3]
                await stream.all_recorded()
                await second.stop()
            stream.send(1_000)
            await until(lambda: len(first.states()) == 4)
            await stream.all_recorded()

    run(work())


def test_lag_tools_see_what_is_decided_also_where_nothing_more_comes(stream: Stream) -> None:
    async def work() -> None:
        stream.send(1_234)
        async with worker(stream) as running:
            await stream.all_recorded()
            decided = {
                (Source.USAGE, 0): 1_234,
                (Source.USAGE, 1): 1_234,
                (Source.ACCOUNT, 0): 0,
                (Source.ACCOUNT, 1): 0,
            }
            await until(lambda: stream.group_offsets() == decided)
            await until(
                lambda: (
                    {
                        (each.usage_lag_records, each.account_lag_records)
                        for each in running.health.partitions
                    }
                    == {(0, 0)}
                )
            )

    run(work())


def test_a_partition_that_stops_with_a_reason_leaves_the_others_running(stream: Stream) -> None:
    async def stop_the_first(owner: RecordingOwner, _: list[Record]) -> None:
        if owner.partition == 0:
            owner.stopped_because = "an operator has to look at it"

    async def work() -> None:
        async with worker(stream, before_append=stop_the_first, stuck_s=STUCK_S) as running:
            stream.send(10)
            await until(lambda: running.states() == {0: "stopped", 1: "running"})
            assert running.health.partitions[0].stopped_because == "an operator has to look at it"
            stream.send(2_000)
            await until(lambda: running.owners[1].records_seen == 2_010)
            # Longer than a partition may be stuck. A partition that says why it stopped is not
            # stuck.
            await asyncio.sleep(STUCK_S + 3)
            assert not running.task.done()

    run(work())


def test_a_position_that_the_topic_does_not_hold_stops_the_partition_and_says_so(
    kafka: KafkaConnection, stream: Stream
) -> None:
    """A topic was created again under a ledger that has decided more than the topic holds."""
    reasons: list[str] = []

    class Misplaced(RecordingOwner):
        async def run(self) -> None:
            with pytest.raises(PartitionStopped) as caught:
                await self.inputs.seek({Source.USAGE: 7, Source.ACCOUNT: 0})
            reasons.append(str(caught.value))
            self.stopped_because = reasons[-1]

    async def work() -> None:
        stream.send(3)

        def make(partition: int, control: Any) -> RecordingOwner:
            return Misplaced(
                partition,
                control,
                ledger=KafkaLedgerPartition(
                    kafka=kafka, topic=stream.topics.ledger, partition=partition
                ),
            )

        async with worker(stream, make) as running:
            await until(lambda: running.states() == {0: "stopped", 1: "stopped"})
        assert (
            f"{stream.topics.usage}/0 holds offsets 0 to 3, and the ledger has decided up to 7"
            in " ".join(reasons)
        )

    run(work())


def test_records_that_vanish_unread_stop_the_partition_and_not_the_worker(
    stream: Stream,
) -> None:
    """Retention or an operator deletes records that have not been read yet. The consumer must not
    skip the gap.
    """
    gate = asyncio.Event()

    async def wait_for_the_gate(owner: RecordingOwner, _: list[Record]) -> None:
        if owner.partition == 0:
            await gate.wait()

    async def work() -> None:
        stream.send(20_000, size=500)
        async with worker(stream, records_max=1_000, before_append=wait_for_the_gate) as running:
            await until(
                lambda: running.owners and all(owner.records_seen for owner in running.owners)
            )
            with KafkaAdminClient(**stream.kafka.for_kafka_python()) as admin:
                admin.delete_records({TopicPartition(stream.topics.usage, 0): 19_990})
            gate.set()
            await until(lambda: running.states() == {0: "stopped", 1: "running"})
            assert "no longer holds offset" in (running.health.partitions[0].stopped_because or "")
            await until(lambda: running.owners[1].records_seen == 20_000)
            recorded = (await stream.recorded())[Source.USAGE, 0]
            assert recorded == list(range(len(recorded)))

    run(work())


def test_an_owner_that_takes_and_never_commits_ends_the_worker(stream: Stream) -> None:
    async def hang(_: RecordingOwner, __: list[Record]) -> None:
        await asyncio.sleep(3600)

    async def work() -> None:
        stream.send(10)
        async with worker(stream, before_append=hang, stuck_s=2) as running:
            with pytest.raises(WorkerFailed, match="has made no progress for"):
                await asyncio.wait_for(running.task, 40)

    run(work())


def test_a_worker_outlasts_a_broker_that_is_silent_for_longer_than_a_session(
    stream: Stream, broker_pid: int
) -> None:
    async def work() -> None:
        stream.send(1_000)
        async with worker(stream, stuck_s=5) as running:
            await stream.all_recorded()
            with frozen(broker_pid):
                await asyncio.sleep(13)
                assert not running.task.done()
            stream.send(1_000)
            await stream.all_recorded()

    run(work())


def test_without_a_broker_the_worker_ends_and_says_so(stream: Stream) -> None:
    async def work() -> None:
        nowhere = Stream(KafkaConnection(servers="127.0.0.1:9"), stream.topics.prefix, 2)
        async with worker(nowhere) as running:
            with pytest.raises(WorkerFailed, match="Unable to bootstrap"):
                await asyncio.wait_for(running.task, 40)

    run(work())


def test_an_idle_partition_is_not_stuck(stream: Stream) -> None:
    async def work() -> None:
        async with worker(stream, stuck_s=STUCK_S) as running:
            await until(lambda: set(running.states().values()) == {"running"})
            await asyncio.sleep(STUCK_S + 3)
            assert not running.task.done()
            stream.send(100)
            await stream.all_recorded()

    run(work())


def test_the_marks_of_a_transaction_are_nothing_to_wait_for(stream: Stream) -> None:
    """A producer with transactions leaves a marker at the topic's end that no consumer receives.
    The worker mistook it for work that got stuck.
    """

    async def work() -> None:
        async with worker(stream, stuck_s=STUCK_S) as running:
            stream.send_in_a_transaction(partition=0)
            await stream.all_recorded()
            await asyncio.sleep(STUCK_S + 3)
            assert not running.task.done()
            inputs = next(owner.inputs for owner in running.owners if owner.partition == 0)
            assert (
                await inputs.control.end_offset(Source.USAGE) == inputs.position(Source.USAGE) == 1
            )
            assert inputs.is_known_to_be_at_end(Source.USAGE)
            stream.send_in_a_transaction(partition=0)
            await stream.all_recorded()

    run(work())


def test_an_owner_whose_cancellation_is_swallowed_is_told_again(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer from Kafka arrived at the very moment of a rebalance, and the cancellation was
    lost. The whole worker then ended.
    """

    async def deaf_once(_: RecordingOwner, __: list[Record]) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    async def work() -> None:
        stream.send(10)
        async with worker(stream, before_append=deaf_once) as running:
            await until(
                lambda: (
                    all(owner.records_seen for owner in running.owners)
                    and len(running.owners) == stream.partitions
                )
            )
            await running.stop()
        assert "gave up partitions" in caplog.text
        assert "did not stop" not in caplog.text

    caplog.set_level(logging.INFO)
    run(work())


def test_an_exception_in_an_owner_ends_the_worker_with_its_cause(stream: Stream) -> None:
    async def choke(_: RecordingOwner, __: list[Record]) -> None:
        raise ValueError("choked")

    async def work() -> None:
        stream.send(10)
        async with worker(stream, before_append=choke) as running:
            with pytest.raises(WorkerFailed, match=r"partition \d: ValueError\('choked'\)"):
                await asyncio.wait_for(running.task, 40)

    run(work())


def test_inputs_that_do_not_come_in_pairs_end_the_worker(
    kafka: KafkaConnection, stream: Stream
) -> None:
    async def work() -> None:
        with KafkaAdminClient(**kafka.for_kafka_python()) as admin:
            admin.create_partitions({stream.topics.usage: NewPartitions(total_count=3)})
        async with worker(stream) as running:
            with pytest.raises(
                WorkerFailed,
                match="partitions 2 were assigned of one input topic and not of the other",
            ):
                await asyncio.wait_for(running.task, 40)

    run(work())


def test_no_topic_is_made_and_no_file_written(
    kafka: KafkaConnection, stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def topics() -> set[str]:
        with KafkaAdminClient(**kafka.for_kafka_python()) as admin:
            return set(admin.list_topics()) - {"__consumer_offsets"}

    monkeypatch.chdir(tmp_path)
    before = topics()

    async def work() -> None:
        stream.send(10)
        async with worker(stream):
            await stream.all_recorded()

    run(work())
    assert topics() == before
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def start(stream: Stream, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts worker processes, whose output goes to worker.log, and ends those that are left."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "tests.integration.recording_owner",
            str(stream.kafka),
            stream.topics.prefix,
            *arguments,
        ]
        with (tmp_path / "worker.log").open("ab") as log:
            started.append(
                subprocess.Popen(
                    command,
                    cwd=REPOSITORY,
                    stdout=log,
                    stderr=log,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                )
            )
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(60)


Start = Callable[..., "subprocess.Popen[bytes]"]


def test_a_worker_that_is_killed_again_and_again_loses_and_repeats_nothing(
    stream: Stream, start: Start
) -> None:
    async def work() -> None:
        for _ in range(3):
            process = start()
            stream.send(15_000, size=50)
            recorded = sum(map(len, (await stream.recorded()).values()))
            deadline = time.monotonic() + 40
            while sum(map(len, (await stream.recorded()).values())) <= recorded:
                assert time.monotonic() < deadline, "nothing was recorded"
            process.kill()
        start()
        await stream.all_recorded(90)

    run(work())


def test_on_sigterm_a_worker_gives_its_partitions_back_and_exits_0(
    stream: Stream, start: Start, tmp_path: Path
) -> None:
    async def work() -> None:
        stream.send(5_000)
        process = start()
        await stream.all_recorded()
        stream.send(5_000)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 60) == 0
        # It left the group, so nobody waits until its session ends.
        assert stream.group_members() == []
        recorded = {place: len(numbers) for place, numbers in (await stream.recorded()).items()}
        # It may not know that the chunk it was appending at the signal is in the ledger.
        assert all(
            0 <= recorded[place] - offset <= CHUNK_RECORDS
            for place, offset in stream.group_offsets().items()
        )
        log = [
            line
            for line in (tmp_path / "worker.log").read_text().splitlines()
            if " aiokafka" not in line
        ]
        assert [line.rpartition(" usageledger.")[2] for line in log] == [
            "processor.worker assigned partitions: 0, 1",
            "runtime.process stopping",
            "processor.worker gave up partitions: 0, 1",
        ]
        stream.send(10)
        start()
        await stream.all_recorded()

    run(work())


def test_an_exception_ends_the_process_with_one_telling_line(
    stream: Stream, start: Start, tmp_path: Path
) -> None:
    async def work() -> None:
        stream.send(1_000)
        process = start("fail-at-record", "500")
        assert await asyncio.to_thread(process.wait, 60) == 1
        log = (tmp_path / "worker.log").read_text()
        assert log.count("CRITICAL") == 1 and "ValueError: choked on record 500" in log, log
        start()
        await stream.all_recorded()

    run(work())
