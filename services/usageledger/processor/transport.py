"""Faust fed by the chunk: one Faust event for what was fetched of a partition at once, instead of
one for each record.

Faust's own cost is an event, a hop and an acknowledgement for each record; by the chunk it does not
show. Groups, heartbeats, rebalances, streams and commits stay Faust's. What differs from its stock
consumer, and why:

- Records are taken with aiokafka's `getmany`, as bytes: Faust would acknowledge and skip what it
  cannot decode.
- After an assignment a partition stays paused until its owner has claimed and caught up and says
  where to begin. `perform_seek`, where Faust seeks to the group's committed offsets, runs under a
  short timeout and only pauses.
- Offsets are committed as owners report them, and no others: they are for lag tools. A ledger says
  itself how far it has decided.
- A full buffer holds its partition by `_buffered_partitions`: a chunk of a partition that is paused
  outright is dropped by Faust.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol, cast

import faust
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, Message
from mode.threads import ServiceThread, WorkerThread

from usageledger.ledger.records import LedgerError, Record
from usageledger.processor.feed import Chunk, Place

RECORDS_PER_FETCH = 5_000
FETCH_BYTES_PER_PARTITION = 1024 * 1024
# While a partition is held back, the broker answers fetches of the others only after this long if
# they are idle, and one that is released meanwhile has to wait for that answer.
FETCH_WAIT_MS = 100
POLL_S = 0.1
ANSWER_TIMEOUT_S = 10.0
THREAD_STOP_S = 1.0
# An end offset that was heard longer ago says nothing about what has been appended since.
KNOWN_END_AGE_MAX_S = 2.0


class Assignments(Protocol):
    """What the worker hears from its consumer. All calls come on the worker's own loop."""

    def assigned(self, places: set[Place]) -> None:
        """These are ours now, all that are; their owners can start."""
        ...

    async def revoked(self) -> None:
        """Nothing is ours any more until the next `assigned`. Must be bounded."""
        ...

    def is_flowing(self, place: Place) -> bool:
        """Whether the place's owner has said where to begin."""
        ...

    def lost(self, place: Place, offset: int) -> None:
        """The topic no longer holds what the place's owner is to read next."""
        ...


class _DaemonThread(WorkerThread):
    """When a broker that is gone keeps a consumer from closing, neither the process that wants to
    end nor its loop waits for it.
    """

    def __init__(self, service: ServiceThread, **kwargs: Any) -> None:
        super().__init__(service, **kwargs)
        self.daemon = True

    def stop(self) -> None:
        self.join(THREAD_STOP_S)


class ChunkThread(driver.AIOKafkaConsumerThread):
    """Reads in the consumer's own thread and loop.

    Epochs and serials are set and stamped there, without an await between, so no record read before
    a seek can carry the mark of what was read after it.
    """

    Worker = _DaemonThread

    def __post_init__(self) -> None:
        super().__post_init__()
        self._epochs: dict[TP, int] = {}
        self._serials: dict[TP, int] = {}
        self._read_up_to: dict[TP, int] = {}
        self._positions: dict[TP, int] = {}

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        # Or aiokafka would begin to fetch from the committed offsets, for nothing.
        self._ensure_consumer().pause(*(TopicPartition(*tp) for tp in assigned))
        await super().on_partitions_assigned(assigned, generation_id)

    async def rewind(self, positions: Mapping[TP, int], epoch: int) -> None:
        """Seek, mark what is read from now on, and let it flow."""
        for tp in positions:
            self._epochs[tp], self._serials[tp] = epoch, 0
            self._read_up_to[tp] = positions[tp]
            self._positions.pop(tp, None)
        consumer = self._ensure_consumer()
        await self._seek_wait(
            consumer, {cast(TP, TopicPartition(*tp)): offset for tp, offset in positions.items()}
        )
        consumer.resume(*(TopicPartition(*tp) for tp in positions))

    def known_end_offset(self, tp: TP) -> int | None:
        """The end that the last fetch told, if that is not long ago.

        Safe from another thread: it reads two attributes.
        """
        consumer, place = self._ensure_consumer(), TopicPartition(*tp)
        try:
            heard_at_ms, end = consumer.last_poll_timestamp(place), consumer.highwater(place)
        except (AssertionError, AttributeError, KeyError, KafkaError):
            # A rebalance is taking the partition away at this moment.
            return None
        if heard_at_ms is None or time.time() - heard_at_ms / 1000 > KNOWN_END_AGE_MAX_S:
            return None
        return None if end is None else self.end_before_marks(tp, end)

    def end_before_marks(self, tp: TP, end: int) -> int:
        """The end as it is for whoever waits for records: where only a transaction's marks follow,
        the offset after the last record.
        """
        read_up_to = self._read_up_to.get(tp, end)
        return read_up_to if read_up_to < end <= self._positions.get(tp, -1) else end

    async def _fetch_records(
        self,
        consumer: AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 - Faust's signature
        max_records: int | None = None,
    ) -> Mapping[TP, list[Any]]:
        # Checked here again: the call was queued, and a rebalance may have begun since.
        if not self.consumer.flow_active or not active_partitions:
            return {}
        places = [TopicPartition(*tp) for tp in active_partitions]
        try:
            fetched = await consumer.getmany(
                *places, timeout_ms=int((timeout or 0) * 1000), max_records=max_records
            )
        except OffsetOutOfRangeError as error:
            self._tell_lost(consumer, error.args[0])
            return {}
        except NoOffsetForPartitionError:
            # Asked before a rebalance and answered after it: the partition's new owner has yet to
            # say where to begin.
            return {}
        for place in places:
            if not fetched.get(place):
                await self._note_position(consumer, place)
        return {
            TP(*place): [self._chunk(place, records)]
            for place, records in fetched.items()
            if records
        }

    async def _note_position(self, consumer: AIOKafkaConsumer, place: TopicPartition) -> None:
        """Note how far the consumer has come where the topic goes on and no record comes: past a
        transaction's marks, it may be.
        """
        with suppress(
            TimeoutError, AssertionError, KafkaError
        ):  # a rebalance may be taking the partition away
            end, read_up_to = consumer.highwater(place), self._read_up_to.get(TP(*place))
            if end is not None and read_up_to is not None and read_up_to < end:
                async with asyncio.timeout(POLL_S):
                    self._positions[TP(*place)] = await consumer.position(place)

    def _chunk(self, place: TopicPartition, records: list[Any]) -> Chunk:
        tp = TP(*place)
        self._serials[tp] += 1
        self._read_up_to[tp] = records[-1].offset + 1
        taken = [Record(found.offset, found.timestamp, found.key, found.value) for found in records]
        return Chunk(Place(*place), self._epochs[tp], self._serials[tp], taken)

    def _tell_lost(self, consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
        assignments = cast(LedgerApp, self.app).assignments
        for place, offset in offsets.items():
            consumer.pause(place)
            self.parent_loop.call_soon_threadsafe(assignments.lost, Place(*place), offset)

    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
        """As the stock one, but that it never jumps to another offset, takes no longer naps at the
        broker, and has our client id.
        """
        conf = self.app.conf
        self._assignor = self.app.assignor
        return AIOKafkaConsumer(
            client_id="usageledger-processor",
            group_id=conf.id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_poll_records=RECORDS_PER_FETCH,
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            max_partition_fetch_bytes=FETCH_BYTES_PER_PARTITION,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            check_crcs=True,
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
        )

    def _stopped_set(self) -> None:
        # After a crash the thread has closed its loop already.
        if not self.thread_loop.is_closed():
            super()._stopped_set()

    def on_crash(self, msg: str, *fmt: Any, **kwargs: Any) -> None:
        """The stock one prints; the failure reaches the worker by `crash`, which tells it once."""


class _ReadOffsets(dict[TP, "int | None"]):
    """Remembers nothing.

    Faust drops what lies below the offset it read last, also when a seek has gone back in between;
    here epochs and serials say what is stale.
    """

    def __missing__(self, tp: TP) -> None:
        return None

    def __setitem__(self, tp: TP, offset: int | None) -> None:
        return


class ChunkConsumer(driver.Consumer):
    """Faust's consumer, by the chunk: see the module.

    Is the worker's `ChunkSource`. Lives on the worker's loop.
    """

    _thread: ChunkThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _ReadOffsets()
        self._next_offsets: dict[TP, int] = {}
        self._starts_owners = False

    async def rewind(self, positions: Mapping[Place, int], epoch: int) -> None:
        offsets = {TP(*place): offset for place, offset in positions.items()}
        try:
            await asyncio.wait_for(
                self._thread.call_thread(self._thread.rewind, offsets, epoch), ANSWER_TIMEOUT_S
            )
        except (TimeoutError, KafkaError) as error:
            raise LedgerError(
                f"the input topics cannot be read from {dict(positions)}: {error!r}"
            ) from error
        for tp in offsets:
            # The new position is to be committed even if it lies below the old one.
            self._committed_offset[tp] = None
            self._buffered_partitions.discard(tp)
        self.resume_partitions(offsets)

    def known_end_offset(self, place: Place) -> int | None:
        return self._thread.known_end_offset(TP(*place))

    def end_before_marks(self, place: Place, end: int) -> int:
        return self._thread.end_before_marks(TP(*place), end)

    def hold(self, place: Place) -> None:
        self._buffered_partitions.add(TP(*place))
        self._get_active_partitions().discard(TP(*place))

    def release(self, place: Place) -> None:
        self._buffered_partitions.discard(TP(*place))
        self._get_active_partitions().add(TP(*place))

    def decided(self, place: Place, next_offset: int) -> None:
        self._next_offsets[TP(*place)] = next_offset

    def discard(self) -> None:
        """Close what an app that never came as far as starting its consumer leaves open: the loop
        of the thread that never ran.
        """
        loop = self._thread.thread_loop
        if not self._thread.started and not loop.is_running():
            loop.close()

    async def perform_seek(self) -> None:
        """Pause what has no owner that has caught up, and after an assignment let the owners start.

        Short, and harmless when repeated.
        """
        assigned = {Place(*tp) for tp in self.assignment()}
        assignments = cast(LedgerApp, self.app).assignments
        self.pause_partitions(
            {TP(*place) for place in assigned if not assignments.is_flowing(place)}
        )
        # It is called between a revocation and the next assignment as well.
        if self._starts_owners:
            self._starts_owners = False
            assignments.assigned(assigned)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self._starts_owners = True
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._starts_owners = False
        await cast(LedgerApp, self.app).assignments.revoked()
        self._next_offsets.clear()
        self._buffered_partitions.clear()
        await super().on_partitions_revoked(revoked)

    def on_buffer_full(self, tp: TP) -> None:
        """Faust's own queue holds chunks only until the agent, which never waits, has handed them
        on; back-pressure is `hold`.
        """

    def on_buffer_drop(self, tp: TP) -> None:
        """See `on_buffer_full`."""

    def ack(self, message: Message) -> bool:
        """Only that the chunk is done with is noted: what to commit comes from `decided`."""
        message.acked = True
        self._unacked_messages.discard(message)
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """The stock check knows no paused partitions, and compares two different clocks; the worker
        watches its partitions itself.
        """

    def _new_consumer_thread(self) -> ChunkThread:
        return ChunkThread(self, loop=self.loop, beacon=self.beacon)

    async def _wait_next_records(self, timeout: float) -> tuple[Any, set[TP] | None]:  # noqa: ASYNC109 - Faust's signature
        if self.flow_active and not self._get_active_partitions():
            # The stock one sleeps for a second here, which every start would wait for.
            await self.sleep(POLL_S)
            return {}, set()
        return await super()._wait_next_records(timeout)

    async def _getmany(
        self,
        active_partitions: set[TP] | None,
        timeout: float,  # noqa: ASYNC109 - Faust's signature
    ) -> Mapping[TP, list[Any]]:
        # A copy: the set changes on this loop while the thread goes through it. Short: what is
        # resumed meanwhile is seen next time.
        return await super()._getmany(set(active_partitions or ()), min(timeout, POLL_S))

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        chunk = cast(Chunk, record)
        last = chunk.records[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp_ms / 1000,
            0,
            None,
            None,
            cast(Any, chunk),
            None,
            serialized_key_size=0,
            serialized_value_size=len(chunk.records),
            tp=TP(*tp),
            generation_id=self.app.consumer_generation_id,
        )

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return iter(list(self._next_offsets))

    def _new_offset(self, tp: TP) -> int | None:
        return self._next_offsets.get(tp)


class ChunkTransport(driver.Transport):
    """Faust's aiokafka transport with a consumer of chunks."""

    Consumer = ChunkConsumer


class ChunkSchema(faust.Schema[Any, Any]):
    """Passes chunks on as they are."""

    def compile(self, app: Any, **_: Any) -> Callable[..., Awaitable[Any]]:
        event = app.conf.Event

        async def decode(message: Message, *, propagate: bool = False) -> Any:
            return event(app, None, message.value, message.headers, message)

        return decode


class LedgerApp(faust.App):
    """A Faust app without tables, web server, directories or topics of its own."""

    assignments: Assignments

    def _create_directories(self) -> None:
        """Nothing is kept on disk."""


def new_app(
    *,
    kafka: str,
    group: str,
    topics: list[str],
    take: Callable[[Chunk, Callable[[], object]], None],
) -> LedgerApp:
    """The app that hands every chunk of ``topics`` to ``take``, with what acknowledges it.

    ``take`` must not raise.
    """
    app = LedgerApp(
        group,
        broker=[f"kafka://{address.strip()}" for address in kafka.split(",")],
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        broker_session_timeout=10.0,
        broker_heartbeat_interval=3.0,
        broker_rebalance_timeout=15.0,
        # A join may take as long as a rebalance.
        broker_request_timeout=20.0,
        broker_commit_interval=1.0,
        stream_wait_empty=False,
    )
    app.transport = ChunkTransport(app.conf.broker_consumer, app)

    @app.agent(app.topic(*topics, schema=ChunkSchema()), name="usageledger.feed")
    async def feed(chunks: Any) -> None:
        async for event in chunks.noack().events():
            take(event.value, event.ack)

    return app
