"""Listeners for limit events in the benchmarks, each kind as a process of its own.

    python -m tests.benchmarks.listeners subscriber KAFKA PREFIX
    python -m tests.benchmarks.listeners stream URL KEY FIRST_ACCOUNT COUNT
    python -m tests.benchmarks.listeners webhook

The second form runs one client for each of the accounts from bench_FIRST_ACCOUNT on.

It prints ``ready`` (with its URL, if it has one), then a line for each `limit.reached`: the account
and seconds since 1970. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from usageledger import LimitSubscriber
from usageledger.runtime.kafka_connection import KafkaConnection


def account_name(number: int) -> str:
    """One of the accounts that cross limits in the benchmarks."""
    return f"bench_{number:06d}"


class Listener:
    """A listening process, and the time when it heard of each account."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.listeners", *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.ready_words = self._process.stdout.readline().split()[1:]
        """The words that it printed after ``ready``."""
        self.heard_s: dict[str, float] = {}
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        """End the process. ``heard_s`` stays."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._reading.join(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            account, _, at_s = line.partition(" ")
            self.heard_s.setdefault(account, float(at_s))


@contextmanager
def listening(*arguments: str) -> Iterator[Listener]:
    """A listener that runs for the block."""
    listener = Listener(*arguments)
    try:
        yield listener
    finally:
        listener.end()


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` of the values are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _report(account: str) -> None:
    # A single write, because several threads report.
    sys.stdout.write(f"{account} {time.time()}\n")
    sys.stdout.flush()


def _subscriber(kafka: KafkaConnection, prefix: str) -> None:
    subscriber = LimitSubscriber(kafka=kafka, prefix=prefix)
    subscriber.on_reached(lambda event: _report(event.account))
    with subscriber:
        print("ready", flush=True)
        sys.stdin.read()


def _webhook() -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            event = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if event["type"] == "limit.reached":
                _report(event["data"]["subject"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", f"http://127.0.0.1:{server.server_address[1]}/hook", flush=True)
    sys.stdin.read()


async def _streams(url: str, key: str, first: int, count: int) -> None:
    has_figures = [asyncio.Event() for _ in range(count)]
    clients = [
        asyncio.create_task(_stream(url, key, account_name(first + n), has_figures[n]))
        for n in range(count)
    ]
    for one in has_figures:
        await one.wait()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for client in clients:
        client.cancel()


async def _stream(url: str, key: str, account: str, has_figures: asyncio.Event) -> None:
    """A minimal client: a library's would cost more than the thing that is measured."""
    place: Any = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    request = (
        f"GET /v1/accounts/{account}/stream HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: "
        f"Bearer {key}\r\n\r\n"
    )
    writer.write(request.encode())
    while line := await reader.readline():
        if line == b"event: meter\n":
            has_figures.set()
        elif line == b"event: limit.reached\n":
            _report(account)
    raise ConnectionError(f"the stream of {account} has ended")


if __name__ == "__main__":
    kind, *options = sys.argv[1:]
    if kind == "subscriber":
        _subscriber(KafkaConnection(servers=options[0]), options[1])
    elif kind == "webhook":
        _webhook()
    else:
        asyncio.run(_streams(options[0], options[1], int(options[2]), int(options[3])))
