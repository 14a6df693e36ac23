"""A real Apache Kafka broker as a child process, from jars and a packaged Java."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from usageledger.local.errors import StackError
from usageledger.local.files import open_private, write_atomically
from usageledger.local.java import find_java
from usageledger.local.kafka_jars import fetch_jars, read_lock
from usageledger.local.kafka_node import LOGGING, KafkaNode, class_path, new_cluster_id
from usageledger.local.kafka_security import ADMIN, KafkaSecurity, in_argument_file
from usageledger.local.ports import LOOPBACK, accepts_connections, kept_ports
from usageledger.local.processes import PRIVATE_UMASK, ChildProcess, last_lines
from usageledger.local.progress import Progress, Silent
from usageledger.operations.kafka_probe import broker_is_ready
from usageledger.runtime.kafka_connection import KafkaConnection

FORMAT_TIMEOUT_S = 120.0
READY_TIMEOUT_S = 120.0


class KafkaServer:
    """One broker and controller.

    Its directory holds ``data/``, the properties, the cluster id and the ports; all outlive a
    restart. With ``security`` it is a secured broker, else one that is open to this machine.
    """

    name = "kafka"
    ready_timeout_s = READY_TIMEOUT_S

    def __init__(self, directory: Path, logs: Path, security: KafkaSecurity | None = None) -> None:
        self._security = security
        self._directory = directory.resolve()
        self._log = logs.resolve() / "kafka.log"
        self._console = logs.resolve() / "kafka-console.log"
        self._child: ChildProcess | None = None
        self._port = 0

    @property
    def address(self) -> str:
        """``host:port`` for clients; known once prepared."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def connection(self) -> KafkaConnection:
        """How we connect as the administrator; known once prepared."""
        if self._security is None:
            return KafkaConnection(servers=self.address)
        return self._security.connection(self.address, ADMIN)

    @property
    def description(self) -> str:
        return f"Apache Kafka {read_lock().kafka_version} from packages"

    @property
    def log_path(self) -> Path:
        return self._log

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def exit_code(self) -> int | None:
        return self._child.exit_code if self._child else None

    def prepare(self, progress: Progress | None = None, stopping: Event | None = None) -> None:
        """Fetch the jars, choose the ports, write the configuration and format the data directory.

        Jars, ports and data that exist already are kept.
        """
        java = str(find_java())
        jars = class_path([str(jar) for jar in fetch_jars(progress or Silent(), stopping=stopping)])
        if self._security is not None:
            # The data has what the users' passwords were made into.
            self._directory.mkdir(parents=True, exist_ok=True)
            self._directory.chmod(0o700)
            self._security.prepare()
        node = self._node()
        self._port = node.client_port
        properties, logging = (
            self._directory / "server.properties",
            self._directory / "log4j2.properties",
        )
        write_atomically(properties, node.properties())
        write_atomically(logging, LOGGING)
        if not (self._directory / "data" / "meta.properties").exists():
            self._format(node.format_command(java, jars, str(properties)))
        command = node.serve_command(
            java, jars, str(properties), logging=str(logging), log=str(self._log)
        )
        self._child = ChildProcess(self.name, command, self._console)

    def spawn(self) -> None:
        """Start the broker; it is ready some seconds later."""
        if self._child is None:
            raise RuntimeError("prepare() comes first")
        self._child.spawn()

    def is_ready(self) -> bool:
        """Whether the broker answers requests."""
        return (
            self.pid is not None
            and accepts_connections(self._port)
            and broker_is_ready(self.connection)
        )

    def stop(self, timeout_s: float) -> None:
        """Shut the broker down; kill it if that takes longer than ``timeout_s``."""
        if self._child is not None:
            self._child.stop(timeout_s)

    def last_lines(self, count: int = 10) -> list[str]:
        """The end of the broker's log, or of Java's own output if there is no log."""
        return last_lines(self._log, count) or last_lines(self._console, count)

    def _format(self, command: list[str]) -> None:
        if self._security is None:
            run_format(command, self._console)
            return
        arguments = self._directory / "format.arguments"
        try:
            run_format(in_argument_file(command, arguments), self._console)
        finally:
            arguments.unlink(missing_ok=True)

    def _node(self) -> KafkaNode:
        ports = kept_ports(self._directory / "ports.json", ("client", "controller"))
        return KafkaNode(
            node_id=1,
            cluster_id=kept_cluster_id(self._directory),
            client_port=ports["client"],
            controllers=((1, ports["controller"]),),
            data_directory=str(self._directory / "data"),
            security={} if self._security is None else self._security.properties(),
            users=() if self._security is None else self._security.format_arguments(),
        )


def kept_cluster_id(directory: Path) -> str:
    """The cluster id of this directory, made at the first call."""
    path = directory / "cluster_id"
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        cluster_id = new_cluster_id()
        write_atomically(path, cluster_id + "\n")
        return cluster_id


def run_format(command: Sequence[str], log: Path) -> None:
    """Format a data directory. Raises StackError with the end of the tool's output."""
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=FORMAT_TIMEOUT_S,
            check=False,
            umask=PRIVATE_UMASK,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"Kafka's data directory could not be formatted: {error}") from error
    with open_private(log, "ab") as file:
        file.write(_without_credentials(result.stdout + result.stderr).encode())
    if result.returncode != 0:
        output = "\n".join(
            _without_credentials(result.stdout + result.stderr).strip().splitlines()[-5:]
        )
        raise StackError(
            f"Kafka's data directory could not be formatted (exit code {result.returncode}; the "
            f"whole output is in {log}):\n{output}"
        )


def _without_credentials(output: str) -> str:
    """The tool's output but for the lines that show what users' passwords were made into."""
    return "".join(
        line for line in output.splitlines(keepends=True) if "ScramCredential" not in line
    )
