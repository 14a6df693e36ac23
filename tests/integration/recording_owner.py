"""A stand-in for the owner of a partition: it decides nothing and writes down in the ledger what it
was fed, by the log-first rules.

Run as a program it is a worker process:
``python -m tests.integration.recording_owner KAFKA PREFIX [fail-at-record N]``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

from usageledger.ledger.records import KeyedValue, LedgerError, Record
from usageledger.log.kafka_ledger import KafkaLedgerPartition
from usageledger.log.topics import Topics
from usageledger.processor.inputs import InputBuffer, InputControl, Source
from usageledger.processor.reused_ids import ReusedIds
from usageledger.processor.worker import OwnerFactory, run_worker
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.runtime.process import run_process

CHUNK_RECORDS = 400


class RecordingOwner:
    """Appends one entry a chunk: its own offset, the source, the offset after the chunk, and the
    chunk's values.
    """

    def __init__(
        self,
        partition: int,
        control: InputControl,
        *,
        ledger: KafkaLedgerPartition,
        records_max: int = 20_000,
        before_append: Callable[[RecordingOwner, list[Record]], Any] | None = None,
    ) -> None:
        self.partition = partition
        self.inputs = InputBuffer(control, records_max=records_max)
        self.state = "claiming"
        self.stopped_because: str | None = None
        self.waiting_because: str | None = None
        self.catch_up_progress: tuple[int, int] | None = None
        self.ledger_end: int | None = None
        self.reused_ids = ReusedIds()
        self.begun_at: list[dict[Source, int]] = []
        self.records_seen = 0
        self._ledger = ledger
        self._before_append = before_append

    async def run(self) -> None:
        try:
            while self.stopped_because is None:
                try:
                    await self._own()
                except LedgerError:
                    self.state = "claiming"
                    await asyncio.sleep(0.1)
        finally:
            await self._ledger.close()

    async def _own(self) -> None:
        offset = await self._ledger.claim(KeyedValue(None, b"claim")) + 1
        self.state = "catching_up"
        positions = {Source.USAGE: 0, Source.ACCOUNT: 0}
        for entry in await valid_entries(self._ledger, offset):
            positions[Source(entry["source"])] = entry["next"]
        self.begun_at.append(dict(positions))
        await self.inputs.seek(positions)
        self.state = "running"
        while self.stopped_because is None:
            offset = await self._append_next(offset)

    async def _append_next(self, offset: int) -> int:
        for source in Source:
            records = self.inputs.pop(source, until_ms=None, limit=CHUNK_RECORDS)
            if not records:
                continue
            self.records_seen += len(records)
            if self._before_append is not None:
                await self._before_append(self, records)
            values = [(record.value or b"").decode() for record in records]
            entry = {
                "at": offset,
                "source": source.value,
                "next": records[-1].offset + 1,
                "values": values,
            }
            await self._ledger.append(offset, [[KeyedValue(b"acct", json.dumps(entry).encode())]])
            self.inputs.control.acknowledge(source, records[-1].offset + 1)
            return offset + 1
        await self.inputs.wait_for_change(0.2)
        return offset


async def valid_entries(
    ledger: KafkaLedgerPartition, stop: int | None = None
) -> list[dict[str, Any]]:
    """The entries whose offset is the one that they name."""
    entries = []
    end = await ledger.end_offset() if stop is None else stop
    async for chunk in ledger.read(0, end):
        for record in chunk:
            if record.value is not None and record.value != b"claim":
                entry: dict[str, Any] = json.loads(record.value)
                if entry["at"] == record.offset:
                    entries.append(entry)
    return entries


def recording_owners(
    kafka: KafkaConnection, prefix: str, made: list[RecordingOwner] | None = None, **options: Any
) -> OwnerFactory:
    """Makes recording owners, and lists them in ``made``."""

    def make(partition: int, control: InputControl) -> RecordingOwner:
        ledger = KafkaLedgerPartition(kafka=kafka, topic=Topics(prefix).ledger, partition=partition)
        owner = RecordingOwner(partition, control, ledger=ledger, **options)
        if made is not None:
            made.append(owner)
        return owner

    return make


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    servers, prefix, *rest = sys.argv[1:]
    kafka = KafkaConnection(servers=servers)
    fail_at = int(rest[1]) if rest[:1] == ["fail-at-record"] else None

    async def choke(owner: RecordingOwner, _: list[Record]) -> None:
        if fail_at is not None and owner.records_seen >= fail_at:
            raise ValueError(f"choked on record {fail_at}")

    async def service(stop: asyncio.Event) -> None:
        await run_worker(
            kafka=kafka,
            prefix=prefix,
            owner_factory=recording_owners(kafka, prefix, before_append=choke),
            stop=stop,
        )

    # A busy machine may need more than a service's own deadline, which the log would tell.
    run_process(service, stop_deadline_s=30.0)


if __name__ == "__main__":
    main()
