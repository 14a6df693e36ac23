"""The owners of a new ledger's partitions, which run in this process until all is decided.

They are the processor's own. Only their inputs are fed from here: whatever was sent is read back
from the topics.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from typing import Any, Protocol

from kafka.errors import KafkaError

from usageledger.counters.holding import Hold
from usageledger.counters.view import PartitionView
from usageledger.domain.encoding import decode_head
from usageledger.ledger.records import LedgerError, LedgerPartition, Record
from usageledger.log.reading import LogUnreadable, RecordReader
from usageledger.log.topics import Topics
from usageledger.operations.errors import OperatorError
from usageledger.operations.event_file import Input
from usageledger.operations.record_sender import RecordPublisher
from usageledger.operations.resharding.history import records_between
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.inputs import InputBuffer, InputControl, Source
from usageledger.processor.owner import PartitionOwner
from usageledger.runtime.tasks import cancel_and_wait

LOOK_EVERY_S = 0.01
STALLED_AFTER_S = 120.0


class ReadPorts(Protocol):
    """A ledger in Kafka and Redis as it is read. ``reader`` is for one caller at a time."""

    @property
    def topics(self) -> Topics: ...

    @property
    def reader(self) -> RecordReader: ...

    async def open_holds(self, partition: int) -> dict[tuple[str, str], Hold]:
        """The partition's open holds by account and id. Raises ViewError."""
        ...


class LedgerPorts(ReadPorts, Protocol):
    """A ledger in Kafka and Redis as its owners need it. Adapters: `servers`, and the tests'."""

    def ledger(self, partition: int) -> LedgerPartition: ...

    def view(self, partition: int) -> PartitionView: ...

    def connect(self, input: Input) -> RecordPublisher: ...

    def publish_catalog(self, value: bytes) -> None:
        """Append a record to the catalog topic. Raises OperatorError."""
        ...

    async def place_hold(
        self, partition: int, account: str, id: str, hold: Hold, seen: bytes | None
    ) -> None:
        """Place an open hold as it is, on an account whose stored state is ``seen``.

        Raises OperatorError, ViewError.
        """
        ...


class DecidingStopped(OperatorError):
    """A partition of the new ledger has stopped, or decides nothing more."""


class NewLedger:
    """The owners of all partitions of a ledger in import mode. Made by `deciding`."""

    def __init__(self, ports: LedgerPorts, partition_count: int) -> None:
        self.ports = ports
        self.partition_count = partition_count
        self.running: asyncio.Task[Any] | None = None
        self._catalogs = CatalogLog()
        reading = asyncio.Lock()
        self._inputs = [_Inputs(ports, partition, reading) for partition in range(partition_count)]
        worker = f"reshard/{socket.gethostname()}/{os.getpid()}"
        self._owners = [
            PartitionOwner(
                partition=inputs.partition,
                partition_count=partition_count,
                ledger=ports.ledger(inputs.partition),
                view=ports.view(inputs.partition),
                inputs=inputs.buffer,
                catalogs=self._catalogs,
                worker=worker,
                is_importing=lambda: True,
                now=lambda: datetime.now(UTC),
                new_ledger_id=lambda: uuid.uuid4().hex,
            )
            for inputs in self._inputs
        ]

    async def adopt(self, values: Sequence[bytes]) -> None:
        """Publish catalogs, and wait until every partition has adopted them.

        Raises OperatorError, ViewError, KafkaError.
        """
        for value in values:
            await asyncio.to_thread(self.ports.publish_catalog, value)
        records = await asyncio.to_thread(self._unread_catalogs)
        self._catalogs.put(records)
        wanted = self._catalogs.next_offset
        for partition in range(self.partition_count):
            await self._wait_until(partial(self._has_adopted, partition, wanted))

    async def decide(self, order: Mapping[int, Sequence[Input]]) -> None:
        """Have decided what was sent since the last call, and wait for it.

        ``order`` says of each partition from which input each next record comes. Raises
        OperatorError, LogUnreadable, KafkaError.
        """
        for inputs in self._inputs:
            await inputs.extend(order.get(inputs.partition, ()))

        async def is_decided() -> bool:
            return all(inputs.is_decided for inputs in self._inputs)

        await self._wait_until(is_decided)

    async def run(self) -> None:
        """Own the partitions until cancelled."""
        await asyncio.gather(*(owner.run() for owner in self._owners))

    def _unread_catalogs(self) -> list[Record]:
        reader, topic = self.ports.reader, self.ports.topics.catalog
        end = reader.end_offset(topic, 0)
        return list(records_between(reader, topic, 0, self._catalogs.next_offset, end))

    async def _has_adopted(self, partition: int, wanted: int) -> bool:
        head = await self.ports.view(partition).head()
        return head is not None and decode_head(head.value).catalog_next >= wanted

    async def _wait_until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait for a condition. Raises DecidingStopped if a partition stops, or nothing moves."""
        moved_s, before = time.monotonic(), self._progress()
        while not await condition():
            if self.running is not None and self.running.done():
                self.running.result()
            for owner in self._owners:
                if owner.stopped_because is not None:
                    raise DecidingStopped(
                        f"partition {owner.partition} of the new ledger has stopped: "
                        f"{owner.stopped_because}"
                    )
            now_s, progress = time.monotonic(), self._progress()
            if progress != before:
                moved_s, before = now_s, progress
            elif now_s - moved_s > STALLED_AFTER_S:
                raise DecidingStopped(
                    f"the new ledger has decided nothing for {STALLED_AFTER_S:.0f} s, though "
                    "inputs are left: see the logs of Kafka and Redis"
                )
            await asyncio.sleep(LOOK_EVERY_S)

    def _progress(self) -> list[int | None]:
        return [owner.ledger_end for owner in self._owners]


@asynccontextmanager
async def deciding(ports: LedgerPorts, partition_count: int) -> AsyncIterator[NewLedger]:
    """The new ledger while its owners run."""
    ledger = NewLedger(ports, partition_count)
    ledger.running = asyncio.create_task(ledger.run())
    try:
        yield ledger
    finally:
        await cancel_and_wait([ledger.running])


class OrderedBuffer(InputBuffer):
    """Shows an owner the two inputs in a given order, whatever the dates of their records are.

    The dates alone do not say in which order the old ledger decided. The new ledger's entries
    record the order, as those of every ledger do.
    """

    def __init__(self, control: InputControl) -> None:
        super().__init__(control)
        self._order: deque[tuple[Source, int]] = deque()

    def expect(self, order: Iterable[tuple[Source, int]]) -> None:
        """Add the inputs and offsets of the records that come next."""
        self._order.extend(order)

    def peek(self, source: Source) -> Record | None:
        return super().peek(source) if self._next_source() is source else None

    def pop(self, source: Source, *, until_ms: int | None, limit: int) -> list[Record]:
        self._next_source()
        run = sum(1 for _ in takewhile(lambda each: each[0] is source, self._order))
        return super().pop(source, until_ms=until_ms, limit=min(limit, run))

    def _next_source(self) -> Source | None:
        while self._order and self._order[0][1] < self.position(self._order[0][0]):
            self._order.popleft()
        return self._order[0][0] if self._order else None


class _Inputs:
    """An `InputControl` that feeds what was sent to one partition, in the order of sending."""

    def __init__(self, ports: LedgerPorts, partition: int, reading: asyncio.Lock) -> None:
        self.partition = partition
        self.buffer = OrderedBuffer(self)
        self._ports = ports
        self._reading = reading
        self._topics = {Source.USAGE: ports.topics.usage, Source.ACCOUNT: ports.topics.account}
        self._sent = dict.fromkeys(Source, 0)
        self._fed: dict[Source, int] = {}
        self._decided = dict.fromkeys(Source, 0)

    @property
    def is_decided(self) -> bool:
        """Whether all that was sent is decided and in the counters."""
        return self._decided == self._sent

    async def extend(self, order: Sequence[Input]) -> None:
        """Feed the records that were sent since the last call. Raises DecidingStopped."""
        for input_ in order:
            source = Source(input_)
            self.buffer.expect([(source, self._sent[source])])
            self._sent[source] += 1
        async with self._reading:
            await asyncio.to_thread(self._check_ends)
        # Before the owner has claimed there is nothing to add to: its first seek feeds everything.
        if order and self._fed:
            await self._feed()

    def _check_ends(self) -> None:
        for source, topic in self._topics.items():
            end = self._ports.reader.end_offset(topic, self.partition)
            if end != self._sent[source]:
                raise DecidingStopped(
                    f"{topic}/{self.partition} has {end} records, and {self._sent[source]} were "
                    "sent: nothing else may write to the new ledger before `usageledger go-live`. "
                    "Stop what does, and repeat with another --to-prefix"
                )

    async def seek(self, positions: dict[Source, int]) -> None:
        self._fed, self._decided = dict(positions), dict(positions)
        try:
            await self._feed()
        except (KafkaError, LogUnreadable, OSError) as error:
            raise LedgerError(f"the inputs cannot be read: {error}") from error

    async def _feed(self) -> None:
        async with self._reading:
            fed, sent = dict(self._fed), dict(self._sent)
            records = await asyncio.to_thread(self._read, fed, sent)
            # Otherwise the owner began again meanwhile, and feeds itself.
            if fed == self._fed:
                for source in Source:
                    self.buffer.put(source, records[source])
                self._fed = sent

    def _read(
        self, starts: dict[Source, int], stops: dict[Source, int]
    ) -> dict[Source, list[Record]]:
        reader = self._ports.reader
        return {
            source: list(
                records_between(reader, topic, self.partition, starts[source], stops[source])
            )
            for source, topic in self._topics.items()
        }

    async def end_offset(self, source: Source) -> int:
        # The order says what comes next, so the merge waits for neither input.
        return self.buffer.position(source)

    def known_end_offset(self, source: Source) -> int | None:
        return self.buffer.position(source)

    def acknowledge(self, source: Source, next_offset: int) -> None:
        self._decided[source] = next_offset

    def pause(self, source: Source) -> None: ...

    def resume(self, source: Source) -> None: ...
