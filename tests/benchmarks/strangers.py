"""Measures checks alone, and beside strangers who post JSON without a key.

    python -m tests.benchmarks.strangers [--strangers 12] [--seconds 10] [--new-connections]

A client with a key asks one check after the other, on one connection: first alone, then beside the
strangers, then alone again. Each stranger posts 60 KB of JSON again and again, as fast as it gets
answers. With ``--new-connections`` it connects anew for each request. The strangers have a process
of their own, which shares this machine's cores with the gateway.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlsplit

from tests.servers import running_gateway
from usageledger.local.servers import choose_backend, start_servers
from usageledger.operations.waiting import is_true_within

BODY = json.dumps({"uses": [{"feature": "chat_action", "quantity": "1"}] * 1_300}).encode()
JSON = {"Content-Type": "application/json"}


def main() -> None:
    """Print the time of a check alone and beside strangers, and the ratio of the two."""
    parser = argparse.ArgumentParser(description="the time of checks beside strangers")
    parser.add_argument("--strangers", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--new-connections", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        servers = start_servers(Path(directory) / "servers", choose_backend(None).backend)
        try:
            with running_gateway(
                Path(directory) / "stack", servers.kafka, servers.redis_url
            ) as gateway:
                _measure(gateway.url, gateway.key, arguments)
        finally:
            servers.stop()


def _measure(url: str, key: str, arguments: argparse.Namespace) -> None:
    netloc = urlsplit(url).netloc
    if not is_true_within(lambda: _status_of_check(HTTPConnection(netloc), key) == 200, 60):
        raise SystemExit("no check is answered: see the gateway's log")
    _checks_ms(netloc, key, 2.0)
    before = _checks_ms(netloc, key, arguments.seconds)
    with strangers_at(netloc, arguments.strangers, arguments.new_connections):
        time.sleep(1.0)
        beside = _checks_ms(netloc, key, arguments.seconds)
    time.sleep(1.0)
    after = _checks_ms(netloc, key, arguments.seconds)
    _show("alone", before)
    _show(f"beside {arguments.strangers} strangers", beside)
    _show("alone again", after)
    print(f"p50 beside / alone: {median(beside) / median(before + after):.2f}")


def _show(what: str, times_ms: list[float]) -> None:
    worst = quantiles(times_ms, n=100)[98]
    print(f"{what}: p50 {median(times_ms):.2f} ms, p99 {worst:.2f} ms, {len(times_ms):,} checks")


def _checks_ms(netloc: str, key: str, seconds: float) -> list[float]:
    """The milliseconds of each check, asked one after the other."""
    connection, found = HTTPConnection(netloc, timeout=60), []
    ends_s = time.perf_counter() + seconds
    while (began_s := time.perf_counter()) < ends_s:
        if (status := _status_of_check(connection, key)) != 200:
            raise SystemExit(f"a check was answered with {status}")
        found.append((time.perf_counter() - began_s) * 1_000)
    connection.close()
    return found


def _status_of_check(connection: HTTPConnection, key: str) -> int:
    body = json.dumps({"feature": "chat_action", "quantity": "1"})
    headers = JSON | {"Authorization": f"Bearer {key}"}
    connection.request("POST", "/v1/accounts/bench/check", body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


@contextmanager
def strangers_at(netloc: str, count: int, connects_anew: bool) -> Iterator[None]:
    """Strangers in a process of their own, who post as long as the context lasts."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    process = context.Process(target=_strangers, args=(netloc, count, connects_anew, stop))
    process.start()
    try:
        yield
    finally:
        stop.set()
        process.join(30)


def _strangers(netloc: str, count: int, connects_anew: bool, stop: Event) -> None:
    statuses: Counter[str] = Counter()
    threads = [
        threading.Thread(target=_stranger, args=(netloc, connects_anew, stop, statuses))
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"strangers got: {dict(statuses)}")


def _stranger(netloc: str, connects_anew: bool, stop: Event, statuses: Counter[str]) -> None:
    connection = HTTPConnection(netloc, timeout=10)
    while not stop.is_set():
        try:
            connection.request("POST", "/v1/quote", BODY, JSON)
            answer = connection.getresponse()
            answer.read()
            statuses[str(answer.status)] += 1
        except (OSError, HTTPException) as error:
            statuses[type(error).__name__] += 1
            connection.close()
        if connects_anew:
            connection.close()


if __name__ == "__main__":
    main()
