"""The SDK through an outage of Kafka: the broker is frozen, then dead, then back.

Meanwhile the workers that report are killed and started again.

    python -m tests.chaos.sdk_outage --outage-s 600 --rate 300 --seed 7

It uses a broker of its own, in a temporary directory. Afterwards the logs alone must show three
things. Every event whose `record` returned is in the topic. A real `PartitionBook` charges each
once. Accepted + refused + duplicates equal the topic's records. It prints how long `record` took.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.notation import SHIPPED
from usageledger import UsageMeter
from usageledger.domain.head import Head
from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.records import Record
from usageledger.local.kafka_server import KafkaServer
from usageledger.local.progress import Silent
from usageledger.local.servers import start_all
from usageledger.log.reading import log_reader
from usageledger.log.topics import Topics
from usageledger.operations.topics import create_topics
from usageledger.runtime.kafka_connection import KafkaConnection

PARTITIONS = 2
THREADS = 2
DUPLICATES = 0.02
SETTLE_S = 5.0
DRAIN_S = 300.0
STUCK_AFTER_S = 10.0
CREDITS_EACH = 32_000_000


@dataclass
class Outcome:
    """The result of an outage.

    ``unlogged`` events are in the topic, although no worker lived to log that `record` returned.
    """

    recorded: int = 0
    refused_calls: int = 0
    kills: int = 0
    in_topic: int = 0
    lost: list[str] = field(default_factory=list)
    unlogged: int = 0
    decided: Counter[str] = field(default_factory=Counter)
    charged_twice: list[str] = field(default_factory=list)
    wrong_credits: int = 0
    waiting_max: int = 0
    drained_s: float = 0.0
    record_us: list[int] = field(default_factory=list)

    def faults(self) -> list[str]:
        """The broken promises, in words; empty if there are none."""
        found = {
            f"{len(self.lost)} recorded events are lost, such as {self.lost[:3]}": bool(self.lost),
            f"{len(self.charged_twice)} events are charged twice, "
            f"such as {self.charged_twice[:3]}": bool(self.charged_twice),
            f"{self.wrong_credits} micro-credits too many or too few": self.wrong_credits != 0,
            f"{self.decided} do not add up to {self.in_topic}": self.decided.total()
            != self.in_topic,
            f"{self.unlogged} events that nobody recorded, after {self.kills} kills": self.unlogged
            > self.kills * THREADS,
            f"{self.decided['refusal']} refusals": self.decided["refusal"] > 0,
        }
        return [words for words, holds in found.items() if holds]


class Workers:
    """Processes that report into one spool directory. Each keeps a journal of its events."""

    def __init__(
        self, directory: Path, kafka: KafkaConnection, count: int, rate: float, rng: random.Random
    ) -> None:
        self.directory = directory
        self.kafka = kafka
        self.rng = rng
        self.kills = 0
        self._rate = rate / count
        self._running = [self._start() for _ in range(count)]

    @property
    def spool(self) -> Path:
        return self.directory / "spool"

    def kill_one(self) -> None:
        """End one worker, by a signal that it can or cannot catch, and start another instead."""
        place = self.rng.randrange(len(self._running))
        self._end(self._running[place], self.rng.choice([signal.SIGKILL, signal.SIGTERM]))
        self.kills += 1
        self._running[place] = self._start()

    def stop(self) -> None:
        for process in self._running:
            self._end(process, signal.SIGTERM)
        self.kills += len(self._running)

    def journals(self) -> list[list[str]]:
        """The words of each whole line that any worker wrote."""
        texts = (path.read_text() for path in self.directory.glob("*.journal"))
        return [
            line.split()
            for text in texts
            for line in text.splitlines(keepends=True)
            if line.endswith("\n")
        ]

    def _start(self) -> subprocess.Popen[bytes]:
        journal = self.directory / f"{uuid.uuid4().hex[:8]}.journal"
        paths = os.pathsep.join(
            [str(Path(__file__).parents[2]), *(path for path in sys.path if path)]
        )
        command = [
            sys.executable,
            "-m",
            "tests.chaos.sdk_outage",
            "--work",
            str(journal),
            str(self.spool),
            str(self.kafka),
            str(self._rate),
        ]
        return subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": paths}, cwd=Path(__file__).parents[2]
        )

    def _end(self, process: subprocess.Popen[bytes], by: signal.Signals) -> None:
        process.send_signal(by)
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait(20)


def outage(
    directory: Path,
    *,
    outage_s: float,
    rate: float,
    workers: int = 2,
    kill_every_s: float = 10.0,
    seed: int = 0,
) -> Outcome:
    """Let Kafka fail for ``outage_s`` under ``rate`` events a second, and report."""
    server = KafkaServer(directory / "kafka", directory / "logs")
    start_all([server], Silent())
    try:
        create_topics(server.connection, "", partitions=PARTITIONS)
        load = Workers(directory, server.connection, workers, rate, random.Random(seed))
        try:
            outcome = _fail_and_come_back(server, load, outage_s, kill_every_s)
        finally:
            load.stop()
        outcome.kills = load.kills
        _drain(outcome, load)
        _judge(outcome, load, server.connection)
        return outcome
    finally:
        server.stop(30)


def _fail_and_come_back(
    server: KafkaServer, load: Workers, outage_s: float, kill_every_s: float
) -> Outcome:
    """For a third of the outage the broker is frozen, and for the rest it is dead."""
    outcome = Outcome()
    time.sleep(SETTLE_S)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    _watch(outcome, load, outage_s / 3, kill_every_s)
    os.kill(server.pid, signal.SIGKILL)
    _watch(outcome, load, outage_s * 2 / 3, kill_every_s)
    assert server.exit_code is not None
    server.prepare()
    start_all([server], Silent())
    _watch(outcome, load, SETTLE_S, kill_every_s)
    return outcome


def _watch(outcome: Outcome, load: Workers, for_s: float, kill_every_s: float) -> None:
    end = time.monotonic() + for_s
    next_kill = time.monotonic() + load.rng.uniform(0.5, 1.5) * kill_every_s
    while (now := time.monotonic()) < end:
        if now >= next_kill:
            load.kill_one()
            next_kill = now + load.rng.uniform(0.5, 1.5) * kill_every_s
        files = list(load.spool.glob("usage.events.v1/*/*.segment"))
        outcome.waiting_max = max(outcome.waiting_max, sum(_size(path) for path in files))
        time.sleep(0.25)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _drain(outcome: Outcome, load: Workers) -> None:
    """Send the events that the last workers left, as the next process to start would."""
    began = time.monotonic()
    with UsageMeter(source="render", kafka=load.kafka, spool_directory=load.spool) as meter:
        if not meter.flush(DRAIN_S):
            raise SystemExit(f"not sent within {DRAIN_S:.0f} s: {meter.waiting()}")
    outcome.drained_s = time.monotonic() - began


def _judge(outcome: Outcome, load: Workers, kafka: KafkaConnection) -> None:
    lines = load.journals()
    recorded = {id for what, id, _ in lines if what == "recorded"}
    outcome.recorded, outcome.refused_calls = (
        len(recorded),
        sum(1 for what, _, _ in lines if what == "refused"),
    )
    outcome.record_us = sorted(int(us) for what, _, us in lines if what == "recorded")
    charged: Counter[str] = Counter()
    credits, sent = 0, set()
    for partition, records in _records(kafka, Topics("").usage).items():
        book = PartitionBook(partition, PARTITIONS, Head(ledger="outage"), SHIPPED)
        outcome.in_topic += len(records)
        for item in book.decode("usage", records):
            entry = book.decide_input(item)[-1].entry
            outcome.decided[entry.kind] += 1
            credits += entry.credits
            if entry.event is not None:
                sent.add(entry.event.id)
                charged[entry.event.id] += entry.kind == "usage"
    outcome.lost = sorted(recorded - sent)
    outcome.unlogged = len(sent - recorded)
    outcome.charged_twice = sorted(id for id, times in charged.items() if times != 1)
    outcome.wrong_credits = credits - len(sent) * CREDITS_EACH


def _records(kafka: KafkaConnection, topic: str) -> dict[int, list[Record]]:
    with log_reader(kafka) as reader:
        return {
            partition: list(reader.read(topic, partition, 0, reader.end_offset(topic, partition)))
            for partition in range(PARTITIONS)
        }


def work(journal: Path, spool: Path, kafka: KafkaConnection, rate: float) -> None:
    """A worker: record events at a rate, and note each event once `record` has returned.

    It ends on SIGTERM.
    """

    def end(signum: int, frame: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    fd = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    meter = UsageMeter(
        source="render",
        kafka=kafka,
        spool_directory=spool,
        stuck_after_s=STUCK_AFTER_S,
        exit_timeout_s=2.0,
    )
    for thread in range(THREADS):
        threading.Thread(
            target=_report,
            args=(meter, fd, f"{journal.stem}_{thread}", rate / THREADS),
            daemon=True,
        ).start()
    while True:
        time.sleep(1.0)


def _report(meter: UsageMeter, fd: int, name: str, rate: float) -> None:
    rng, due = random.Random(name), time.monotonic()
    for number in range(sys.maxsize):
        again = number > 0 and rng.random() < DUPLICATES
        id = f"{name}_{rng.randrange(number) if again else number}"
        began = time.perf_counter_ns()
        try:
            meter.record(
                account=f"acct_{sum(id.encode()) % 50}", feature="genai_video", model="veo_3", id=id
            )
            what = "recorded"
        except Exception as error:
            what = "refused"
            if not getattr(error, "retriable", False):
                raise
        os.write(fd, f"{what} {id} {(time.perf_counter_ns() - began) // 1_000}\n".encode())
        due += 1 / rate
        time.sleep(max(0.0, due - time.monotonic()))


def report(outcome: Outcome) -> str:
    """The figures, as text."""
    us = outcome.record_us
    at = (
        {share: us[min(len(us) - 1, int(len(us) * share))] for share in (0.5, 0.99, 0.999)}
        if us
        else {}
    )
    figures = {
        "recorded": outcome.recorded,
        "refused by a meter that was closing": outcome.refused_calls,
        "workers ended": outcome.kills,
        "in the topic": outcome.in_topic,
        "decided": dict(outcome.decided),
        "lost": len(outcome.lost),
        "charged twice": len(outcome.charged_twice),
        "recorded by a worker that did not live to say so": outcome.unlogged,
        "most that waited on disk, bytes": outcome.waiting_max,
        "the rest drained in, s": round(outcome.drained_s, 1),
        "record, µs": {
            **{f"{share:.1%}": value for share, value in at.items()},
            "longest": us[-1] if us else 0,
        },
    }
    return json.dumps(figures, indent=2, ensure_ascii=False)


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        journal, spool, kafka, rate = sys.argv[2:]
        work(Path(journal), Path(spool), KafkaConnection(servers=kafka), float(rate))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--outage-s", type=float, default=600.0)
    parser.add_argument(
        "--rate", type=float, default=300.0, help="events a second, all workers together"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kill-every-s", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {arguments}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        outcome = outage(
            Path(directory),
            outage_s=arguments.outage_s,
            rate=arguments.rate,
            workers=arguments.workers,
            kill_every_s=arguments.kill_every_s,
            seed=arguments.seed,
        )
    print(report(outcome))
    for fault in outcome.faults():
        print(f"FAILED: {fault}")
    sys.exit(1 if outcome.faults() else 0)


if __name__ == "__main__":
    main()
