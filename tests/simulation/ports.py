"""The owner's ports over the simulated network: a partition of the ledger, and its view."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from tests.simulation.network import Disconnected, Link, Network, Server
from tests.simulation.scheduler import Process
from tests.simulation.servers import SimulatedLog, SimulatedView
from usageledger.counters.view import Fetched, Position, Snapshot, StoredHead, ViewChange, ViewError
from usageledger.ledger.records import (
    AppendOutcomeUnknown,
    KeyedValue,
    LedgerError,
    Record,
    RecordsMissing,
    Superseded,
)
from usageledger.log.packing import pack

T = TypeVar("T")

CLAIM_TIMEOUT_S = 15.0
APPEND_TIMEOUT_S = 10.0
ASK_TIMEOUT_S = 15.0
VIEW_TIMEOUT_S = 2.0
GROUP_BYTES_MAX = 8 * 1024 * 1024 - 64 * 1024


class LedgerHandle:
    """One owner's `LedgerPartition`.

    A failure ends its link, as it ends the Kafka adapter's producer. A request that is already on
    its way still arrives.
    """

    def __init__(
        self,
        network: Network,
        kafka: Server,
        process: Process,
        log: SimulatedLog,
        *,
        batch_bytes: int,
        chunk: int,
    ) -> None:
        self._network = network
        self._kafka = kafka
        self._process = process
        self._log = log
        self._batch_bytes = batch_bytes
        self._chunk = chunk
        self._link: Link | None = None
        self._appending = asyncio.Lock()
        self.borrowed_claim: int | None = None
        """The offset that the next claim returns, instead of claiming. Two workers then go on from
        one claim, as copies of a running machine do.
        """
        self.claimed_at: int | None = None

    async def claim(self, claim: KeyedValue) -> int:
        async with self._appending:
            self._link = None
            link = Link(self._kafka, self._process, is_strict=True)
            borrowed, self.borrowed_claim = self.borrowed_claim, None
            if borrowed is None:
                (borrowed,) = await self._append_batches(link, [[claim]], CLAIM_TIMEOUT_S)
            self._link = link
            self.claimed_at = borrowed
            return borrowed

    async def append(self, expected_offset: int, groups: Sequence[Sequence[KeyedValue]]) -> None:
        batches = pack(groups, batch_bytes=self._batch_bytes, group_bytes_max=GROUP_BYTES_MAX)
        async with self._appending:
            link, self._link = self._link, None
            if link is None:
                raise LedgerError("nothing can be appended before a claim")
            offsets = await self._append_batches(link, batches, APPEND_TIMEOUT_S)
            self.check_offsets(expected_offset, batches, offsets)
            self._link = link

    def check_offsets(
        self, expected_offset: int, batches: Sequence[Sequence[KeyedValue]], offsets: Sequence[int]
    ) -> None:
        """Raise Superseded if a batch was appended at another offset than was expected."""
        for batch, offset in zip(batches, offsets, strict=True):
            if offset != expected_offset:
                raise Superseded(f"a batch for offset {expected_offset} was appended at {offset}")
            expected_offset += len(batch)

    async def read(self, start: int, stop: int) -> AsyncIterator[Sequence[Record]]:
        link = Link(self._kafka, self._process)
        while start < stop:
            records = await self._ask(link, partial(self._slice, start, stop))
            start = records[-1].offset + 1
            yield records

    async def start_offset(self) -> int:
        return await self._ask(Link(self._kafka, self._process), lambda: self._log.start_offset)

    async def end_offset(self) -> int:
        return await self._ask(Link(self._kafka, self._process), lambda: self._log.end_offset)

    def _slice(self, start: int, stop: int) -> Sequence[Record]:
        if not self._log.start_offset <= start <= self._log.end_offset:
            raise RecordsMissing(f"offset {start} is not in the log")
        if start == self._log.end_offset:
            raise LedgerError(f"there is no record at offset {start}, before {stop}")
        return self._log.records[start : min(stop, start + self._chunk)]

    async def _append_batches(
        self, link: Link, batches: Sequence[Sequence[KeyedValue]], timeout_s: float
    ) -> list[int]:
        try:
            async with asyncio.timeout(timeout_s):
                sent = [
                    self._network.send(link, partial(self._log.append_batch, batch))
                    for batch in batches
                ]
                return [await answer for answer in sent]
        except (TimeoutError, Disconnected) as error:
            raise AppendOutcomeUnknown(f"no answer: {error!r}") from error

    async def _ask(self, link: Link, question: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return await self._network.send(link, question)
        except (TimeoutError, Disconnected) as error:
            raise LedgerError(f"Kafka did not answer: {error!r}") from error


class ViewHandle:
    """One owner's `PartitionView`: one connection, and another one after each failure."""

    def __init__(
        self, network: Network, store: Server, process: Process, view: Callable[[], SimulatedView]
    ) -> None:
        self._network = network
        self._store = store
        self._process = process
        self._view = view
        self._link = Link(store, process)

    async def head(self) -> StoredHead | None:
        return await self._write(lambda: self._view().head())

    async def fetch(
        self,
        expected: Position | None,
        accounts: Sequence[str],
        identities: Sequence[tuple[int, bytes]],
    ) -> Fetched:
        return await self._ask(lambda: self._view().fetch(expected, accounts, identities))

    async def commit(self, expected: Position | None, change: ViewChange) -> None:
        await self._write(lambda: self._view().commit(expected, change))

    async def verify(self, expected: Position) -> None:
        await self._write(lambda: self._view().verify(expected))

    async def due(self, expected: Position | None = None) -> Mapping[str, int]:
        return await self._write(lambda: self._view().due(expected))

    async def snapshot(self) -> Snapshot:
        return await self._write(lambda: self._view().snapshot())

    async def clear(self) -> None:
        await self._write(lambda: self._view().clear())

    def beside(self) -> ViewHandle:
        return ViewHandle(self._network, self._store, self._process, lambda: self._view().beside())

    async def take_over(self, beside: Position) -> None:
        await self._write(lambda: self._view().take_over(beside))

    async def _write(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Make a call that counts as a write: a store that is full or read-only refuses it."""

        async def refused() -> T:
            raise ViewError("the store is full, or a read-only replica")

        def is_refused() -> bool:
            return self._store.refuses_writes_until > self._network.now()

        return await self._ask(lambda: refused() if is_refused() else call())

    async def _ask(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            async with asyncio.timeout(VIEW_TIMEOUT_S):
                return await self._network.send(self._link, lambda: immediate_result(call()))
        except (TimeoutError, Disconnected) as error:
            self._link = Link(self._store, self._process)
            raise ViewError(f"the store did not answer: {error!r}") from error


def immediate_result(call: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits. Raises AssertionError if it does."""
    try:
        call.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("the coroutine waits for something")
