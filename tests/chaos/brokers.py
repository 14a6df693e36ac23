"""Three Kafka brokers on this machine, each reached by every party through a link of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.proxy import Proxies
from usageledger.local.files import write_atomically
from usageledger.local.java import find_java
from usageledger.local.kafka_jars import fetch_jars
from usageledger.local.kafka_node import HEAP_MAX, LOGGING, KafkaNode, class_path, new_cluster_id
from usageledger.local.kafka_server import run_format
from usageledger.local.ports import LOOPBACK, accepts_connections, free_port
from usageledger.local.processes import ChildProcess
from usageledger.local.progress import Silent
from usageledger.operations.kafka_probe import admin_client, broker_is_ready
from usageledger.operations.waiting import is_true_within
from usageledger.runtime.kafka_connection import KafkaConnection

HEAP = "512m"
# Three brokers start on few cores: quick compilation matters more than the speed of compiled code.
JAVA_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss512k")
READY_TIMEOUT_S = 180.0
IN_SYNC_TIMEOUT_S = 90.0
BROKER_LINK = "brokers"
PREFERRED = 0

# With these, events flow again soon. By default a half-open connection between two brokers delays
# acknowledgements for half a minute, and a killed broker is noticed after nine seconds.
CLUSTER_SETTINGS = {
    "broker.session.timeout.ms": 6_000,
    "replica.lag.time.max.ms": 10_000,
    "replica.socket.timeout.ms": 10_000,
    "num.network.threads": 1,
    "num.replica.fetchers": 1,
    "unclean.leader.election.enable": "false",
    "controlled.shutdown.enable": "true",
    "auto.leader.rebalance.enable": "true",
    "leader.imbalance.check.interval.seconds": 20,
}


@dataclass(slots=True)
class Broker:
    """One node: a broker and a controller."""

    node_id: int
    port: int
    child: ChildProcess

    @property
    def direct(self) -> KafkaConnection:
        """Its address for the harness, which no fault between parties touches."""
        return KafkaConnection(servers=f"{LOOPBACK}:{self.port}")


class Brokers:
    """The cluster.

    ``parties`` reach it through links. The link of a party to broker n is ``PARTY>kafka-n``.
    """

    def __init__(
        self,
        directory: Path,
        logs: Path,
        proxies: Proxies,
        ports: set[int],
        parties: Sequence[str],
        count: int = 3,
    ) -> None:
        self._directory, self._logs = directory, logs
        self._ports = ports
        self._entrances: dict[str, list[int]] = {party: [] for party in parties}
        self.brokers: list[Broker] = []
        cluster_id = new_cluster_id()
        controllers = tuple((node, self._port()) for node in range(1, count + 1))
        jars = class_path([str(jar) for jar in fetch_jars(Silent())])
        java = str(find_java())
        for node_id, _ in controllers:
            self.brokers.append(
                self._new_broker(node_id, cluster_id, controllers, java, jars, proxies)
            )

    @property
    def direct(self) -> KafkaConnection:
        """The addresses for the harness."""
        return KafkaConnection(servers=",".join(str(broker.direct) for broker in self.brokers))

    def bootstrap(self, party: str) -> str:
        """The addresses for a party."""
        return ",".join(f"{LOOPBACK}:{port}" for port in self._entrances[party])

    def start(self) -> None:
        """Start all and wait until each serves."""
        for broker in self.brokers:
            broker.child.spawn()
        for broker in self.brokers:
            self.wait_ready(broker)

    def wait_ready(self, broker: Broker) -> None:
        """Wait until a broker answers and is registered."""
        if not is_true_within(
            lambda: accepts_connections(broker.port) and broker_is_ready(broker.direct),
            READY_TIMEOUT_S,
            every_s=0.3,
        ):
            said = "\n".join(broker.child.last_lines())
            raise RuntimeError(
                f"broker {broker.node_id} did not come up within {READY_TIMEOUT_S:.0f} s: {said}"
            )

    def is_in_sync(self, topics: Sequence[str]) -> bool:
        """Whether every replica of these topics' partitions is in sync.

        Then the loss of any one broker loses no record.
        """
        try:
            with admin_client(self.direct, timeout_ms=5_000) as admin:
                described = admin.describe_topics(list(topics))
        except Exception:  # noqa: BLE001 - any error of a cluster in trouble means no
            return False
        partitions = [partition for topic in described for partition in topic["partitions"]]
        return bool(partitions) and all(
            len(partition["isr_nodes"]) == len(self.brokers) for partition in partitions
        )

    def wait_in_sync(self, topics: Sequence[str], timeout_s: float = IN_SYNC_TIMEOUT_S) -> bool:
        """Wait until all replicas are in sync; False if that took too long."""
        return is_true_within(lambda: self.is_in_sync(topics), timeout_s, every_s=0.5)

    def controller(self) -> Broker:
        """The node that leads the metadata quorum."""
        with admin_client(self.direct, timeout_ms=10_000) as admin:
            quorum = admin.describe_metadata_quorum()
        leader = quorum["topics"][0]["partitions"][0]["leader_id"]
        return next(broker for broker in self.brokers if broker.node_id == leader)

    def move_leaders(self, topics: Sequence[str], rotate: int) -> None:
        """Give every partition another preferred leader, and elect it."""
        from kafka import TopicPartition

        nodes = [broker.node_id for broker in self.brokers]
        with admin_client(self.direct, timeout_ms=20_000) as admin:
            partitions = {
                topic["name"]: list(range(len(topic["partitions"])))
                for topic in admin.describe_topics(list(topics))
            }
            order = {
                TopicPartition(name, number): [
                    nodes[(number + rotate + step) % len(nodes)] for step in range(len(nodes))
                ]
                for name, numbers in partitions.items()
                for number in numbers
            }
            admin.alter_partition_reassignments(order)
            admin.elect_leaders(PREFERRED, partitions, raise_errors=False)

    def stop(self) -> None:
        """End all at once. Nothing reads their data afterwards."""
        with ThreadPoolExecutor(len(self.brokers)) as pool:
            list(pool.map(_end, self.brokers))

    def _new_broker(
        self,
        node_id: int,
        cluster_id: str,
        controllers: tuple[tuple[int, int], ...],
        java: str,
        jars: str,
        proxies: Proxies,
    ) -> Broker:
        name = f"kafka-{node_id}"
        directory = self._directory / name
        port = self._port()
        node = KafkaNode(
            node_id=node_id,
            cluster_id=cluster_id,
            client_port=port,
            controllers=controllers,
            data_directory=str(directory / "data"),
        )
        properties, logging = directory / "server.properties", directory / "log4j2.properties"
        write_atomically(
            properties,
            node.properties()
            + _lines(self._link_settings(name, port, dict(controllers)[node_id], proxies)),
        )
        write_atomically(logging, LOGGING)
        console = self._logs / f"{name}-console.log"
        run_format(node.format_command(java, jars, str(properties)), console)
        command = node.serve_command(
            java, jars, str(properties), logging=str(logging), log=str(self._logs / f"{name}.log")
        )
        command[command.index(f"-Xmx{HEAP_MAX}")] = f"-Xmx{HEAP}"
        command[2:2] = JAVA_OPTIONS
        return Broker(node_id, port, ChildProcess(name, command, console))

    def _link_settings(
        self, name: str, port: int, controller_port: int, proxies: Proxies
    ) -> Mapping[str, object]:
        """The settings of a listener for each party, advertised at the near end of its link.

        They override earlier lines, because Java uses the last of two lines with one name.
        """
        listeners, advertised, protocols = (
            {"CLIENT": port, "CONTROLLER": controller_port},
            {"CLIENT": port},
            ["CLIENT", "CONTROLLER"],
        )
        for party in (*self._entrances, BROKER_LINK):
            listener = party.upper().replace("-", "_")
            listeners[listener], advertised[listener] = self._port(), self._port()
            protocols.append(listener)
            proxies.add(f"{party}>{name}", advertised[listener], listeners[listener])
            if party in self._entrances:
                self._entrances[party].append(advertised[listener])
        return {
            "listeners": ",".join(
                f"{listener}://{LOOPBACK}:{there}" for listener, there in listeners.items()
            ),
            "advertised.listeners": ",".join(
                f"{listener}://{LOOPBACK}:{there}" for listener, there in advertised.items()
            ),
            "listener.security.protocol.map": ",".join(
                f"{listener}:PLAINTEXT" for listener in protocols
            ),
            "inter.broker.listener.name": BROKER_LINK.upper(),
            **CLUSTER_SETTINGS,
        }

    def _port(self) -> int:
        port = free_port(self._ports)
        self._ports.add(port)
        return port


def _lines(settings: Mapping[str, object]) -> str:
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _end(broker: Broker) -> None:
    if broker.child.pid is not None:
        os.kill(broker.child.pid, signal.SIGCONT)
        os.kill(broker.child.pid, signal.SIGKILL)
    broker.child.stop(5.0)
