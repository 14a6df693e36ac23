"""One partition of ``ledger.entries`` on Kafka, by aiokafka: the single writer and its reader.

Each partition has an idempotent producer of its own. A shared one would save connections, about two
for each partition, but it would spread failures:

- aiokafka sends one produce request at a time to each broker, so one partition's slow replica would
  delay the others.
- After any failure the producer must be thrown away, so every partition of the worker would have to
  claim again because of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from aiokafka import TopicPartition
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    OffsetOutOfRangeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)

from usageledger.ledger.records import (
    AppendOutcomeUnknown,
    GroupTooLarge,
    KeyedValue,
    LedgerError,
    Record,
    RecordsMissing,
    RecordsUnreadable,
    Superseded,
)
from usageledger.log.aiokafka_clients import new_consumer, new_producer
from usageledger.log.aiokafka_reading import read_fetched
from usageledger.log.bounded_codecs import FETCH_BYTES_MAX
from usageledger.log.missing_rights import missing_right
from usageledger.log.packing import pack
from usageledger.log.producer_end import end_producer
from usageledger.runtime.kafka_connection import KafkaConnection

COMPRESSION = "zstd"
_UNKNOWN_OFFSET = -1
_POLL_MS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSettings:
    """Sizes in bytes before compression.

    ``group_bytes_max`` must not exceed the topic's ``max.message.bytes``.

    ``read_chunk_records``: few enough that the decoded entries stay in a CPU's cache until they are
    folded.
    """

    batch_bytes: int = 512 * 1024
    group_bytes_max: int = 8 * 1024 * 1024 - 64 * 1024
    append_timeout_s: float = 10.0
    claim_timeout_s: float = 15.0
    no_progress_timeout_s: float = 15.0
    read_chunk_records: int = 1_000


class KafkaLedgerPartition:
    """The Kafka adapter of ``ledger.records.LedgerPartition``.

    Belongs to one event loop; ``close()`` it when the partition is given up.
    """

    def __init__(
        self,
        *,
        kafka: KafkaConnection,
        topic: str,
        partition: int,
        settings: LedgerSettings | None = None,
    ) -> None:
        self._kafka = kafka
        self._topic_partition = TopicPartition(topic, partition)
        self._settings = settings or LedgerSettings()
        self._producer: Any = None
        self._appending = asyncio.Lock()
        self._endings: set[asyncio.Task[None]] = set()

    async def claim(self, claim: KeyedValue) -> int:
        """Append a claim with a new producer and return the offset of that record.

        Raises LedgerError.
        """
        async with self._appending:
            # A batch of the old producer may still land before or after the claim. The offset that
            # each entry names says whether it is valid.
            self._discard_producer()
            try:
                async with asyncio.timeout(self._settings.claim_timeout_s):
                    self._producer = await self._start_producer()
                    (offset,) = await self._send([[claim]])
            except BaseException as error:  # noqa: BLE001 - raised on as a ledger error
                self._discard_producer()
                self._raise_as_ledger_error(error, "claim")
            if offset == _UNKNOWN_OFFSET:
                self._discard_producer()
                raise AppendOutcomeUnknown(
                    f"{self._name}: the broker accepted the claim and did not say at which offset"
                )
            return offset

    async def append(self, expected_offset: int, groups: Sequence[Sequence[KeyedValue]]) -> None:
        """Append groups, each whole in one record batch: see LedgerPartition.

        The first record must get ``expected_offset``. Raises GroupTooLarge if the entries of one
        input do not fit a batch. Then nothing was sent and the claim is still good.
        """
        settings = self._settings
        batches = pack(
            groups, batch_bytes=settings.batch_bytes, group_bytes_max=settings.group_bytes_max
        )
        async with self._appending:
            if self._producer is None:
                raise LedgerError(f"{self._name}: nothing can be appended before a claim")
            try:
                async with asyncio.timeout(settings.append_timeout_s):
                    offsets = await self._send(batches)
                self._check_offsets(expected_offset, batches, offsets)
            except BaseException as error:  # noqa: BLE001 - raised on as a ledger error
                # Also when cancelled: nobody learns the outcome of the batches already sent,
                # and a later append must not follow them.
                self._discard_producer()
                self._raise_as_ledger_error(error, "append")

    async def read(self, start: int, stop: int) -> AsyncIterator[Sequence[Record]]:
        """Yield chunks of the records with ``start <= offset < stop``.

        Raises RecordsMissing if ``start`` is no longer in the log, RecordsUnreadable where a batch
        cannot be decoded.
        """
        if start >= stop:
            return
        async with self._reader() as consumer:
            consumer.seek(self._topic_partition, start)
            position, moved_at = start, self._now()
            while True:
                records = [
                    record
                    for record in await self._next_chunk(consumer, position)
                    if record.offset < stop
                ]
                reached = await consumer.position(self._topic_partition)
                if reached >= stop:
                    break
                if reached > position:
                    position, moved_at = reached, self._now()
                elif self._now() - moved_at > self._settings.no_progress_timeout_s:
                    raise LedgerError(
                        f"{self._name}: no record came at offset {position} of {stop}"
                    )
                if records:
                    yield records
        # The last chunk is yielded after the consumer is closed. A caller that wants only the first
        # records then leaves no consumer open.
        if records:
            yield records

    async def start_offset(self) -> int:
        """The offset of the oldest record that is still there. Raises LedgerError."""
        async with self._reader() as consumer:
            offsets: dict[TopicPartition, int] = await self._answer(
                consumer.beginning_offsets([self._topic_partition])
            )
        return offsets[self._topic_partition]

    async def end_offset(self) -> int:
        """The offset that the next record will have. Raises LedgerError."""
        async with self._reader() as consumer:
            offsets: dict[TopicPartition, int] = await self._answer(
                consumer.end_offsets([self._topic_partition])
            )
        return offsets[self._topic_partition]

    async def close(self) -> None:
        """Give up the producer. The outcome of unfinished appends counts as unknown."""
        self._discard_producer()
        while self._endings:
            await asyncio.wait(self._endings)

    async def _start_producer(self) -> Any:
        settings = self._settings
        producer = new_producer(
            self._kafka,
            client_id=f"usageledger-ledger-{self._topic_partition.partition}",
            acks="all",
            enable_idempotence=True,
            compression_type=COMPRESSION,
            max_batch_size=settings.group_bytes_max,
            max_request_size=settings.group_bytes_max,
            request_timeout_ms=int(settings.append_timeout_s * 1000),
            retry_backoff_ms=50,
        )
        try:
            await producer.start()
            if self._topic_partition.partition not in (
                await producer.partitions_for(self._topic_partition.topic) or ()
            ):
                raise LedgerError(f"{self._name}: there is no such partition")
        except BaseException:
            self._end_later(producer)
            raise
        return producer

    async def _send(self, batches: Sequence[Sequence[KeyedValue]]) -> list[int]:
        """Send each as one record batch, in order; return the offsets at which they begin.

        An offset is -1 where the broker did not say.
        """
        sent = []
        for batch in batches:
            builder = self._producer.create_batch()
            for key, value in batch:
                if builder.append(key=key, value=value, timestamp=None) is None:
                    raise GroupTooLarge(
                        f"{self._name}: a batch of {len(batch)} records has no room for them all"
                    )
            # Closed, or the producer might add others' records to it.
            builder.close()
            answer = await self._producer.send_batch(
                builder, self._topic_partition.topic, partition=self._topic_partition.partition
            )
            # Retrieves the exception of a batch that nobody waits for any more, or asyncio would
            # log it.
            answer.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            sent.append(answer)
        await asyncio.shield(asyncio.gather(*sent, return_exceptions=True))
        return [answer.result().offset for answer in sent]

    def _check_offsets(
        self, expected_offset: int, batches: Sequence[Sequence[KeyedValue]], offsets: Sequence[int]
    ) -> None:
        for batch, offset in zip(batches, offsets, strict=True):
            if offset == _UNKNOWN_OFFSET:
                raise AppendOutcomeUnknown(
                    f"{self._name}: the broker did not say where the batch for offset "
                    f"{expected_offset} is"
                )
            if offset != expected_offset:
                raise Superseded(
                    f"{self._name}: a batch for offset {expected_offset} is at {offset}"
                )
            expected_offset += len(batch)

    def _raise_as_ledger_error(self, error: BaseException, doing: str) -> NoReturn:
        """Raise the ledger error that a failed claim or append means to the owner.

        Only the broker's refusal says for sure that nothing was appended.
        """
        match error:
            case MessageSizeTooLargeError() | RecordListTooLargeError():
                limit = self._settings.group_bytes_max
                raise GroupTooLarge(
                    f"{self._name}: the topic accepts only smaller batches than the {limit} bytes "
                    "set here"
                ) from error
            case TopicAuthorizationFailedError():
                topic = self._topic_partition.topic
                refused = LedgerError(missing_right(self._kafka, "write to", topic, "processor"))
                refused.retriable = False
                raise refused from error
            case TimeoutError():
                raise AppendOutcomeUnknown(
                    f"{self._name}: no answer to the {doing} in time"
                ) from error
            case KafkaError() | OSError():
                raise AppendOutcomeUnknown(f"{self._name}: {doing} failed: {error!r}") from error
            case _:
                raise error

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[Any]:
        """A consumer of this partition alone, in no group.

        It raises where its offset is not in the log: it never jumps to another.
        """
        consumer = new_consumer(
            self._kafka,
            client_id=f"usageledger-ledger-{self._topic_partition.partition}",
            auto_offset_reset="none",
            enable_auto_commit=False,
            check_crcs=True,
            max_partition_fetch_bytes=self._settings.group_bytes_max,
            fetch_max_bytes=FETCH_BYTES_MAX,
            request_timeout_ms=int(self._settings.no_progress_timeout_s * 1000),
        )
        consumer.assign([self._topic_partition])
        try:
            await self._answer(consumer.start())
            yield consumer
        finally:
            with suppress(TimeoutError, KafkaError):
                await asyncio.wait_for(consumer.stop(), self._settings.no_progress_timeout_s)

    async def _next_chunk(self, consumer: Any, position: int) -> list[Record]:
        try:
            fetched, unreadable = await read_fetched(
                consumer,
                self._topic_partition,
                timeout_ms=_POLL_MS,
                max_records=self._settings.read_chunk_records,
            )
        except OffsetOutOfRangeError as error:
            raise RecordsMissing(f"{self._name}: offset {position} is not in the log") from error
        except KafkaError as error:
            raise LedgerError(
                f"{self._name}: reading at offset {position} failed: {error!r}"
            ) from error
        records = [
            Record(found.offset, found.timestamp, found.key, found.value)
            for found in fetched.get(self._topic_partition, ())
        ]
        if unreadable and not records:
            (place,) = unreadable.values()
            raise RecordsUnreadable(
                f"{self._name} cannot be read from offset {place.offset} on: {place.why}"
            )
        return records

    async def _answer(self, question: Any) -> Any:
        try:
            async with asyncio.timeout(
                self._settings.no_progress_timeout_s
            ):  # `wait_for` can swallow a cancellation (cpython #86296)
                return await question
        except (TimeoutError, KafkaError, OSError) as error:
            raise LedgerError(f"{self._name}: Kafka did not answer: {error!r}") from error

    def _discard_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            self._end_later(producer)

    def _end_later(self, producer: Any) -> None:
        task = asyncio.get_running_loop().create_task(end_producer(producer))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    @property
    def _name(self) -> str:
        return f"{self._topic_partition.topic}/{self._topic_partition.partition}"

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
