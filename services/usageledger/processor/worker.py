"""The processor's worker: a Faust app that runs one owner for each partition assigned to it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from usageledger.ledger.records import LedgerError
from usageledger.log.bounded_codecs import Unreadable
from usageledger.log.topics import Topics, processor_group
from usageledger.processor.feed import Fetch, PartitionFeed, TopicPartition
from usageledger.processor.health import WorkerHealth, partition_health
from usageledger.processor.inputs import InputBuffer, InputControl
from usageledger.processor.log_noise import library_noise_reduced
from usageledger.processor.offsets import KafkaOffsets
from usageledger.processor.reused_ids import ReusedIds
from usageledger.processor.transport import FetchConsumer, LedgerApp, new_app
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.runtime.tasks import cancel_and_wait

STUCK_S = 60.0
"""A partition with something to do that does nothing for this long is stuck, not waiting.

The process then ends and is started again.
"""

UNREADABLE_IDLE_LOOKS = 5
WATCH_INTERVAL_S = 1.0
STOPPED_LOOK_S = 2.0
# Together these stay below the five seconds that a process has to end.
OWNER_STOP_S = 2.0
COMMIT_S = 0.5
APP_STOP_S = 2.0

# Faust's services log under the name of the module that their class is in.
NOISY = ("faust", "mode", "aiokafka", FetchConsumer.__module__)

log = logging.getLogger(__name__)


class Owner(Protocol):
    """The part of a `PartitionOwner` that the worker needs."""

    @property
    def inputs(self) -> InputBuffer: ...

    @property
    def state(self) -> str: ...

    @property
    def stopped_because(self) -> str | None: ...

    @property
    def waiting_because(self) -> str | None: ...

    @property
    def catch_up_progress(self) -> tuple[int, int] | None: ...

    @property
    def ledger_end(self) -> int | None: ...

    @property
    def reused_ids(self) -> ReusedIds: ...

    async def run(self) -> None:
        """Own the partition until cancelled.

        Returns only when stopped with a reason. Raises an error that must end the process.
        """
        ...


OwnerFactory = Callable[[int, InputControl], Owner]
"""Makes the owner of a partition; the control is for its `InputBuffer`."""


class WorkerFailed(Exception):
    """The worker cannot go on: its process must end and be started again."""


async def run_worker(
    *,
    kafka: KafkaConnection,
    prefix: str,
    owner_factory: OwnerFactory,
    group: str | None = None,
    stop: asyncio.Event,
    on_partitions: Callable[[WorkerHealth], None] | None = None,
    stuck_s: float = STUCK_S,
) -> None:
    """Own a share of the ledger's partitions until ``stop`` is set, then give it back within 5 s.

    ``kafka`` is ``host:port``, several with commas. ``on_partitions`` is called about once a
    second, and when the assignment changes. Raises WorkerFailed when an owner raised, Faust
    crashed, or a partition was stuck for ``stuck_s`` seconds.
    """
    topics = Topics(prefix)
    worker = _Worker(
        topics, owner_factory, KafkaOffsets(kafka), on_partitions or (lambda _: None), stuck_s
    )
    app = new_app(
        kafka=kafka,
        group=group or processor_group(prefix),
        topics=[topics.usage, topics.account],
        on_fetch=worker.hand_over,
    )
    with library_noise_reduced(NOISY):
        await worker.run(app, stop)


@dataclass(slots=True)
class _UnreadableInput:
    """Where an input cannot be read on, and how often nothing had been decided since a look."""

    found: Unreadable
    next_offset: int = -1
    idle_looks: int = 0


@dataclass(slots=True)
class _AssignedPartition:
    """A partition assigned to this worker: its owner, its feed, and the task that runs it."""

    feed: PartitionFeed
    owner: Owner
    task: asyncio.Task[None]
    unreadable: dict[TopicPartition, _UnreadableInput] = field(default_factory=dict)
    ended_because: str | None = None

    @property
    def stopped_because(self) -> str | None:
        return self.ended_because or self.owner.stopped_because

    @property
    def state(self) -> str:
        return "stopped" if self.stopped_because else self.owner.state


class _Worker:
    """Runs the owners of the assigned partitions.

    It is the transport's `Assignments`, so nothing here raises into Faust: a failure ends the
    worker.
    """

    def __init__(
        self,
        topics: Topics,
        owner_factory: OwnerFactory,
        offsets: KafkaOffsets,
        on_partitions: Callable[[WorkerHealth], None],
        stuck_s: float,
    ) -> None:
        self._topics = topics
        self._owner_factory = owner_factory
        self._offsets = offsets
        self._on_partitions = on_partitions
        self._stuck_s = stuck_s
        self._assigned: dict[int, _AssignedPartition] = {}
        self._epochs = count(1)
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unowned_since: float | None = None

    async def run(self, app: LedgerApp, stop: asyncio.Event) -> None:
        """Start the app and watch it; end it once ``stop`` is set or something fails."""
        self._app = app
        app.assignments = self
        starting = asyncio.create_task(app.start())
        starting.add_done_callback(self._fail_with_task)
        watching = asyncio.create_task(self._watch())
        watching.add_done_callback(self._fail_with_task)
        stopping = asyncio.create_task(stop.wait())
        ends: set[asyncio.Future[Any]] = {self._failure, stopping}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            watching.cancel()
            # A later failure only delays the end, which is bounded.
            error = self._failure.exception() if self._failure.done() else None
            await self._end(starting)
        if error is not None:
            raise WorkerFailed(
                str(error) if isinstance(error, WorkerFailed) else repr(error)
            ) from error

    def hand_over(self, fetch: Fetch, ack: Callable[[], object]) -> None:
        """Hand a fetch to its partition's feed, or drop it if the partition is no longer ours."""
        assigned = self._assigned.get(fetch.topic_partition.partition)
        if assigned is None:
            return
        try:
            assigned.feed.accept(fetch, assigned.owner.inputs, ack)
        except Exception as error:  # noqa: BLE001
            # Faust would acknowledge the fetch and go on without it.
            self._fail(error)

    def on_assigned(self, topic_partitions: set[TopicPartition]) -> None:
        """Start an owner for each partition, which merges the partition's two inputs."""
        try:
            for partition in self._partitions_of(topic_partitions):
                self._start(partition)
        except Exception as error:  # noqa: BLE001
            # Faust would log it and wait for another assignment.
            self._fail(error)
        log.info("assigned partitions: %s", _number_list(self._assigned))
        self._report()

    async def on_revoked(self) -> None:
        """Stop the owners and drop what they have not committed.

        The ledger says how far they had come.
        """
        revoked, self._assigned = self._assigned, {}
        for assigned in revoked.values():
            assigned.feed.close()
        tasks = {assigned.task: partition for partition, assigned in revoked.items()}
        if tasks:
            log.info("gave up partitions: %s", _number_list(revoked))
            running = await cancel_and_wait(
                tasks, again_after_s=OWNER_STOP_S / 2, timeout_s=OWNER_STOP_S
            )
            if running:
                failure = WorkerFailed(
                    f"owners did not stop within {OWNER_STOP_S:.0f} s: partitions "
                    f"{_number_list(tasks[task] for task in running)}"
                )
                log.warning("%s", failure)
                self._fail(failure)
        self._report()

    def is_flowing(self, topic_partition: TopicPartition) -> bool:
        """Whether the partition's owner has said where to begin."""
        assigned = self._assigned.get(topic_partition.partition)
        return assigned is not None and assigned.feed.is_flowing

    def on_truncated(self, topic_partition: TopicPartition, offset: int) -> None:
        """Stop the one partition whose input no longer holds the next record.

        Nothing resets by itself.
        """
        self._stop_partition(
            topic_partition.partition,
            f"{topic_partition} no longer holds offset {offset}: it was truncated or made anew",
        )

    def on_unreadable(self, topic_partition: TopicPartition, found: Unreadable) -> None:
        """Stop the one partition whose input cannot be read on, once the rest before is decided."""
        assigned = self._assigned.get(topic_partition.partition)
        if assigned is not None:
            assigned.unreadable[topic_partition] = _UnreadableInput(found)

    def _stop_where_unreadable(self, partition: int, assigned: _AssignedPartition) -> None:
        for source, topic_partition in assigned.feed.topic_partitions.items():
            looked_at = assigned.unreadable.get(topic_partition)
            if looked_at is None:
                continue
            found, before = looked_at.found, looked_at.next_offset
            looked_at.next_offset = assigned.feed.next_offset(source)
            has_moved = looked_at.next_offset != before
            looked_at.idle_looks = 0 if has_moved else looked_at.idle_looks + 1
            # The records before may themselves wait for the one that cannot be read.
            if (
                looked_at.next_offset >= found.offset
                or looked_at.idle_looks >= UNREADABLE_IDLE_LOOKS
            ):
                has_stopped = self._stop_partition(
                    partition,
                    f"{topic_partition} cannot be read from offset {found.offset} on: "
                    f"{found.why}. To go on without that batch: usageledger processor skip "
                    f"{partition}@{found.offset} --topic {source.value} --reason TEXT",
                )
                if has_stopped:
                    starting = self._start_again(partition, assigned.owner, assigned.task)
                    assigned.task = asyncio.create_task(starting)
                    assigned.task.add_done_callback(self._fail_with_task)

    async def _start_again(
        self, partition: int, stopped: Owner, ending: asyncio.Task[None]
    ) -> None:
        """Start another owner of a stopped partition once an operator has claimed it."""
        await asyncio.wait([ending])
        await self._wait_for_another_claim(partition, stopped.ledger_end)
        log.info("partition %d: another has claimed it since it stopped; starting again", partition)
        del self._assigned[partition]
        self._start(partition)
        self._report()

    def _stop_partition(self, partition: int, why: str) -> bool:
        """Stop a partition's owner. Return False if the partition had stopped before."""
        assigned = self._assigned.get(partition)
        if assigned is None or assigned.stopped_because:
            return False
        assigned.ended_because = why
        log.error("partition %d stopped: %s", partition, why)
        assigned.feed.close()
        assigned.task.cancel()
        self._report()
        return True

    def _start(self, partition: int) -> None:
        if partition in self._assigned:
            raise WorkerFailed(f"partition {partition} was assigned while it still had an owner")
        feed = PartitionFeed(
            partition,
            self._topics,
            self._consumer,
            self._offsets,
            next_epoch=lambda: next(self._epochs),
            clock=time.monotonic,
        )
        owner = self._owner_factory(partition, feed)
        self._assigned[partition] = _AssignedPartition(
            feed, owner, asyncio.create_task(self._run_owner(partition, feed, owner))
        )

    async def _run_owner(self, partition: int, feed: PartitionFeed, owner: Owner) -> None:
        try:
            while True:
                await owner.run()
                if not owner.stopped_because:
                    raise WorkerFailed("its owner ended without a reason")
                for topic_partition in feed.topic_partitions.values():
                    self._consumer.pause(topic_partition)
                self._report()
                await self._wait_for_another_claim(partition, owner.ledger_end)
                log.info(
                    "partition %d: another has claimed it since it stopped; claiming again",
                    partition,
                )
        except Exception as error:  # noqa: BLE001 - it ends the process, with this as its cause
            failure = WorkerFailed(f"partition {partition}: {error!r}")
            failure.__cause__ = error
            self._fail(failure)

    async def _wait_for_another_claim(self, partition: int, end: int | None) -> None:
        """Return once the ledger of a stopped partition goes on beyond ``end``.

        The owner knew that the ledger ended there, so another process has claimed the partition. An
        operator who skips its input does that, perhaps before it stopped. Claiming
        again is then as safe as at any time: if nothing else has changed, the owner stops again.
        """
        while True:
            with suppress(LedgerError):  # Kafka does not answer: it is asked again
                found = await self._offsets.end_offset(
                    TopicPartition(self._topics.ledger, partition)
                )
                if end is not None and found != end:
                    return
                end = found
            await asyncio.sleep(STOPPED_LOOK_S)

    def _partitions_of(self, topic_partitions: set[TopicPartition]) -> list[int]:
        """The numbers of the assigned partitions. Raises WorkerFailed where an input is missing."""
        usage = {each.partition for each in topic_partitions if each.topic == self._topics.usage}
        account = {
            each.partition for each in topic_partitions if each.topic == self._topics.account
        }
        if usage != account:
            raise WorkerFailed(
                f"partitions {_number_list(usage ^ account)} were assigned of one input topic and "
                f"not of the other: {self._topics.usage} and {self._topics.account} must have the "
                "same partition count and Faust's own assignor"
            )
        return sorted(usage)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            if self._app.crashed:
                raise self._app.crash_reason or WorkerFailed("Faust crashed")
            self._require_owners()
            for partition, assigned in self._assigned.items():
                self._stop_where_unreadable(partition, assigned)
                stuck_s = assigned.feed.stuck_s(assigned.owner.inputs)
                if assigned.state == "running" and stuck_s > self._stuck_s:
                    raise WorkerFailed(
                        f"partition {partition} has input and has made no progress for "
                        f"{stuck_s:.0f} s"
                    )
            self._report()

    def _require_owners(self) -> None:
        """Raise WorkerFailed if assigned partitions have had no owners for too long.

        Faust can end the task that resumes partitions after an assignment, without crashing. Then
        no owner would ever start.
        """
        if self._assigned or not self._app.consumer.started or not self._consumer.assignment():
            self._unowned_since = None
        elif self._unowned_since is None:
            self._unowned_since = time.monotonic()
        elif time.monotonic() - self._unowned_since > self._stuck_s:
            raise WorkerFailed(
                f"partitions were assigned and not started for {self._stuck_s:.0f} s"
            )

    async def _end(self, starting: asyncio.Task[None]) -> None:
        """Stop the owners, commit how far they came, and leave the group. Each step is bounded."""
        await self.on_revoked()
        with suppress(Exception):
            # Only lag tools read it, so a failure costs nothing.
            await asyncio.wait_for(self._consumer.commit(), COMMIT_S)
        await self._offsets.close()
        starting.cancel()
        try:
            await asyncio.wait_for(self._app.stop(), APP_STOP_S)
        except TimeoutError:
            log.warning(
                "left Kafka without leaving the group: it did not answer within %.0f s", APP_STOP_S
            )
        self._consumer.discard()

    def _report(self) -> None:
        self._on_partitions(
            WorkerHealth(
                partitions=tuple(
                    partition_health(
                        partition,
                        assigned.state,
                        assigned.stopped_because,
                        assigned.feed,
                        assigned.owner,
                    )
                    for partition, assigned in sorted(self._assigned.items())
                )
            )
        )

    def _fail(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    def _fail_with_task(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    @property
    def _consumer(self) -> FetchConsumer:
        consumer = self._app.consumer
        assert isinstance(consumer, FetchConsumer)
        return consumer


def _number_list(partitions: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(partitions))) or "none"
