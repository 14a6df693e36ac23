"""A gateway as a process of its own that a test may kill, an endpoint that it delivers to, and a
client of its streams.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from tests.integration.test_limits import until
from usageledger.local.gateway_files import answers
from usageledger.local.ports import LOOPBACK, free_port
from usageledger.runtime.kafka_connection import KafkaConnection

KEY = f"ulk_0a1b2c3d_{'k' * 43}"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


class GatewayProcess:
    """``usageledger service gateway`` of one ledger. Its data outlives it.

    ``settings`` are further ones, without ``USAGELEDGER_GATEWAY_``. ``files_max`` is its limit of
    open files.
    """

    def __init__(
        self,
        kafka: KafkaConnection,
        redis_url: str,
        prefix: str,
        data: Path,
        *,
        settings: Mapping[str, str] | None = None,
        files_max: int | None = None,
    ) -> None:
        self.data = data
        self._files_max = files_max
        self._port = free_port()
        own = {
            "KAFKA": str(kafka),
            "REDIS_URL": redis_url,
            "PREFIX": prefix,
            "DATA": str(data),
        }
        of_gateway = {
            "HOST": LOOPBACK,
            "PORT": str(self._port),
            "KEY": KEY,
            "WEBHOOK_REACH": "loopback",
            **(settings or {}),
        }
        self._environment = os.environ | {
            f"USAGELEDGER_{name}": value for name, value in own.items()
        }
        self._environment |= {
            f"USAGELEDGER_GATEWAY_{name}": value for name, value in of_gateway.items()
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._port}"

    def connect(self) -> socket.socket:
        connection = socket.create_connection((LOOPBACK, self._port))
        connection.settimeout(30)
        return connection

    @property
    def log(self) -> str:
        return (self.data / "gateway.log").read_text(encoding="utf-8")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, is_ready: bool = True, is_awaited: bool = True) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data / "gateway.log").open("ab") as log:
            command = [sys.executable, "-m", "usageledger.cli", "service", "gateway"]
            if self._files_max is not None:
                command = ["sh", "-c", f'ulimit -n {self._files_max} && exec "$@"', "sh", *command]
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        if not is_awaited:
            return
        until(lambda: self._has_ended() or self._answers(is_ready), "the gateway's readiness")
        assert not self._has_ended(), self.log

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(20)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(20)

    def ask(self, method: str, path: str, body: object = None, **named: Any) -> httpx.Response:
        return httpx.request(
            method,
            f"{self.url}{path}",
            json=body,
            headers=AUTHORIZED | named.pop("headers", {}),
            timeout=30,
            **named,
        )

    def _has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _answers(self, is_ready: bool) -> bool:
        if is_ready:
            return answers(self.url)
        try:
            return httpx.get(f"{self.url}/healthz", timeout=1).status_code == 200
        except httpx.TransportError:
            return False


@dataclass(frozen=True, slots=True)
class Received:
    """One request that came to an endpoint."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event_id(self) -> str:
        return str(json.loads(self.body)["data"]["id"])


@dataclass
class Receiver:
    """An HTTP endpoint that answers with ``status`` and lists what it receives.

    While ``hangs`` is set it accepts requests and answers none.
    """

    status: int = 204
    hangs: threading.Event = field(default_factory=threading.Event)
    received: list[Received] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None
    _released: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://{LOOPBACK}:{self._server.server_address[1]}/hook"

    @property
    def ids(self) -> list[str]:
        return [one.event_id for one in self.received]

    @contextmanager
    def running(self) -> Iterator[Receiver]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.received.append(
                    Received({name.lower(): value for name, value in self.headers.items()}, body)
                )
                if receiver.hangs.is_set():
                    receiver._released.wait(60)
                    self.close_connection = True
                    return
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        thread.start()
        try:
            yield self
        finally:
            self._released.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join(10)


class Stream:
    """A client of an account's stream, in a thread. It ends with the stream or with `close`."""

    def __init__(
        self,
        gateway: GatewayProcess,
        account: str,
        last_event_id: str | None = None,
        token: str = KEY,
    ) -> None:
        self.messages: list[dict[str, str]] = []
        self.is_open = threading.Event()
        self.has_ended = threading.Event()
        self.status = 0
        self._connection: socket.socket | None = None
        self._client = httpx.Client(timeout=httpx.Timeout(30))
        headers = {"Authorization": f"Bearer {token}"} | (
            {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        )
        self._thread = threading.Thread(
            target=self._run,
            args=(f"{gateway.url}/v1/accounts/{account}/stream", headers),
            daemon=True,
        )
        self._thread.start()

    @property
    def ids(self) -> list[str]:
        """Those of the events. A stream begins with one that has none."""
        return [
            message["id"]
            for message in list(self.messages)
            if "id" in message and "event" in message
        ]

    @property
    def events(self) -> list[str]:
        return [message["event"] for message in list(self.messages) if "event" in message]

    def data_of(self, event: str) -> list[Any]:
        return [
            json.loads(message["data"])
            for message in list(self.messages)
            if message.get("event") == event
        ]

    def opened(self) -> Stream:
        until(self.is_open.is_set, "the stream's beginning")
        return self

    def close(self) -> None:
        if self._connection is not None:
            # Wakes a thread that reads from it at once.
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._client.close()

    def _run(self, url: str, headers: dict[str, str]) -> None:
        try:
            with self._client.stream("GET", url, headers=headers) as response:
                self.status = response.status_code
                self._connection = response.extensions["network_stream"].get_extra_info("socket")
                fields: dict[str, str] = {}
                for line in response.iter_lines():
                    if not line:
                        if fields:
                            self.messages.append(fields)
                        fields = {}
                        self.is_open.set()
                    else:
                        name, _, value = line.partition(": ")
                        fields[name or "comment"] = value
        except (httpx.HTTPError, RuntimeError, OSError):
            pass
        finally:
            self.is_open.set()
            self.has_ended.set()
