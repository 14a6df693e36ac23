"""Measures checks, by the SDK from Redis and over HTTP, alone and while usage flows.

    python -m tests.benchmarks.gate_check [--rate 1000] [--usage 5000] [--seconds 20]
                                          [--threads 4] [--ways direct http sdk-http]
    python -m tests.benchmarks.gate_check --gateway URL --key KEY

The second form measures a gateway that runs already, with whatever load it has.

``http`` is a bare connection of the standard library for each thread, which measures the gateway.
``sdk-http`` is `UsageGate` over HTTP. A good part of its time is httpx, here in one process with
one lock for all threads.

Questions come at a fixed rate, and do not wait for earlier answers. Each is measured from its due
time to its answer, so a pause counts against every question that fell due in it. The table also
shows how late the threads asked: this program and its machine cause that, not the gate.
A process of its own reports usage of the accounts that the checks ask about. On a shared machine,
compare only runs of the same minute with each other.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.benchmarks.usage_flow import ACCOUNTS, usage_flowing
from tests.servers import RunningGateway, running_gateway
from usageledger import UsageGate
from usageledger.local.servers import choose_backend, start_servers

BEHIND_MAX_S = 5.0


@dataclass(slots=True)
class Timings:
    """Milliseconds of one round's questions.

    ``from_due``: from the due time to the answer, ``asked_late``: from the due time to the
    question, ``answered``: from the question to the answer.
    """

    from_due: list[float] = field(default_factory=list)
    asked_late: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    degraded: int = 0
    unasked: int = 0
    """The questions that were never asked, because the round was long over."""

    def add(self, other: Timings) -> None:
        self.from_due += other.from_due
        self.asked_late += other.asked_late
        self.answered += other.answered
        self.degraded += other.degraded
        self.unasked += other.unasked


def main() -> None:
    arguments = _arguments()
    print(
        f"{arguments.rate:,} checks/s from {arguments.threads} threads for {arguments.seconds:g} "
        f"s; {os.cpu_count()} cores"
    )
    print(
        f"{'ms':<34}{'p50':>8}{'p99':>8}{'p99.9':>8}{'max':>8}   asked late p99   from asking p99"
    )
    if arguments.gateway:
        return report(
            "http", measure(partial(BareConnection, arguments.gateway, arguments.key), arguments)
        )
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        servers = start_servers(Path(directory) / "servers", choose_backend(None).backend)
        stack.callback(servers.stop)
        gateway = stack.enter_context(
            running_gateway(Path(directory) / "stack", servers.kafka, servers.redis_url)
        )
        for way in arguments.ways:
            new_asker = stack.enter_context(_askers(gateway, way))
            report(f"{way}, alone", measure(new_asker, arguments))
            with usage_flowing(gateway, arguments.usage):
                report(f"{way}, {arguments.usage:,} events/s", measure(new_asker, arguments))


class BareConnection:
    """Checks over one connection to the gateway, with as little overhead as possible."""

    def __init__(self, url: str, key: str) -> None:
        place = urlsplit(url)
        self._connection = HTTPConnection(str(place.hostname), place.port, timeout=30)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def check(self, account: str, feature: str, model: str) -> None:
        body = json.dumps({"feature": feature, "model": model})
        self._connection.request("POST", f"/v1/accounts/{account}/check", body, self._headers)
        response = self._connection.getresponse()
        said = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {said[:200]!r}")


def measure(
    new_asker: Callable[[], UsageGate | BareConnection], arguments: argparse.Namespace
) -> Timings:
    """One round, after a second to warm up."""
    total, turn = Timings(), threading.Lock()
    begins_s = time.perf_counter() + 0.2

    def ask(thread: int) -> None:
        mine, gate = Timings(), new_asker()
        interval_s = arguments.threads / arguments.rate
        for n in range(int((arguments.seconds + 1.0) / interval_s)):
            due_s = begins_s + (n + thread / arguments.threads) * interval_s
            time.sleep(max(0.0, due_s - time.perf_counter()))
            asked_s = time.perf_counter()
            if asked_s > begins_s + arguments.seconds + 1.0 + BEHIND_MAX_S:
                mine.unasked += 1
                continue
            answer = gate.check(
                f"acct_{(n * arguments.threads + thread) % ACCOUNTS}", "genai_video", "veo_3"
            )
            ended_s = time.perf_counter()
            if due_s < begins_s + 1.0:
                continue
            mine.from_due.append((ended_s - due_s) * 1e3)
            mine.asked_late.append((asked_s - due_s) * 1e3)
            mine.answered.append((ended_s - asked_s) * 1e3)
            mine.degraded += answer is not None and answer.degraded
        with turn:
            total.add(mine)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(arguments.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return total


def report(name: str, timings: Timings) -> None:
    figures = "".join(
        f"{percentile(timings.from_due, share):>8.2f}" for share in (0.5, 0.99, 0.999, 1.0)
    )
    lost = f"   {timings.degraded:,} without an answer" if timings.degraded else ""
    lost += (
        f"   {timings.unasked:,} not asked: this machine does not keep up"
        if timings.unasked
        else ""
    )
    print(
        f"{name:<34}{figures}{percentile(timings.asked_late, 0.99):>17.2f}"
        f"{percentile(timings.answered, 0.99):>18.2f}{lost}",
        flush=True,
    )


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` of the values are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextmanager
def _askers(
    gateway: RunningGateway, way: str
) -> Iterator[Callable[[], UsageGate | BareConnection]]:
    """The gate of each thread: one for all of them, or a connection of its own."""
    if way == "http":
        yield partial(BareConnection, gateway.url, gateway.key)
        return
    address = gateway.addresses
    direct: dict[str, Any] = {
        "kafka": address.kafka,
        "redis_url": address.redis_url,
        "prefix": address.prefix,
    }
    with UsageGate(
        **({"gateway": gateway.url, "key": gateway.key} if way == "sdk-http" else direct),
        on_unavailable="deny",
        timeout_s=10.0,
    ) as gate:
        gate.prepare()
        yield lambda: gate


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="how long a check takes, alone and while usage flows"
    )
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--usage", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument(
        "--ways", nargs="+", choices=("direct", "http", "sdk-http"), default=("direct", "http")
    )
    parser.add_argument("--gateway")
    parser.add_argument("--key")
    return parser.parse_args()


if __name__ == "__main__":
    main()
