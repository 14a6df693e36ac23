"""Measures `record`, as a ratio to a bare kafka-python `send` of the same bytes in one run.

    python -m tests.benchmarks.record_cost --kafka 127.0.0.1:9092 [--prefix demo]
                                           [--events 20000] [--rounds 5]

It needs the topics of a ledger (`usageledger up` has them). The figures are medians of wall-clock
microseconds in the calling thread. The background work on the same cores is part of both. Absolute
numbers belong to the machine: compare the ratios.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from usageledger import UsageMeter
from usageledger.log.topics import Topics
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.producer import events, kafka_publisher
from usageledger.sdk.producer.spool import Durability, Spool

Round = Callable[[int], None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--prefix", default="")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as directory:
        found = measure(
            arguments.kafka, arguments.prefix, Path(directory), arguments.events, arguments.rounds
        )
    bare = found["kafka-python send"]
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {arguments.events} events, "
        f"median of {arguments.rounds} rounds"
    )
    for name, each_us in found.items():
        print(f"{name:<38} {each_us:8.1f} µs  {each_us / bare:6.2f} × a bare send")


def measure(
    kafka: KafkaConnection, prefix: str, directory: Path, count: int, rounds: int
) -> dict[str, float]:
    """The median microseconds per event of each way, over the rounds."""
    publisher = kafka_publisher.connector_to(kafka)(Topics(prefix).usage)()
    meter = UsageMeter(
        source="benchmark", kafka=kafka, prefix=prefix, spool_directory=directory / "meter"
    )
    spools = {
        durability: Spool(directory / durability, durability=durability)
        for durability in _DURABILITIES
    }
    value = events.encode(_event("gen"))

    def send(number: int) -> None:
        publisher.send(b"acct_1", value, lambda error: None)

    def record(number: int) -> None:
        meter.record(
            account="acct_1",
            feature="genai_video",
            model="veo_3",
            quantity="1",
            id=f"{run}_{number}",
            dimensions=_DIMENSIONS,
        )

    def build(number: int) -> None:
        events.encode(_event(f"{run}_{number}"))

    ways: dict[str, tuple[Round, int]] = {
        "kafka-python send": (send, count),
        "record": (record, count),
        "of which: check and encode": (build, count),
        "of which: append to the spool": (
            lambda number: spools["process"].append(b"acct_1", value),
            count,
        ),
        'append with durability="power"': (
            lambda number: spools["power"].append(b"acct_1", value),
            max(1, count // 100),
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        run = uuid.uuid4().hex
        for name, (once, times_a_round) in ways.items():
            times[name].append(_each_us(once, times_a_round))
            meter.flush(120)
    meter.close(120)
    publisher.close()
    for spool in spools.values():
        spool.close()
    return {name: statistics.median(each) for name, each in times.items()}


_DURABILITIES: tuple[Durability, ...] = ("process", "power")
_DIMENSIONS = {"project": "p_77", "worker": "eu-1/7"}


def _event(id: str) -> events.Event:
    return events.usage_recorded(
        source="benchmark",
        account="acct_1",
        id=id,
        feature="genai_video",
        model="veo_3",
        quantity="1",
        dimensions=_DIMENSIONS,
        now=events.utc_now(),
    )


def _each_us(once: Round, count: int) -> float:
    began = time.perf_counter()
    for number in range(count):
        once(number)
    return (time.perf_counter() - began) / count * 1e6


if __name__ == "__main__":
    main()
