"""A processor in the test's own process, where the code can be made to fail, and the command line
pointed at its ledger.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from kafka import KafkaProducer
from typer.testing import CliRunner, Result

from usageledger.audit.verify import AuditReport, verify
from usageledger.cli import app
from usageledger.domain.entry import LedgerEntry
from usageledger.ledger import partition_book
from usageledger.ledger.partitioning import partition_of
from usageledger.log.reading import entries_in, log_reader
from usageledger.log.topics import Topics
from usageledger.operations.catalogs import publish_shipped
from usageledger.processor.service import run_processor
from usageledger.runtime.kafka_connection import KafkaConnection

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Operated:
    """One ledger and its operator. Commands run beside the processor, in a thread."""

    kafka: KafkaConnection
    redis_url: str
    prefix: str
    partitions: int = 2

    @asynccontextmanager
    async def processor(self) -> AsyncIterator[asyncio.Task[None]]:
        """A processor that runs for the block."""
        stop = asyncio.Event()
        task = asyncio.create_task(
            run_processor(kafka=self.kafka, redis_url=self.redis_url, prefix=self.prefix, stop=stop)
        )
        try:
            yield task
        finally:
            stop.set()
            await asyncio.wait_for(task, 15)

    async def run(self, *arguments: str) -> Result:
        """The command's result, with this ledger as the one in the environment."""
        environment = {
            "USAGELEDGER_KAFKA": str(self.kafka),
            "USAGELEDGER_REDIS_URL": self.redis_url,
            "USAGELEDGER_PREFIX": self.prefix,
        }
        return await asyncio.to_thread(CliRunner().invoke, app, list(arguments), env=environment)

    async def json(self, *arguments: str) -> Any:
        result = await self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def publish_catalog(self) -> None:
        publish_shipped(self.kafka, self.prefix, datetime.now(UTC))

    def use(self, account: str, *ids: str) -> None:
        """Report uses of 32 credits each."""
        time_ = datetime.now(UTC).isoformat()
        producer = KafkaProducer(**self.kafka.for_kafka_python())
        try:
            for id_ in ids:
                data = {"feature": "genai_video", "model": "veo_3", "quantity": "1"}
                event = {
                    "specversion": "1.0",
                    "type": "usage.recorded",
                    "id": id_,
                    "source": "/test",
                    "subject": account,
                    "time": time_,
                }
                producer.send(
                    Topics(self.prefix).usage,
                    key=account.encode(),
                    value=json.dumps({**event, "data": data}).encode(),
                )
            producer.flush(timeout=30)
        finally:
            producer.close(timeout=10)

    def account_in(self, partition: int) -> str:
        """An account that lives in that partition."""
        return next(
            name
            for n in range(1_000)
            if partition_of((name := f"acct-{n}").encode(), self.partitions) == partition
        )

    def entries(self) -> list[LedgerEntry]:
        topic = Topics(self.prefix).ledger
        with log_reader(self.kafka) as reader:
            return [
                sealed.entry
                for partition in range(self.partitions)
                for sealed in entries_in(
                    reader.read(topic, partition, 0, reader.end_offset(topic, partition))
                )
            ]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait, within a deadline, until a condition holds; it is asked in a thread."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not await asyncio.to_thread(condition):
            assert time.monotonic() < deadline_s, "it did not come about in time"
            await asyncio.sleep(0.2)

    async def decided(self, count: int) -> None:
        """Wait until that number of usage events have an entry."""
        await self.until(
            lambda: (
                len(
                    {
                        (e.input.partition, offset)
                        for e in self.entries()
                        if e.input and e.input.topic == "usage"
                        for offset in e.input_offsets
                    }
                )
                == count
            )
        )

    async def audit(self) -> AuditReport:
        return await asyncio.to_thread(verify, self.kafka, self.redis_url, self.prefix)


@pytest.fixture
def operated(kafka: KafkaConnection, redis_url: str, prefix: str) -> Operated:
    """A ledger of two partitions with its catalog published, and nothing running yet."""
    ledger = Operated(kafka, redis_url, prefix)
    ledger.publish_catalog()
    return ledger


@pytest.fixture
def choking_on_poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code raises on any event that mentions poison."""
    # The module imports `decide` without exporting it, and looks it up there.
    decide: Any = getattr(partition_book, "decide")  # noqa: B009

    def choking(*args: Any, **kwargs: Any) -> Any:
        if "poison" in repr(args):
            raise ZeroDivisionError("an error in the code")
        return decide(*args, **kwargs)

    monkeypatch.setattr(partition_book, "decide", choking)
