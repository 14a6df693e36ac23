"""One ledger partition in memory, with its inputs, its view and workers that can be killed: what
tests of the owner stand on.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from usageledger.counters.memory import MemoryView
from usageledger.domain.catalog_document import catalog_document, load_shipped_catalog
from usageledger.domain.chain import SealedEntry, entry_at
from usageledger.domain.encoding import decode_account
from usageledger.domain.entry import LedgerEntry
from usageledger.ledger.records import Record
from usageledger.ledger.timestamps import milliseconds
from usageledger.log.memory import MemoryLedgerPartition, MemoryLog
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.inputs import InputBuffer, Source
from usageledger.processor.owner import PartitionOwner
from usageledger.processor.owner_settings import OwnerSettings
from usageledger.processor.rebuilding import ViewRebuild

DEADLINE_S = 10.0
SETTINGS = OwnerSettings()


def change_settings(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Have later workers own their partition by other settings."""
    monkeypatch.setattr("tests.worlds.ledger_world.SETTINGS", replace(SETTINGS, **changes))


class ListedInputs:
    """An `InputControl` over two lists of records, fed from the offset of the last seek."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.buffer: InputBuffer | None = None
        self.fed: dict[Source, int] = {}
        self.acknowledged: dict[Source, int] = {}
        self.loses_next: set[int] = set()
        """Offsets of usage that are left out the next time they would be fed, as a feeder with a
        fault would.
        """

    async def seek(self, positions: dict[Source, int]) -> None:
        self.fed = dict(positions)
        self.feed()

    def feed(self) -> None:
        assert self.buffer is not None
        for source, position in self.fed.items():
            records = [record for record in self.world.inputs[source] if record.offset >= position]
            if records:
                self.fed[source] = records[-1].offset + 1
                lost = self.loses_next if source is Source.USAGE else set()
                self.buffer.put(source, [record for record in records if record.offset not in lost])
                lost.clear()

    async def end_offset(self, source: Source) -> int:
        return len(self.world.inputs[source])

    def known_end_offset(self, source: Source) -> int | None:
        return self.fed.get(source)

    def acknowledge(self, source: Source, next_offset: int) -> None:
        self.acknowledged[source] = next_offset

    def pause(self, source: Source) -> None: ...

    def resume(self, source: Source) -> None: ...


class Hesitant:
    """A port that lets others run before and after each call, as one behind a network does: a
    worker can be killed at either moment.
    """

    def __init__(self, port: Any) -> None:
        self._port = port

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._port, name)
        if not inspect.iscoroutinefunction(call):
            return call

        async def hesitantly(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            result = await call(*args, **kwargs)
            await asyncio.sleep(0)
            return result

        return hesitantly


class Worker:
    """An owner of the world's partition, with handles of its own on the ledger and the inputs."""

    def __init__(self, world: World, name: str) -> None:
        self.control = ListedInputs(world)
        self.inputs = InputBuffer(self.control)
        self.control.buffer = self.inputs
        self.ledger = MemoryLedgerPartition(world.ledger)
        self.owner = PartitionOwner(
            partition=0,
            partition_count=1,
            ledger=Hesitant(self.ledger),
            view=Hesitant(world.view),
            inputs=self.inputs,
            catalogs=world.catalogs,
            worker=name,
            is_importing=lambda: world.is_importing,
            now=lambda: world.now,
            new_ledger_id=lambda: f"ledger-of-{name}",
            settings=SETTINGS,
        )
        self.task = asyncio.ensure_future(self.owner.run())

    async def kill(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class World:
    """The logs, the view, the catalog topic and the wall clock of one partition."""

    def __init__(self, *, importing: bool = False) -> None:
        self.ledger = MemoryLog()
        self.view = MemoryView()
        self.catalogs = CatalogLog()
        self.inputs: dict[Source, list[Record]] = {source: [] for source in Source}
        self.is_importing = importing
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self._workers: list[Worker] = []
        self._names = (f"worker-{n}" for n in itertools.count(1))

    def publish_catalog(self, **changes: Any) -> None:
        document = {**catalog_document(load_shipped_catalog()), **changes}
        event = {
            "specversion": "1.0",
            "type": "catalog.published",
            "id": document["version"],
            "source": "/catalog",
            "data": document,
        }
        offset = sum(1 for _ in self.catalogs.before(2**31))
        self.catalogs.put(
            [Record(offset, milliseconds(self.now), None, json.dumps(event).encode())]
        )

    def send(
        self,
        type_: str,
        time: str,
        account: str = "a",
        *,
        event_id: str | None = None,
        appended: str | None = None,
        **data: Any,
    ) -> None:
        """Append an event at ``appended`` (its own time unless given)."""
        source = Source.USAGE if type_ == "usage.recorded" else Source.ACCOUNT
        offset = len(self.inputs[source])
        event_id = event_id or f"{source.value}-{offset}"
        event = {
            "specversion": "1.0",
            "type": type_,
            "id": event_id,
            "source": "/test",
            "subject": account,
            "time": time,
            "data": data,
        }
        at = milliseconds(datetime.fromisoformat(appended or time))
        self.inputs[source].append(Record(offset, at, account.encode(), json.dumps(event).encode()))
        for worker in self._workers:
            if worker.control.fed:
                worker.control.feed()

    def use(
        self,
        time: str,
        account: str = "a",
        *,
        quantity: str = "1",
        model: str = "veo_3",
        **rest: Any,
    ) -> None:
        """Append a use of a video model, 32 credits a generation."""
        self.send(
            "usage.recorded",
            time,
            account,
            feature="genai_video",
            model=model,
            quantity=quantity,
            **rest,
        )

    def start_worker(self) -> Worker:
        worker = Worker(self, next(self._names))
        self._workers.append(worker)
        return worker

    async def stop(self) -> None:
        for worker in self._workers:
            await worker.kill()

    async def until(self, condition: Any) -> None:
        """Wait, within a deadline, until the condition holds."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():  # noqa: ASYNC110 - what is waited for is any state of the world
                await asyncio.sleep(0.002)

    async def settled(self) -> None:
        """Wait until every input has an entry and the view stands at the ledger's last one."""
        await self.until(
            lambda: (
                self.decided_inputs() == self.sent_inputs() and self.view_hash() == self.last_hash()
            )
        )

    def entries(self) -> list[LedgerEntry]:
        return [sealed.entry for sealed in self.sealed()]

    def sealed(self) -> list[SealedEntry]:
        return [
            entry
            for record in self.ledger.records
            if (entry := entry_at(record.offset, record.value)) is not None
        ]

    def sent_inputs(self) -> list[tuple[str, int]]:
        return sorted(
            (source.value, record.offset)
            for source, records in self.inputs.items()
            for record in records
        )

    def decided_inputs(self) -> list[tuple[str, int]]:
        return sorted(
            {
                (e.input.topic, offset)
                for e in self.entries()
                if e.input is not None and e.input.topic != "catalog"
                for offset in e.input_offsets
            }
        )

    def view_hash(self) -> str:
        head = self.view.stored_head
        return head.position.hash if head is not None else ""

    def last_hash(self) -> str:
        sealed = self.sealed()
        return sealed[-1].hash if sealed else ""

    def used(self, account: str = "a") -> int:
        """The account's use in its current period by the view, in whole credits."""
        return decode_account(self.view.stored_accounts[account]).period.used // 1_000_000


def rebuild_of(
    world: World, on_progress: Callable[[int, int], None] = lambda done, of: None
) -> ViewRebuild:
    """A rebuild as by ``rebuild --partition 0``, on the world's ledger and view."""

    async def read_catalogs() -> None: ...

    return ViewRebuild(
        0,
        1,
        ledger=Hesitant(MemoryLedgerPartition(world.ledger)),
        view=Hesitant(world.view),
        catalogs=world.catalogs,
        read_catalogs=read_catalogs,
        settings=SETTINGS,
        operator="operator",
        on_progress=on_progress,
    )


@asynccontextmanager
async def a_world(**options: Any) -> AsyncIterator[World]:
    world = World(**options)
    world.publish_catalog()
    try:
        yield world
    finally:
        await world.stop()
