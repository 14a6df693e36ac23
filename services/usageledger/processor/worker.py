"""The processor's worker: a Faust app that runs one owner for each partition that it is
assigned.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

from usageledger.ledger.records import LedgerError
from usageledger.log.topics import Topics
from usageledger.processor.feed import Chunk, PartitionFeed, Place
from usageledger.processor.health import PartitionHealth, WorkerHealth
from usageledger.processor.inputs import InputBuffer, InputControl, Source
from usageledger.processor.log_noise import quiet
from usageledger.processor.offsets import KafkaOffsets
from usageledger.processor.transport import ChunkConsumer, LedgerApp, new_app
from usageledger.runtime.tasks import cancel_and_wait

STUCK_S = 60.0
"""A partition that has something to do and does nothing for so long is not waiting, it is stuck:
the process ends and is started again.
"""

WATCH_INTERVAL_S = 1.0
STOPPED_LOOK_S = 2.0
# Together less than the five seconds that a process is given to end.
OWNER_STOP_S = 2.0
COMMIT_S = 0.5
APP_STOP_S = 2.0

# Faust's services log as the module that their class is in.
NOISY = ("faust", "mode", "aiokafka", ChunkConsumer.__module__)

logger = logging.getLogger(__name__)


class Owner(Protocol):
    """What the worker needs of a `PartitionOwner`."""

    @property
    def inputs(self) -> InputBuffer: ...

    @property
    def state(self) -> str: ...

    @property
    def stopped_because(self) -> str | None: ...

    @property
    def catch_up_progress(self) -> tuple[int, int] | None: ...

    @property
    def ledger_end(self) -> int | None: ...

    async def run(self) -> None:
        """Own the partition until cancelled.

        Returns only when stopped with a reason; raises what must end the process.
        """
        ...


OwnerFactory = Callable[[int, InputControl], Owner]
"""Makes the owner of a partition; the control is for its `InputBuffer`."""


class WorkerFailed(Exception):
    """The worker cannot go on; its process must end and be started again."""


async def run_worker(
    *,
    kafka: str,
    prefix: str,
    owner_factory: OwnerFactory,
    group: str | None = None,
    stop: asyncio.Event,
    on_partitions: Callable[[WorkerHealth], None] | None = None,
    stuck_s: float = STUCK_S,
) -> None:
    """Take a share of the ledger's partitions and run their owners until ``stop`` is set; then give
    them back within five seconds.

    ``kafka`` is ``host:port``, several with commas. ``on_partitions`` is told about once a second,
    and when the assignment changes. Raises WorkerFailed when an owner raised, Faust crashed, or a
    partition was stuck for ``stuck_s`` seconds.
    """
    topics = Topics(prefix)
    worker = _Worker(
        topics, owner_factory, KafkaOffsets(kafka), on_partitions or (lambda _: None), stuck_s
    )
    app = new_app(
        kafka=kafka,
        group=group or group_of(prefix),
        topics=[topics.usage, topics.account],
        take=worker.take,
    )
    with quiet(NOISY):
        await worker.run(app, stop)


def group_of(prefix: str) -> str:
    """The consumer group of a ledger's processor, where lag tools look."""
    return f"{prefix}.processor" if prefix else "usageledger.processor"


@dataclass(slots=True)
class _Tenancy:
    """One assigned partition: its owner, what feeds it, and the task it runs in."""

    feed: PartitionFeed
    owner: Owner
    task: asyncio.Task[None]
    lost_because: str | None = None

    @property
    def stopped_because(self) -> str | None:
        return self.lost_because or self.owner.stopped_because

    @property
    def state(self) -> str:
        return "stopped" if self.stopped_because else self.owner.state


class _Worker:
    """Holds the tenancies.

    Is the transport's `Assignments`, so nothing here raises into Faust: a failure ends the worker.
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
        self._tenancies: dict[int, _Tenancy] = {}
        self._epochs = count(1)
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unowned_since: float | None = None

    async def run(self, app: LedgerApp, stop: asyncio.Event) -> None:
        """Start the app, watch it, and end it when told to or when something fails."""
        self._app = app
        app.assignments = self
        starting = asyncio.create_task(app.start())
        starting.add_done_callback(self._fail_with)
        watching = asyncio.create_task(self._watch())
        watching.add_done_callback(self._fail_with)
        stopping = asyncio.create_task(stop.wait())
        ends: set[asyncio.Future[Any]] = {self._failed, stopping}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            watching.cancel()
            # What fails from here on only delays the end, which is bounded.
            error = self._failed.exception() if self._failed.done() else None
            await self._end(starting)
        if error is not None:
            raise WorkerFailed(
                str(error) if isinstance(error, WorkerFailed) else repr(error)
            ) from error

    def take(self, chunk: Chunk, ack: Callable[[], object]) -> None:
        """Hand a chunk to its partition's owner.

        What comes for a partition that is no longer ours is dropped.
        """
        tenancy = self._tenancies.get(chunk.place.partition)
        if tenancy is None:
            return
        try:
            tenancy.feed.take(chunk, tenancy.owner.inputs, ack)
        except Exception as error:  # noqa: BLE001 - Faust would acknowledge the chunk and go on without it
            self._fail(error)

    def assigned(self, places: set[Place]) -> None:
        """Start an owner for each partition.

        Its two inputs must have come together: one owner merges them.
        """
        try:
            for partition in self._paired(places):
                self._start(partition)
        except Exception as error:  # noqa: BLE001 - Faust would log it and wait for another assignment
            self._fail(error)
        logger.info("assigned partitions: %s", _listed(sorted(self._tenancies)))
        self._report()

    async def revoked(self) -> None:
        """Cancel the owners and drop what they have not committed; the ledger knows how far they
        came.
        """
        tenancies, self._tenancies = self._tenancies, {}
        for tenancy in tenancies.values():
            tenancy.feed.close()
        tasks = {tenancy.task: partition for partition, tenancy in tenancies.items()}
        if tasks:
            logger.info("gave up partitions: %s", _listed(sorted(tenancies)))
            running = await cancel_and_wait(
                tasks, again_after_s=OWNER_STOP_S / 2, timeout_s=OWNER_STOP_S
            )
            if running:
                unwilling = _listed(sorted(tasks[task] for task in running))
                logger.warning(
                    "owners did not stop within %.0f s: partitions %s", OWNER_STOP_S, unwilling
                )
                self._fail(
                    WorkerFailed(
                        f"owners did not stop within {OWNER_STOP_S:.0f} s: partitions {unwilling}"
                    )
                )
        self._report()

    def is_flowing(self, place: Place) -> bool:
        """Whether the place's owner has said where to begin."""
        tenancy = self._tenancies.get(place.partition)
        return tenancy is not None and tenancy.feed.is_flowing

    def lost(self, place: Place, offset: int) -> None:
        """Stop the one partition whose input no longer holds what comes next; nothing resets by
        itself.
        """
        tenancy = self._tenancies.get(place.partition)
        if tenancy is None or tenancy.stopped_because:
            return
        tenancy.lost_because = (
            f"{place.topic}/{place.partition} no longer holds offset {offset}: it was truncated or "
            "made anew"
        )
        logger.error("partition %d stopped: %s", place.partition, tenancy.lost_because)
        tenancy.feed.close()
        tenancy.task.cancel()
        self._report()

    def health(self) -> WorkerHealth:
        """How the partitions are doing now."""
        return WorkerHealth(
            partitions=tuple(
                PartitionHealth(
                    partition=partition,
                    state=tenancy.state,
                    stopped_because=tenancy.stopped_because,
                    usage_lag_records=tenancy.feed.lag_records(Source.USAGE),
                    account_lag_records=tenancy.feed.lag_records(Source.ACCOUNT),
                    no_progress_s=tenancy.feed.stuck_s(tenancy.owner.inputs)
                    if tenancy.state == "running"
                    else 0.0,
                    catch_up=tenancy.owner.catch_up_progress,
                    decided={source.value: tenancy.feed.decided(source) for source in Source},
                    ledger_end=tenancy.owner.ledger_end,
                )
                for partition, tenancy in sorted(self._tenancies.items())
            )
        )

    def _start(self, partition: int) -> None:
        if partition in self._tenancies:
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
        self._tenancies[partition] = _Tenancy(
            feed, owner, asyncio.create_task(self._own(partition, feed, owner))
        )

    async def _own(self, partition: int, feed: PartitionFeed, owner: Owner) -> None:
        try:
            while True:
                await owner.run()
                if not owner.stopped_because:
                    raise WorkerFailed("its owner ended without a reason")
                for place in feed.places.values():
                    self._consumer.hold(place)
                self._report()
                await self._until_another_claims(partition, owner.ledger_end)
                logger.info(
                    "partition %d: another has claimed it since it stopped; claiming again",
                    partition,
                )
        except Exception as error:  # noqa: BLE001 - it ends the process, with this as its cause
            failure = WorkerFailed(f"partition {partition}: {error!r}")
            failure.__cause__ = error
            self._fail(failure)

    async def _until_another_claims(self, partition: int, end: int | None) -> None:
        """Return once the ledger of a stopped partition goes on beyond ``end``, where its owner
        knows it to end: somebody has claimed it, as an operator does who skips what it stopped at,
        maybe before it stopped. To claim again then is as safe as at any time: if nothing else has
        changed, it stops again.
        """
        while True:
            with suppress(LedgerError):  # Kafka does not answer: it is asked again
                found = await self._offsets.end_offset(Place(self._topics.ledger, partition))
                if end is not None and found != end:
                    return
                end = found
            await asyncio.sleep(STOPPED_LOOK_S)

    def _paired(self, places: set[Place]) -> list[int]:
        usage = {place.partition for place in places if place.topic == self._topics.usage}
        account = {place.partition for place in places if place.topic == self._topics.account}
        if usage != account:
            alone = _listed(sorted(usage ^ account))
            raise WorkerFailed(
                f"partitions {alone} were assigned of one input topic and not of the other:"
                f" {self._topics.usage} and {self._topics.account} must have the same partition "
                "count and Faust's own assignor"
            )
        return sorted(usage)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            if self._app.crashed:
                raise self._app.crash_reason or WorkerFailed("Faust crashed")
            self._refuse_unowned()
            for partition, tenancy in self._tenancies.items():
                stuck_s = tenancy.feed.stuck_s(tenancy.owner.inputs)
                if tenancy.state == "running" and stuck_s > self._stuck_s:
                    raise WorkerFailed(
                        f"partition {partition} has input and has made no progress for "
                        f"{stuck_s:.0f} s"
                    )
            self._report()

    def _refuse_unowned(self) -> None:
        """Faust can end the task that resumes partitions after an assignment without crashing; then
        nothing would ever start.
        """
        if self._tenancies or not self._app.consumer.started or not self._consumer.assignment():
            self._unowned_since = None
        elif self._unowned_since is None:
            self._unowned_since = time.monotonic()
        elif time.monotonic() - self._unowned_since > self._stuck_s:
            raise WorkerFailed(
                f"partitions were assigned and not started for {self._stuck_s:.0f} s"
            )

    async def _end(self, starting: asyncio.Task[None]) -> None:
        """Stop the owners, leave word of how far they came, leave the group.

        Each step is bounded.
        """
        await self.revoked()
        with suppress(Exception):
            # For lag tools alone, so a failure costs nothing.
            await asyncio.wait_for(self._consumer.commit(), COMMIT_S)
        await self._offsets.close()
        starting.cancel()
        try:
            await asyncio.wait_for(self._app.stop(), APP_STOP_S)
        except TimeoutError:
            logger.warning(
                "left Kafka without saying goodbye: it did not answer within %.0f s", APP_STOP_S
            )
        self._consumer.discard()

    def _report(self) -> None:
        self._on_partitions(self.health())

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    def _fail_with(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    @property
    def _consumer(self) -> ChunkConsumer:
        consumer = self._app.consumer
        assert isinstance(consumer, ChunkConsumer)
        return consumer


def _listed(partitions: list[int]) -> str:
    return ", ".join(map(str, partitions)) or "none"
