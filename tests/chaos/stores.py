"""The counter stores under test: a Valkey with a replica and three Sentinels, and a Redis Cluster
of 3 + 3.

Clients, replicas and Sentinels all reach a node through one link, whose name is ``redis-n``.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import redis

from tests.chaos.proxy import Proxies
from usageledger.local.files import write_atomically
from usageledger.local.ports import LOOPBACK, free_port
from usageledger.local.processes import ChildProcess
from usageledger.local.redis_server import find_redis, redis_configuration
from usageledger.operations.waiting import is_true_within

READY_TIMEOUT_S = 30.0
HEALTHY_TIMEOUT_S = 60.0
FAILED_OVER_TIMEOUT_S = 30.0
MASTER_NAME = "ledger"
SENTINEL_DOWN_AFTER_MS = 2_500
CLUSTER_NODE_TIMEOUT_MS = 3_000


class Node:
    """One server. Its directory outlives a restart."""

    def __init__(
        self,
        number: int,
        directory: Path,
        logs: Path,
        proxies: Proxies,
        ports: set[int],
        *extra: str,
    ) -> None:
        self.name = f"redis-{number}"
        self.directory = directory / self.name
        self.port, self.entrance, self.bus_port = (_port(ports) for _ in range(3))
        proxies.add(self.name, self.entrance, self.port)
        (self.directory / "data").mkdir(parents=True, exist_ok=True)
        configuration = redis_configuration(
            port=self.port, data_directory=str(self.directory / "data")
        )
        lines = [line.format(node=self) for line in extra]
        write_atomically(
            self.directory / "redis.conf", configuration + "".join(f"{line}\n" for line in lines)
        )
        command = [str(find_redis().path), str(self.directory / "redis.conf")]
        self.child = ChildProcess(self.name, command, logs / f"{self.name}.log")

    def start(self) -> None:
        """Start it and wait until it has loaded its data."""
        self.child.spawn()
        if not is_true_within(self.answers, READY_TIMEOUT_S, every_s=0.05):
            raise RuntimeError(f"{self.name} did not come up: {self.child.last_lines()}")

    @contextmanager
    def client(self) -> Iterator[Any]:
        """A connection of the harness's own, which does not use the link."""
        with redis.Redis(
            host=LOOPBACK,
            port=self.port,
            socket_timeout=2.0,
            socket_connect_timeout=2.0,
            protocol=2,
        ) as client:
            yield client

    def answers(self) -> bool:
        """Whether it answers a ping."""
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False

    def signal(self, number: int) -> None:
        """Send a signal to it, if it runs."""
        if self.child.pid is not None:
            os.kill(self.child.pid, number)

    def kill(self) -> None:
        """End it at once and wait until it is gone."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self.child.stop(5.0)

    def replication(self) -> dict[str, object]:
        """Its replication state; nothing if it does not answer."""
        try:
            with self.client() as client:
                return dict(client.info("replication"))
        except (redis.RedisError, OSError):
            return {}

    def copy_data(self) -> Path:
        """A copy of its append-only file as it is now."""
        copy = self.directory / "older"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.directory / "data", copy)
        return copy

    def take_back_to(self, copy: Path) -> None:
        """Replace its data with the copy, as if its disk had lost the last seconds.

        The server must not be running.
        """
        shutil.rmtree(self.directory / "data")
        copy.rename(self.directory / "data")


class Pair(NamedTuple):
    """A master and its replica, or None if it has none at present."""

    master: Node
    replica: Node | None


class Store(Protocol):
    """The part of either store that faults need."""

    nodes: list[Node]
    url: str

    def start(self) -> None: ...

    def pairs(self) -> list[Pair]:
        """Masters that hold data, with their replicas."""
        ...

    def is_healthy(self) -> bool:
        """Whether every master has a replica that follows, and all agree on the roles."""
        ...

    def fail_over(self, pair: Pair) -> None:
        """Request an orderly failover."""
        ...

    def stop(self) -> None: ...


class SentinelStore:
    """A master and a replica, watched by three Sentinels."""

    def __init__(self, directory: Path, logs: Path, proxies: Proxies, ports: set[int]) -> None:
        announced = (
            "replica-announce-ip " + LOOPBACK,
            "replica-announce-port {node.entrance}",
            "repl-diskless-sync-delay 0",
        )
        first = Node(1, directory, logs, proxies, ports, *announced)
        second = Node(
            2, directory, logs, proxies, ports, *announced, f"replicaof {LOOPBACK} {first.entrance}"
        )
        self.nodes = [first, second]
        self._sentinels = [
            _Sentinel(number, directory, logs, first.entrance, ports) for number in (1, 2, 3)
        ]
        hosts = ",".join(f"{LOOPBACK}:{sentinel.port}" for sentinel in self._sentinels)
        self.url = f"redis+sentinel://{hosts}/{MASTER_NAME}"

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        for sentinel in self._sentinels:
            sentinel.child.spawn()
        if not is_true_within(self.is_healthy, HEALTHY_TIMEOUT_S):
            raise RuntimeError("the Sentinels did not find the master and its replica")

    def pairs(self) -> list[Pair]:
        entrance = self._master_entrance()
        master = next((node for node in self.nodes if node.entrance == entrance), None)
        if master is None:
            return []
        return [Pair(master, next((node for node in self.nodes if node is not master), None))]

    def is_healthy(self) -> bool:
        said = [sentinel.master() for sentinel in self._sentinels]
        if any(state is None for state in said):
            return False
        states = [state for state in said if state is not None]
        agreed = len({state["port"] for state in states}) == 1 and all(
            state["flags"] == "master" for state in states
        )
        is_watched = all(
            int(state["num-slaves"]) == 1 and int(state["num-other-sentinels"]) == 2
            for state in states
        )
        return agreed and is_watched and all(_is_followed(pair) for pair in self.pairs())

    def fail_over(self, pair: Pair) -> None:
        for sentinel in self._sentinels:
            with suppress(redis.RedisError), sentinel.client() as client:
                client.execute_command("SENTINEL", "FAILOVER", MASTER_NAME)
                return

    def stop(self) -> None:
        for sentinel in self._sentinels:
            sentinel.child.stop(3.0)
        for node in self.nodes:
            node.kill()

    def _master_entrance(self) -> int | None:
        for sentinel in self._sentinels:
            state = sentinel.master()
            if state is not None:
                return int(state["port"])
        return None


class _Sentinel:
    def __init__(
        self, number: int, directory: Path, logs: Path, master_entrance: int, ports: set[int]
    ) -> None:
        self.port = _port(ports)
        home = directory / f"sentinel-{number}"
        home.mkdir(parents=True, exist_ok=True)
        lines = (
            f"bind {LOOPBACK}",
            f"port {self.port}",
            f'dir "{home}"',
            f"sentinel monitor {MASTER_NAME} {LOOPBACK} {master_entrance} 2",
            f"sentinel down-after-milliseconds {MASTER_NAME} {SENTINEL_DOWN_AFTER_MS}",
            f"sentinel failover-timeout {MASTER_NAME} 6000",
            f"sentinel parallel-syncs {MASTER_NAME} 1",
        )
        write_atomically(home / "sentinel.conf", "".join(f"{line}\n" for line in lines))
        command = [str(find_redis().path), str(home / "sentinel.conf"), "--sentinel"]
        self.child = ChildProcess(f"sentinel-{number}", command, logs / f"sentinel-{number}.log")

    @contextmanager
    def client(self) -> Iterator[Any]:
        with redis.Redis(
            host=LOOPBACK, port=self.port, socket_timeout=2.0, protocol=2, decode_responses=True
        ) as client:
            yield client

    def master(self) -> dict[str, str] | None:
        try:
            with self.client() as client:
                flat = client.execute_command("SENTINEL", "MASTER", MASTER_NAME)
        except (redis.RedisError, OSError):
            return None
        return (
            {str(key): str(value) for key, value in flat.items()}
            if isinstance(flat, dict)
            else dict(_two_by_two(flat))
        )


class ClusterStore:
    """Three masters with a third of the slots each, and a replica for each."""

    def __init__(self, directory: Path, logs: Path, proxies: Proxies, ports: set[int]) -> None:
        settings = (
            "cluster-enabled yes",
            "cluster-config-file nodes.conf",
            f"cluster-node-timeout {CLUSTER_NODE_TIMEOUT_MS}",
            "cluster-port {node.bus_port}",
            f"cluster-announce-ip {LOOPBACK}",
            "cluster-announce-port {node.entrance}",
            "cluster-announce-bus-port {node.bus_port}",
            # One master without a replica must not stop the partitions of the other two. Old data
            # is better than none here.
            "cluster-require-full-coverage no",
            "cluster-replica-validity-factor 0",
            "cluster-allow-replica-migration no",
            "repl-diskless-sync-delay 0",
        )
        self.nodes = [
            Node(number, directory, logs, proxies, ports, *settings) for number in range(1, 7)
        ]
        self.url = "redis+cluster://" + ",".join(
            f"{LOOPBACK}:{node.entrance}" for node in self.nodes
        )

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        masters, replicas = self.nodes[:3], self.nodes[3:]
        for number, master in enumerate(masters):
            with master.client() as client:
                first, last = number * 16_384 // 3, (number + 1) * 16_384 // 3 - 1
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            with self.nodes[0].client() as client:
                client.execute_command("CLUSTER", "MEET", LOOPBACK, node.entrance, node.bus_port)
        if not is_true_within(
            lambda: all(len(self._nodes_seen_by(node)) == len(self.nodes) for node in self.nodes),
            HEALTHY_TIMEOUT_S,
        ):
            raise RuntimeError("the cluster's nodes did not meet")
        for replica, master in zip(replicas, masters, strict=True):
            self._follow(replica, master)
        if not is_true_within(self.is_healthy, HEALTHY_TIMEOUT_S):
            raise RuntimeError("the cluster did not form")

    def pairs(self) -> list[Pair]:
        known = self._newest_states()
        masters = [
            node
            for node in self.nodes
            if known.get(node.entrance, _NodeState("", False, "", False)).has_slots
        ]
        return [
            Pair(master, self._replica_of(known[master.entrance].id, known)) for master in masters
        ]

    def is_healthy(self) -> bool:
        if not all(node.answers() for node in self.nodes):
            return False
        for node in self.nodes:
            with suppress(redis.RedisError), node.client() as client:
                state = client.cluster("INFO")
                if (
                    state["cluster_state"] != "ok"
                    or state["cluster_slots_ok"] != "16384"
                    or any(k.fails for k in self._nodes_seen_by(node).values())
                ):
                    return False
        pairs = self.pairs()
        return len(pairs) == 3 and all(_is_followed(pair) for pair in pairs)

    def fail_over(self, pair: Pair) -> None:
        if pair.replica is not None:
            with suppress(redis.RedisError), pair.replica.client() as client:
                client.execute_command("CLUSTER", "FAILOVER")

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()

    def _follow(self, replica: Node, master: Node) -> None:
        def is_requested() -> bool:
            with suppress(redis.RedisError), master.client() as there, replica.client() as client:
                client.execute_command(
                    "CLUSTER", "REPLICATE", there.execute_command("CLUSTER", "MYID")
                )
                return True
            return False

        if not is_true_within(is_requested, HEALTHY_TIMEOUT_S):
            raise RuntimeError(f"{replica.name} does not follow {master.name}")

    def _newest_states(self) -> dict[int, _NodeState]:
        """The answer of the node with the newest view, by the entrances of the nodes."""
        found: list[tuple[int, dict[int, _NodeState]]] = []
        for node in self.nodes:
            with suppress(redis.RedisError, OSError), node.client() as client:
                found.append(
                    (
                        int(client.cluster("INFO")["cluster_current_epoch"]),
                        self._nodes_seen_by(node),
                    )
                )
        return max(found, key=lambda one: one[0])[1] if found else {}

    def _nodes_seen_by(self, node: Node) -> dict[int, _NodeState]:
        try:
            with node.client() as client:
                text = client.execute_command("CLUSTER", "NODES")
        except (redis.RedisError, OSError):
            return {}
        return dict(_node_state(line.split()) for line in text.decode("ascii").splitlines())

    def _replica_of(self, master_id: str, known: dict[int, _NodeState]) -> Node | None:
        return next(
            (
                node
                for node in self.nodes
                if known.get(node.entrance, _NodeState("", False, "", False)).master == master_id
            ),
            None,
        )


class _NodeState(NamedTuple):
    id: str
    has_slots: bool
    master: str
    fails: bool


def _node_state(words: Sequence[str]) -> tuple[int, _NodeState]:
    """A line of CLUSTER NODES: id, address, flags, master, ping, pong, epoch, link, slots ..."""
    id, address, flags, master = words[:4]
    entrance = int(address.partition("@")[0].rpartition(":")[2])
    return entrance, _NodeState(
        id, "master" in flags.split(",") and len(words) > 8, master, "fail" in flags
    )


def wait_failed_over(store: Store, master: Node) -> bool:
    """Wait until another node has replaced ``master``; False if that took too long."""

    def is_replaced() -> bool:
        pairs = store.pairs()
        return bool(pairs) and all(pair.master is not master for pair in pairs)

    return is_true_within(is_replaced, FAILED_OVER_TIMEOUT_S, every_s=0.2)


def fail_over_losing_writes(store: Store, pair: Pair, lose_s: float) -> None:
    """Freeze the replica while writes go on, then kill the master.

    The writes that the master acknowledged meanwhile are gone for good.
    """
    replica = pair.replica
    if replica is None:
        return
    replica.signal(signal.SIGSTOP)
    try:
        with suppress(redis.RedisError, OSError), pair.master.client() as client:
            # Data on its way would still reach the replica. So its connection must end while it
            # cannot open another.
            client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        time.sleep(lose_s)
        pair.master.kill()
    finally:
        replica.signal(signal.SIGCONT)
    wait_failed_over(store, pair.master)


def _is_followed(pair: Pair) -> bool:
    if pair.replica is None:
        return False
    replica, master = pair.replica.replication(), pair.master.replication()
    is_linked = replica.get("role") == "slave" and replica.get("master_link_status") == "up"
    return (
        master.get("role") == "master"
        and is_linked
        and replica.get("master_port") == pair.master.entrance
    )


def _port(ports: set[int]) -> int:
    port = free_port(ports)
    ports.add(port)
    return port


def _two_by_two(flat: Sequence[str]) -> Iterator[tuple[str, str]]:
    return zip(flat[::2], flat[1::2], strict=True)
