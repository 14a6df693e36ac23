"""A Redis-protocol server of a test's own: to kill, to fill up, to follow, to make a cluster of.

It listens on loopback only.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from usageledger.local.ports import LOOPBACK, free_port, is_free
from usageledger.local.redis_server import find_redis

START_TIMEOUT_S = 20.0


class ValkeyServer:
    """One server process on a port of its own, with an append-only file in ``directory`` that
    outlives a restart.
    """

    def __init__(self, directory: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def cluster_url(self) -> str:
        return f"redis+cluster://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *arguments: str) -> None:
        """Start it, and wait until it has loaded its data.

        ``arguments`` replace those of a server with an append-only file.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = (
            "--port",
            str(self.port),
            "--bind",
            LOOPBACK,
            "--dir",
            str(self.directory),
            "--save",
            "",
        )
        command = [
            str(find_redis().path),
            *(
                arguments
                or (*settings, "--appendonly", "yes", "--appendfsync", "everysec", *self._options)
            ),
        ]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self._wait_until_ready()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    def client(self) -> redis.Redis:
        return redis.Redis(host=LOOPBACK, port=self.port, socket_timeout=5, protocol=2)

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        with self.client() as client:
            while time.monotonic() < deadline and self._process.poll() is None:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    time.sleep(0.02)
        log = (self.directory / "log").read_text(errors="replace")[-2_000:]
        self.kill()
        raise AssertionError(f"the server did not come up:\n{log}")


@contextmanager
def running_valkey(
    directory: Path, *options: str, port: int | None = None
) -> Iterator[ValkeyServer]:
    """A server that is ended with the block."""
    server = ValkeyServer(directory, *options, port=port)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def running_cluster(directory: Path) -> Iterator[ValkeyServer]:
    """A Redis Cluster of two nodes, each with half of the slots; any of them names it."""
    with _running_node(directory / "a") as a, _running_node(directory / "b") as b:
        with a.client() as at_a, b.client() as at_b:
            at_a.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
            at_b.execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
            # With one epoch between them the nodes would have to settle who owns what first.
            at_a.execute_command("CLUSTER", "SET-CONFIG-EPOCH", 1)
            at_b.execute_command("CLUSTER", "SET-CONFIG-EPOCH", 2)
            at_a.execute_command("CLUSTER", "MEET", LOOPBACK, b.port, b.port + 1)
            deadline = time.monotonic() + START_TIMEOUT_S
            while not all(_has_formed(node) for node in (at_a, at_b)):
                assert time.monotonic() < deadline, "the cluster did not form"
                time.sleep(0.05)
        yield a


@contextmanager
def _running_node(directory: Path) -> Iterator[ValkeyServer]:
    while True:
        port = free_port()
        if is_free(port + 1):
            break
    options = ("--cluster-enabled", "yes", "--cluster-port", str(port + 1))
    with running_valkey(directory, *options, port=port) as node:
        yield node


def _has_formed(node: redis.Redis) -> bool:
    state = node.cluster("INFO")
    return bool(
        state["cluster_state"] == "ok"
        and state["cluster_slots_ok"] == "16384"
        and state["cluster_known_nodes"] == "2"
    )
