"""Measures catching up from an empty view, in µs of this process's CPU an entry.

    python -m tests.benchmarks.catch_up [--entries 500000] [--rounds 3] [--kafka]

It runs the real `catch_up` over a made-up ledger (see `made_up_ledger`). First log and view are in
memory, then the view is in a Valkey of its own. With --kafka the log is on a broker of its own too.
Each view is compared, byte for byte, with what was decided. The best round counts, because other
work on a machine makes a round slower, never faster. CPU is this process's alone, without Valkey's
and Kafka's. The parts are measured where they are called, a chunk at a time. The cost of freeing a
chunk's entries is in "the rest". Use ``json.loads`` of the same bytes in the same round to compare
machines, or different hours of one machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from kafka import KafkaProducer

from tests.benchmarks.made_up_ledger import ACCOUNTS, LEDGER_ID, MadeUpLedger, make_ledger
from tests.valkey_server import running_valkey
from usageledger.counters.connection import connect
from usageledger.counters.memory import MemoryView
from usageledger.counters.redis_view import RedisView
from usageledger.counters.view import PartitionView
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.claim import claim_of
from usageledger.domain.encoding import encode
from usageledger.domain.head import Head
from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.records import LedgerPartition, Record
from usageledger.ledger.timestamps import milliseconds
from usageledger.local.progress import Silent
from usageledger.local.servers import make_kafka, start_all
from usageledger.log.kafka_ledger import KafkaLedgerPartition
from usageledger.log.memory import MemoryLedgerPartition
from usageledger.log.topics import Topics
from usageledger.operations.topics import create_topics
from usageledger.processor import catch_up as catching_up
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.runtime.process import collect_seldom

PARTS = ("read", "decode and check", "look up", "fold", "encode", "commit", "the rest")
DEADLINE_S = 600.0
JSON_EVERY = 5

Costs = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kafka", action="store_true", help="also read from a real broker")
    arguments = parser.parse_args()
    made = make_ledger(arguments.entries)
    collect_seldom()  # as a worker's process does
    describe(made)
    with tempfile.TemporaryDirectory() as directory:
        ways = asyncio.run(
            measure_all(made, arguments.rounds, Path(directory), with_kafka=arguments.kafka)
        )
    report(ways)


async def measure_all(
    made: MadeUpLedger, rounds: int, directory: Path, *, with_kafka: bool
) -> dict[str, Costs]:
    in_memory = MemoryLedgerPartition(made.log)
    found = {"in memory": await best_of(rounds, made, in_memory, MemoryView())}
    with running_valkey(directory / "valkey") as server:
        async with connect(server.url) as client:
            view = RedisView(client, "bench", 0)
            found["to Valkey"] = await best_of(rounds, made, in_memory, view)
            if with_kafka:
                with kafka_with_ledger(made, directory / "kafka") as on_kafka:
                    found["Kafka to Valkey"] = await best_of(rounds, made, on_kafka, view)
                    await on_kafka.close()
    return found


async def best_of(
    rounds: int, made: MadeUpLedger, ledger: LedgerPartition, view: PartitionView
) -> Costs:
    """The costs of the cheapest round by part, in µs per entry."""
    best: Costs = {}
    for _ in range(rounds):
        await view.clear()
        gc.collect()
        costs = await one_round(made, ledger, view)
        await compare(made, view)
        if not best or costs["whole"] < best["whole"]:
            best = costs
    return best


async def one_round(made: MadeUpLedger, ledger: LedgerPartition, view: PartitionView) -> Costs:
    claim = claim_of(0, LEDGER_ID, "benchmark")
    book = PartitionBook(
        0, 1, Head(ledger=LEDGER_ID, decide=claim.decide, tzdata=claim.tzdata), AdoptedCatalogs()
    )
    spent: Counter[str] = Counter()
    with measuring(spent, type(ledger), type(view)):
        cpu, waited = time.process_time_ns(), time.perf_counter_ns()
        async with asyncio.timeout(DEADLINE_S):
            await catching_up.catch_up(
                book, ledger=ledger, view=view, catalogs=made.catalogs, claimed_at=made.claims[-1]
            )
        cpu, waited = time.process_time_ns() - cpu, time.perf_counter_ns() - waited
    spent["the rest"] = cpu - spent.total()
    return {part: spent[part] / 1_000 / made.entries for part in PARTS} | {
        "json.loads": json_cost_us(made.log.records),
        "whole": cpu / 1_000 / made.entries,
        "waited": waited / 1_000 / made.entries,
    }


@contextmanager
def measuring(spent: Counter[str], ledger: type, view: type) -> Iterator[None]:
    """Count this process's CPU in the functions that `catch_up` calls, in ns by part."""

    def timed(call: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed_call(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time_ns()
            try:
                return call(*args, **kwargs)
            finally:
                spent[part] += time.process_time_ns() - began

        return timed_call

    def timed_async(call: Callable[..., Any], part: str) -> Callable[..., Any]:
        async def timed_call(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time_ns()
            try:
                return await call(*args, **kwargs)
            finally:
                spent[part] += time.process_time_ns() - began

        return timed_call

    def timed_reading(
        read: Callable[..., AsyncIterator[Sequence[Record]]],
    ) -> Callable[..., AsyncIterator[Sequence[Record]]]:
        async def timed_call(*args: Any) -> AsyncIterator[Sequence[Record]]:
            began = time.process_time_ns()
            async for records in read(*args):
                spent["read"] += time.process_time_ns() - began
                yield records
                began = time.process_time_ns()

        return timed_call

    with ExitStack() as patches:
        for place, name, wrap, part in [
            (catching_up, "_entries_in", timed, "decode and check"),
            (catching_up, "provide", timed_async, "look up"),
            (catching_up, "view_change", timed, "encode"),
            (PartitionBook, "fold", timed, "fold"),
            (view, "commit", timed_async, "commit"),
        ]:
            patches.enter_context(patch.object(place, name, wrap(getattr(place, name), part)))
        reading = timed_reading(ledger.read)  # type: ignore[attr-defined]
        patches.enter_context(patch.object(ledger, "read", reading))
        yield


async def compare(made: MadeUpLedger, view: PartitionView) -> None:
    """Check that the view equals the decisions, to the byte."""
    found = await view.snapshot()
    assert found.head is not None and found.head.position.hash == made.book.head.hash
    assert found.accounts == {
        account: encode(state) for account, state in made.book.accounts.items() if state is not None
    }
    assert found.due_ms == {
        account: milliseconds(at) for account, at in made.book.due.all().items()
    }


@contextmanager
def kafka_with_ledger(made: MadeUpLedger, directory: Path) -> Iterator[KafkaLedgerPartition]:
    """The ledger on a broker that runs for the block."""
    broker = make_kafka(directory, "packages")
    start_all([broker], Silent())
    try:
        create_topics(KafkaConnection(servers=broker.address), "bench", partitions=1)
        topic = Topics("bench").ledger
        producer = KafkaProducer(
            **KafkaConnection(servers=broker.address).for_kafka_python(),
            linger_ms=20,
            batch_size=256 * 1024,
        )
        for record in made.log.records:
            producer.send(topic, key=record.key, value=record.value, partition=0)
        producer.flush(timeout=DEADLINE_S)
        producer.close(timeout=10)
        yield KafkaLedgerPartition(
            kafka=KafkaConnection(servers=broker.address), topic=topic, partition=0
        )
    finally:
        broker.stop(10)


def json_cost_us(records: Sequence[Record]) -> float:
    """The cost of ``json.loads`` in µs per record, over records from the whole log."""
    values = [record.value or b"" for record in records[::JSON_EVERY]]
    began = time.process_time_ns()
    for value in values:
        json.loads(value)
    return (time.process_time_ns() - began) / 1_000 / len(values)


def describe(made: MadeUpLedger) -> None:
    size = sum(len(record.value or b"") for record in made.log.records) // len(made.log.records)
    kinds = ", ".join(
        f"{kind} {count / made.entries:.1%}" for kind, count in made.kinds.most_common()
    )
    machine = (
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}"
    )
    print(f"{made.entries:,} entries of {ACCOUNTS:,} accounts, {size:,} bytes each ({kinds})")
    print(f"{machine}; µs of this process's CPU an entry, the best round\n")


def report(ways: dict[str, Costs]) -> None:
    print(f"{'':20}" + "".join(f"{way:>18}" for way in ways))
    for part in (*PARTS, "whole"):
        print(f"{part:20}" + "".join(f"{costs[part]:18.2f}" for costs in ways.values()))
    print(f"{'json.loads':20}" + "".join(f"{costs['json.loads']:18.2f}" for costs in ways.values()))
    print(
        f"{'whole / json.loads':20}"
        + "".join(f"{costs['whole'] / costs['json.loads']:18.2f}" for costs in ways.values())
    )
    print(
        f"{'entries/s per core':20}"
        + "".join(f"{1e6 / costs['whole']:18,.0f}" for costs in ways.values())
    )
    print(
        f"{'entries/s waited':20}"
        + "".join(f"{1e6 / costs['waited']:18,.0f}" for costs in ways.values())
    )


if __name__ == "__main__":
    main()
