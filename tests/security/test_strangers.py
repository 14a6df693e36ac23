"""Clients without a key against a gateway that is a process of its own."""

from __future__ import annotations

import http.client
import itertools
import resource
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import trustme

from tests.integration.gateway_process import AUTHORIZED, KEY, GatewayProcess
from tests.servers import RunningGateway
from usageledger.local.gateway_files import answers
from usageledger.local.ports import LOOPBACK
from usageledger.operations.catalogs import publish_shipped
from usageledger.operations.waiting import is_true_within
from usageledger.runtime.kafka_connection import KafkaConnection

StartGateway = Callable[..., GatewayProcess]

SAFE = (b"cache-control: no-store", b"x-content-type-options: nosniff")


@pytest.fixture
def start(
    kafka: KafkaConnection, redis_url: str, prefix: str, tmp_path: Path
) -> Iterator[StartGateway]:
    """Starts a gateway with these settings."""
    publish_shipped(kafka, prefix, datetime.now(UTC))
    started: list[GatewayProcess] = []

    def begin(
        settings: Mapping[str, str] | None = None,
        *,
        files_max: int | None = None,
        is_awaited: bool = True,
    ) -> GatewayProcess:
        data = tmp_path / f"data{len(started)}"
        made = GatewayProcess(
            kafka, redis_url, prefix, data, settings=settings, files_max=files_max
        )
        started.append(made)
        made.start(is_awaited=is_awaited)
        return made

    yield begin
    for gateway in started:
        gateway.stop()


def has_ended(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection; what it sent is dropped."""
    while select.select([connection], [], [], 0)[0]:
        try:
            if not connection.recv(65_536):
                return True
        except ConnectionError:
            return True
    return False


def answer_on(connection: socket.socket) -> bytes:
    """All that comes until the other side closes the connection."""
    found = b""
    while True:
        try:
            more = connection.recv(65_536)
        except ConnectionError:
            return found
        if not more:
            return found
        found += more


def check(gateway: GatewayProcess) -> int:
    """The status of a list of the keys; 503 if the gateway does not reach Redis."""
    return gateway.ask("GET", "/v1/keys").status_code if answers(gateway.url) else 503


def test_connections_that_send_no_request_are_closed(start: StartGateway) -> None:
    """400 of 400 half-open connections were still there after two minutes."""
    gateway = start()
    connections = [gateway.connect() for _ in range(400)]
    beginnings = [b"", b"\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\nX: aaaa"]
    for connection, sent in zip(connections, itertools.cycle(beginnings), strict=False):
        connection.sendall(sent)
    assert check(gateway) == 200
    assert is_true_within(lambda: all(map(has_ended, connections)), 60)
    assert check(gateway) == 200


def test_a_client_that_drips_its_head_or_its_body_is_disconnected(start: StartGateway) -> None:
    gateway = start()
    head, body, idle = gateway.connect(), gateway.connect(), gateway.connect()
    head.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
    body.sendall(
        b"POST /v1/quote HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: 60000\r\nAuthorization: Bearer %b\r\n\r\n" % KEY.encode()
    )
    idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    found = {head: b"", body: b"", idle: b""}
    left = set(found)

    def drip() -> bool:
        for connection in list(left):
            try:
                connection.sendall(b"\r\n" if connection is idle else b"a")
                if select.select([connection], [], [], 0)[0]:
                    more = connection.recv(65_536)
                    found[connection] += more
                    if not more:
                        left.discard(connection)
            except ConnectionError:
                left.discard(connection)
        time.sleep(0.2)
        return not left

    assert is_true_within(drip, 90)
    assert b" 408 " in found[body]
    assert b'"code":"too_slow"' in found[body]
    assert b" 200 " in found[idle]
    assert found[head] == b""


def _status_of_answer(connection: socket.socket) -> int:
    """Read one whole answer, which may come in several pieces."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def test_a_large_body_without_a_key_is_refused_and_not_read(start: StartGateway) -> None:
    gateway = start()
    with gateway.connect() as connection:
        connection.sendall(
            b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000000000\r\n\r\n"
        )
        assert _status_of_answer(connection) == 401
        assert _sent_on(connection, 1_000_000_000) < 100_000_000
    with gateway.connect() as connection:
        # A small body is dropped, and the connection serves the next request.
        for _ in range(2):
            connection.sendall(b"POST /v1/quote HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
            assert _status_of_answer(connection) == 401
            connection.sendall(b"{}")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: %b\r\n\r\n" % (b"a" * 40_000), b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 400_000, b"431"),
        (b"GET /" + b"a" * 400_000, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 20_000, b"431"),
    ],
    ids=["no HTTP", "a large header", "an endless header", "an endless path", "many headers"],
)
def test_a_head_that_is_too_large_or_no_http_is_refused(
    gateway: RunningGateway, sent: bytes, status: bytes
) -> None:
    host, _, port = urlsplit(gateway.url).netloc.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(sent)
        answer = answer_on(connection).lower()
    # A client that still sends may lose the answer.
    assert answer.startswith(b"http/1.1 " + status) or (not answer and len(sent) > 100_000)
    assert all(header in answer for header in SAFE) or not answer


def test_one_address_has_only_so_many_connections(start: StartGateway) -> None:
    gateway = start({"CONNECTIONS_PER_ADDRESS": "20"})
    connections = [gateway.connect() for _ in range(60)]
    assert is_true_within(lambda: sum(map(has_ended, connections)) >= 40, 30)
    for connection in connections:
        connection.close()
    assert is_true_within(lambda: _is_answered(gateway), 30)
    assert "127.0.0.1 has 20 connections already" in gateway.log


def test_strangers_leave_files_for_redis_and_room_for_whoever_has_a_key(
    start: StartGateway,
) -> None:
    gateway = start(files_max=128)
    connections = []
    for _ in range(4):
        connections += [gateway.connect() for _ in range(100)]
        assert check(gateway) == 200
    assert "Traceback" not in gateway.log


def test_a_gateway_without_free_files_waits_and_does_not_fill_its_log(
    start: StartGateway,
) -> None:
    """asyncio wrote thousands of tracebacks a second."""
    gateway = start()
    assert check(gateway) == 200
    files = len(list(Path(f"/proc/{gateway.pid}/fd").iterdir()))
    before = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (min(files, 16), before[1]))
    connections = [gateway.connect() for _ in range(200)]
    assert is_true_within(lambda: "no connection can be accepted" in gateway.log, 30)
    time.sleep(3)
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, before)
    assert is_true_within(lambda: _is_answered(gateway), 30)
    for connection in connections:
        connection.close()
    assert gateway.log.count("no connection can be accepted") < 20
    assert "Traceback" not in gateway.log


@pytest.mark.parametrize("proxies", ["", "127.0.0.0/8, ::1"])
def test_only_a_trusted_proxy_says_who_asks(start: StartGateway, proxies: str) -> None:
    """By default, uvicorn believed whoever connected from the same machine."""
    gateway = start({"TRUSTED_PROXIES": proxies})
    with httpx.Client(base_url=gateway.url, timeout=30) as client:

        def ask(number: int, last: str) -> int:
            headers = {"X-Forwarded-For": f"192.0.2.{number % 250}, {last}"}
            return client.get("/healthz", headers=headers).status_code

        def is_refused() -> bool:
            # The last address is that of the proxy's client. The others are that client's words.
            return any(ask(number, "198.51.100.7") == 429 for number in range(300))

        assert is_true_within(is_refused, 60)
        if proxies:
            assert ask(0, "198.51.100.9") == 200


def test_the_gateway_serves_tls_and_reads_a_renewed_certificate(
    start: StartGateway, tmp_path: Path
) -> None:
    files = [tmp_path / "certificate.pem", tmp_path / "key.pem"]

    def issue() -> trustme.CA:
        authority = trustme.CA()
        issued = authority.issue_cert(LOOPBACK)
        files[1].write_bytes(issued.private_key_pem.bytes())
        files[0].write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return authority

    def trusts(authority: trustme.CA) -> bool:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        try:
            url = gateway.url.replace("http:", "https:")
            return httpx.get(f"{url}/v1/keys", headers=AUTHORIZED, verify=context).is_success
        except httpx.TransportError:
            return False

    first = issue()
    gateway = start({"TLS_CERTFILE": str(files[0]), "TLS_KEYFILE": str(files[1])}, is_awaited=False)
    assert is_true_within(lambda: trusts(first), 60)
    silent = [gateway.connect() for _ in range(50)]
    second = issue()
    assert is_true_within(lambda: trusts(second), 60)
    assert not trusts(first)
    assert is_true_within(lambda: all(map(has_ended, silent)), 60)


def _sent_on(connection: socket.socket, bytes_max: int) -> int:
    """How many bytes could be sent before the other side closed the connection."""
    sent = 0
    try:
        while sent < bytes_max:
            sent += connection.send(b" " * 65_536)
    except ConnectionError:
        pass
    return sent


def _is_answered(gateway: GatewayProcess) -> bool:
    try:
        return check(gateway) == 200
    except httpx.TransportError:
        return False
