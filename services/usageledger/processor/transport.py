"""Faust with one event for each fetch, instead of one for each record.

Faust itself costs an event, a hop and an acknowledgement for each event. With one event for each
fetch that cost no longer shows. Groups, heartbeats, rebalances, streams and commits stay Faust's.
These are the differences from its stock consumer, and why:

- Records are read with aiokafka's `getmany`, as bytes. Faust would acknowledge and skip a record
  that it cannot decode.
- After an assignment a partition stays paused until its owner has claimed, has caught up, and says
  where to begin. In `perform_seek` Faust would seek to the group's committed offsets. That call has
  a short timeout, so here it only pauses.
- Only the offsets that owners report are committed. They are for lag tools: a ledger says itself
  how far it has decided.
- A full buffer pauses its partition by `_buffered_partitions`. Faust drops the fetches of a
  partition that is paused outright.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol, cast

import aiokafka
import faust
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, Message
from mode.threads import ServiceThread, WorkerThread

from usageledger.ledger.records import LedgerError, Record
from usageledger.log.aiokafka_clients import new_consumer, new_producer
from usageledger.log.aiokafka_reading import read_fetched
from usageledger.log.bounded_codecs import FETCH_BYTES_MAX, Unreadable
from usageledger.processor.feed import Fetch, TopicPartition
from usageledger.runtime.kafka_connection import KafkaConnection

RECORDS_PER_FETCH = 5_000
FETCH_BYTES_PER_PARTITION = 1024 * 1024
# While a partition is paused and the others are idle, the broker holds a fetch for this long. A
# partition that is resumed meanwhile waits for that fetch to return.
FETCH_WAIT_MS = 100
POLL_S = 0.1
ANSWER_TIMEOUT_S = 10.0
THREAD_STOP_S = 1.0
# An older end offset says nothing about what has been appended since.
KNOWN_END_AGE_MAX_S = 2.0


class Assignments(Protocol):
    """The calls of the consumer on its worker, always on the worker's own loop."""

    def on_assigned(self, topic_partitions: set[TopicPartition]) -> None:
        """Start the owners of these: they are all that is assigned to this worker."""
        ...

    async def on_revoked(self) -> None:
        """Stop all owners: nothing is assigned until the next `on_assigned`. Must be bounded."""
        ...

    def is_flowing(self, topic_partition: TopicPartition) -> bool:
        """Whether the partition's owner has said where to begin."""
        ...

    def on_truncated(self, topic_partition: TopicPartition, offset: int) -> None:
        """Stop the partition's owner: the topic no longer holds ``offset``, which comes next."""
        ...

    def on_unreadable(self, topic_partition: TopicPartition, found: Unreadable) -> None:
        """Stop the partition's owner once it has decided what comes before: nothing else will."""
        ...


class _DaemonThread(WorkerThread):
    """A thread that neither the process nor its loop waits for at the end.

    A broker that is gone can keep a consumer from closing.
    """

    def __init__(self, service: ServiceThread, **kwargs: Any) -> None:
        super().__init__(service, **kwargs)
        self.daemon = True

    def stop(self) -> None:
        self.join(THREAD_STOP_S)


class FetchThread(driver.AIOKafkaConsumerThread):
    """Reads in the consumer's own thread and loop.

    Epochs and serials are set there, and fetches stamped with them, without an await in between. So
    no record from before a seek carries the epoch of that seek.
    """

    Worker = _DaemonThread

    def __post_init__(self) -> None:
        super().__post_init__()
        self._epochs: dict[TP, int] = {}
        self._serials: dict[TP, int] = {}
        self._read_up_to: dict[TP, int] = {}
        self._positions: dict[TP, int] = {}

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        # Otherwise aiokafka would begin to fetch from the committed offsets, in vain.
        self._ensure_consumer().pause(*(aiokafka.TopicPartition(*tp) for tp in assigned))
        await super().on_partitions_assigned(assigned, generation_id)

    async def rewind(self, positions: Mapping[TP, int], epoch: int) -> None:
        """Seek, stamp later fetches with ``epoch``, and resume."""
        for tp in positions:
            self._epochs[tp], self._serials[tp] = epoch, 0
            self._read_up_to[tp] = positions[tp]
            self._positions.pop(tp, None)
        consumer = self._ensure_consumer()
        await self._seek_wait(
            consumer,
            {cast(TP, aiokafka.TopicPartition(*tp)): offset for tp, offset in positions.items()},
        )
        consumer.resume(*(aiokafka.TopicPartition(*tp) for tp in positions))

    def known_end_offset(self, tp: TP) -> int | None:
        """The end offset that the last fetch brought; None if that is too long ago.

        Safe from another thread: it reads two attributes.
        """
        consumer, asked = self._ensure_consumer(), aiokafka.TopicPartition(*tp)
        try:
            heard_at_ms, end = consumer.last_poll_timestamp(asked), consumer.highwater(asked)
        except (AssertionError, AttributeError, KeyError, KafkaError):
            # A rebalance is revoking the partition at this moment.
            return None
        if heard_at_ms is None or time.time() - heard_at_ms / 1000 > KNOWN_END_AGE_MAX_S:
            return None
        return None if end is None else self.end_before_marks(tp, end)

    def end_before_marks(self, tp: TP, end: int) -> int:
        """The offset after the last record if only a transaction's marks follow, else ``end``."""
        read_up_to = self._read_up_to.get(tp, end)
        return read_up_to if read_up_to < end <= self._positions.get(tp, -1) else end

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 - Faust's signature
        max_records: int | None = None,
    ) -> Mapping[TP, list[Any]]:
        # Checked again: the call was queued, and a rebalance may have begun since.
        if not self.consumer.flow_active or not active_partitions:
            return {}
        asked = [aiokafka.TopicPartition(*tp) for tp in active_partitions]
        try:
            fetched, unreadable = await read_fetched(
                consumer, *asked, timeout_ms=int((timeout or 0) * 1000), max_records=max_records
            )
        except OffsetOutOfRangeError as error:
            self._report_truncated(consumer, error.args[0])
            return {}
        except NoOffsetForPartitionError:
            # Asked before a rebalance and answered after it: the new owner has not said yet where
            # to begin.
            return {}
        self._report_unreadable(consumer, unreadable)
        for each in asked:
            if not fetched.get(each):
                await self._note_position(consumer, each)
        return {
            TP(*each): [self._stamped_fetch(TP(*each), records)]
            for each, records in fetched.items()
            if records
        }

    async def _note_position(
        self, consumer: aiokafka.AIOKafkaConsumer, asked: aiokafka.TopicPartition
    ) -> None:
        """Note the consumer's position where the topic goes on and no record comes.

        It may be past a transaction's marks.
        """
        tp = TP(*asked)
        # A rebalance may be revoking the partition at this moment.
        with suppress(TimeoutError, AssertionError, KafkaError):
            end, read_up_to = consumer.highwater(asked), self._read_up_to.get(tp)
            if end is not None and read_up_to is not None and read_up_to < end:
                async with asyncio.timeout(POLL_S):
                    self._positions[tp] = await consumer.position(asked)

    def _stamped_fetch(self, tp: TP, records: list[Any]) -> Fetch:
        self._serials[tp] += 1
        self._read_up_to[tp] = records[-1].offset + 1
        ours = [
            Record(record.offset, record.timestamp, record.key, record.value) for record in records
        ]
        return Fetch(TopicPartition(*tp), self._epochs[tp], self._serials[tp], ours)

    def _report_truncated(
        self, consumer: aiokafka.AIOKafkaConsumer, offsets: Mapping[aiokafka.TopicPartition, int]
    ) -> None:
        assignments = cast(LedgerApp, self.app).assignments
        for each, offset in offsets.items():
            consumer.pause(each)
            self.parent_loop.call_soon_threadsafe(
                assignments.on_truncated, TopicPartition(*each), offset
            )

    def _report_unreadable(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        unreadable: Mapping[aiokafka.TopicPartition, Unreadable],
    ) -> None:
        assignments = cast(LedgerApp, self.app).assignments
        for each, found in unreadable.items():
            consumer.pause(each)
            self.parent_loop.call_soon_threadsafe(
                assignments.on_unreadable, TopicPartition(*each), found
            )

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        """As the stock consumer, but it never jumps to another offset and waits less at the broker.

        It also has our client id.
        """
        conf = self.app.conf
        self._assignor = self.app.assignor
        return new_consumer(
            cast(LedgerApp, self.app).kafka,
            client_id="usageledger-processor",
            group_id=conf.id,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_poll_records=RECORDS_PER_FETCH,
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            max_partition_fetch_bytes=FETCH_BYTES_PER_PARTITION,
            fetch_max_bytes=FETCH_BYTES_MAX,
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
        """Print nothing: `crash` reports the failure to the worker, once."""


class _ReadOffsets(dict[TP, "int | None"]):
    """Remembers nothing.

    Faust drops records below the offset that it read last, even after a seek back. Here epochs and
    serials tell which fetches are stale.
    """

    def __missing__(self, tp: TP) -> None:
        return None

    def __setitem__(self, tp: TP, offset: int | None) -> None:
        return


class FetchConsumer(driver.Consumer):
    """Faust's consumer with one event for each fetch, and the worker's `FetchSource`.

    See the module. Belongs to the worker's loop.
    """

    _thread: FetchThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _ReadOffsets()
        self._next_offsets: dict[TP, int] = {}
        self._starts_owners = False

    async def rewind(self, positions: Mapping[TopicPartition, int], epoch: int) -> None:
        offsets = {TP(*each): offset for each, offset in positions.items()}
        try:
            await asyncio.wait_for(
                self._thread.call_thread(self._thread.rewind, offsets, epoch), ANSWER_TIMEOUT_S
            )
        except (TimeoutError, KafkaError) as error:
            begins = ", ".join(f"{each} at {offset}" for each, offset in positions.items())
            raise LedgerError(
                f"the input topics cannot be read from {begins}: {error!r}"
            ) from error
        for tp in offsets:
            # The new position is to be committed even if it is below the old one.
            self._committed_offset[tp] = None
            self._buffered_partitions.discard(tp)
        self.resume_partitions(offsets)

    def known_end_offset(self, topic_partition: TopicPartition) -> int | None:
        return self._thread.known_end_offset(TP(*topic_partition))

    def end_before_marks(self, topic_partition: TopicPartition, end: int) -> int:
        return self._thread.end_before_marks(TP(*topic_partition), end)

    def pause(self, topic_partition: TopicPartition) -> None:
        self._buffered_partitions.add(TP(*topic_partition))
        self._get_active_partitions().discard(TP(*topic_partition))

    def resume(self, topic_partition: TopicPartition) -> None:
        self._buffered_partitions.discard(TP(*topic_partition))
        self._get_active_partitions().add(TP(*topic_partition))

    def note_decided(self, topic_partition: TopicPartition, next_offset: int) -> None:
        self._next_offsets[TP(*topic_partition)] = next_offset

    def discard(self) -> None:
        """Close the loop of a thread that never ran.

        An app that was stopped before it started its consumer leaves it open.
        """
        loop = self._thread.thread_loop
        if not self._thread.started and not loop.is_running():
            loop.close()

    async def perform_seek(self) -> None:
        """Pause partitions without an owner that has caught up; after an assignment, start owners.

        Short, and harmless when repeated.
        """
        assigned = {TopicPartition(*tp) for tp in self.assignment()}
        assignments = cast(LedgerApp, self.app).assignments
        self.pause_partitions({TP(*each) for each in assigned if not assignments.is_flowing(each)})
        # Faust also calls this between a revocation and the next assignment.
        if self._starts_owners:
            self._starts_owners = False
            assignments.on_assigned(assigned)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self._starts_owners = True
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._starts_owners = False
        await cast(LedgerApp, self.app).assignments.on_revoked()
        self._next_offsets.clear()
        self._buffered_partitions.clear()
        await super().on_partitions_revoked(revoked)

    def on_buffer_full(self, tp: TP) -> None:
        """Do nothing: `pause` is the back-pressure.

        Faust's own queue holds a fetch only until the agent has handed it on, which never waits.
        """

    def on_buffer_drop(self, tp: TP) -> None:
        """Do nothing: see `on_buffer_full`."""

    def ack(self, message: Message) -> bool:
        """Note only that the fetch is done with: `note_decided` says what to commit."""
        message.acked = True
        self._unacked_messages.discard(message)
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: the worker watches its partitions itself.

        The stock check knows no paused partitions, and compares two different clocks.
        """

    def _new_consumer_thread(self) -> FetchThread:
        return FetchThread(self, loop=self.loop, beacon=self.beacon)

    async def _wait_next_records(
        self,
        timeout: float,  # noqa: ASYNC109 - Faust's signature
    ) -> tuple[Any, set[TP] | None]:
        if self.flow_active and not self._get_active_partitions():
            # The stock consumer sleeps for a second here, and every start would wait for that.
            await self.sleep(POLL_S)
            return {}, set()
        return await super()._wait_next_records(timeout)

    async def _getmany(
        self,
        active_partitions: set[TP] | None,
        timeout: float,  # noqa: ASYNC109 - Faust's signature
    ) -> Mapping[TP, list[Any]]:
        # A copy, because the set changes on this loop while the thread iterates over it. The wait
        # is short, because a partition that is resumed meanwhile is only seen next time.
        return await super()._getmany(set(active_partitions or ()), min(timeout, POLL_S))

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        fetch = cast(Fetch, record)
        last = fetch.records[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp_ms / 1000,
            0,
            None,
            None,
            cast(Any, fetch),
            None,
            serialized_key_size=0,
            serialized_value_size=len(fetch.records),
            tp=TP(*tp),
            generation_id=self.app.consumer_generation_id,
        )

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return iter(list(self._next_offsets))

    def _new_offset(self, tp: TP) -> int | None:
        return self._next_offsets.get(tp)


class UnusedProducer(driver.Producer):
    """Faust starts a producer, though the ledger has its own. This one connects as the worker."""

    def _new_producer(self, transactional_id: str | None = None) -> aiokafka.AIOKafkaProducer:
        return new_producer(cast(LedgerApp, self.app).kafka, client_id="usageledger-processor")


class FetchTransport(driver.Transport):
    """Faust's aiokafka transport with our consumer."""

    Consumer = FetchConsumer
    Producer = UnusedProducer


class FetchSchema(faust.Schema[Any, Any]):
    """Passes fetches on as they are."""

    def compile(self, app: Any, **_: Any) -> Callable[..., Awaitable[Any]]:
        event = app.conf.Event

        async def decode(message: Message, *, propagate: bool = False) -> Any:
            return event(app, None, message.value, message.headers, message)

        return decode


class LedgerApp(faust.App):
    """A Faust app without tables, web server, directories or topics of its own."""

    assignments: Assignments
    kafka: KafkaConnection

    def _create_directories(self) -> None:
        """Create nothing: nothing is kept on disk."""


def new_app(
    *,
    kafka: KafkaConnection,
    group: str,
    topics: list[str],
    on_fetch: Callable[[Fetch, Callable[[], object]], None],
) -> LedgerApp:
    """The app that calls ``on_fetch`` with every fetch of ``topics`` and its acknowledgement.

    ``on_fetch`` must not raise.
    """
    app = LedgerApp(
        group,
        broker=[f"kafka://{address.strip()}" for address in kafka.addresses],
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
    app.kafka = kafka
    app.transport = FetchTransport(app.conf.broker_consumer, app)

    @app.agent(app.topic(*topics, schema=FetchSchema()), name="usageledger.feed")
    async def feed(fetches: Any) -> None:
        async for event in fetches.noack().events():
            on_fetch(event.value, event.ack)

    return app
