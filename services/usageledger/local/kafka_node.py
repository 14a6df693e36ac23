"""One KRaft node's files and command lines, wherever it runs: as a child process, in a container,
or as one of several on a machine.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from usageledger.local.ports import LOOPBACK

HEAP_MAX = "1g"
# The second compiler occupies most of a core for ten seconds after a load begins. Its faster code
# makes no difference on one machine. With it, one limit event in a hundred took 350 ms; without it,
# 120 ms (`tests/benchmarks/crossing_latency.py`, 5,000 events/s on two cores).
JIT_OPTIONS = ("-XX:TieredStopAtLevel=1",)

LOGGING = """\
status = warn
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = ${sys:usageledger.log}
appender.file.filePattern = ${sys:usageledger.log}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSSX}{UTC} %p %m (%c)%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 3
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaNode:
    """A broker that is a controller as well.

    ``controllers`` are the voters of the whole cluster: (node id, controller port). ``security``
    are the settings of a secured one, and ``users`` the arguments that create its users.
    """

    node_id: int
    cluster_id: str
    client_port: int
    controllers: tuple[tuple[int, int], ...]
    data_directory: str
    bind_host: str = LOOPBACK
    security: Mapping[str, str] = field(default_factory=dict, repr=False)
    users: Sequence[str] = field(default=(), repr=False)

    def properties(self) -> str:
        """The server's properties file.

        It always advertises the loopback address, also in a container.
        """
        voters = ",".join(f"{node}@{LOOPBACK}:{port}" for node, port in self.controllers)
        replicas = min(3, len(self.controllers))
        controller_port = dict(self.controllers)[self.node_id]
        listeners = (
            f"CLIENT://{self.bind_host}:{self.client_port}",
            f"CONTROLLER://{LOOPBACK}:{controller_port}",
        )
        lines = {
            "process.roles": "broker,controller",
            "node.id": self.node_id,
            # Voters by configuration, not by the metadata log: the controller's port may change
            # between two starts.
            "controller.quorum.voters": voters,
            "listeners": ",".join(listeners),
            "advertised.listeners": f"CLIENT://{LOOPBACK}:{self.client_port}",
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "CLIENT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self.data_directory,
            "auto.create.topics.enable": "false",
            "log.message.timestamp.type": "LogAppendTime",
            "default.replication.factor": replicas,
            "min.insync.replicas": max(1, replicas - 1),
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": max(1, replicas - 1),
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": max(1, replicas - 1),
            "group.initial.rebalance.delay.ms": 0,
            # One machine has few cores and shares its memory with the services.
            "num.network.threads": 2,
            "num.io.threads": 4,
            "background.threads": 4,
            "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        }
        if len(self.controllers) == 1:
            # After a kill, the controller refuses the broker until its old session is over: 9 s by
            # default. That helps in a cluster, where a connection can fail. Here the broker and
            # the only controller share a process.
            lines |= {"broker.session.timeout.ms": 3_000, "broker.heartbeat.interval.ms": 500}
        settings = lines | dict(self.security)
        return "".join(f"{name}={value}\n" for name, value in settings.items())

    def format_command(self, java: str, class_path: str, properties: str) -> list[str]:
        """The command that formats the data directory. It leaves a formatted one as it is."""
        return [
            java, "-Xmx256m", "-cp", class_path, "kafka.tools.StorageTool",
            "format", "--cluster-id", self.cluster_id, "--config", properties, "--ignore-formatted",
            *self.users,
        ]  # fmt: skip

    def serve_command(
        self, java: str, class_path: str, properties: str, *, logging: str, log: str
    ) -> list[str]:
        """The command that runs the node, which shuts down cleanly on SIGTERM.

        ``logging`` names a file with the text LOGGING, ``log`` the file to write.
        """
        return [
            java,
            f"-Xmx{HEAP_MAX}",
            *JIT_OPTIONS,
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={logging}",
            f"-Dusageledger.log={log}",
            "-cp",
            class_path,
            "kafka.Kafka",
            properties,
        ]


def new_cluster_id() -> str:
    """A random cluster id in Kafka's form: 22 characters of URL-safe base64. It does not begin
    with a dash, because it is an argument on a command line.
    """
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode("ascii")
        if not text.startswith("-"):
            return text


def class_path(jars: Sequence[str]) -> str:
    """The jars as Java's ``-cp`` wants them on a POSIX system."""
    return ":".join(jars)
