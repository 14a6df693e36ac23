"""A Kafka and a Redis that are started and stopped together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Literal, Protocol

from usageledger.local.docker_servers import (
    ContainerServer,
    KafkaRecipe,
    RedisRecipe,
    why_not_docker,
)
from usageledger.local.errors import StackError
from usageledger.local.kafka_server import KafkaServer
from usageledger.local.progress import Progress, Silent
from usageledger.local.redis_server import RedisServer
from usageledger.operations.waiting import is_true_within
from usageledger.runtime.kafka_connection import KafkaConnection

Backend = Literal["packages", "docker"]
STOP_TIMEOUT_S = 30.0


class Server(Protocol):
    """A broker or a Redis that we run.

    Adapters: KafkaServer, RedisServer and, in containers, those of ``docker_servers``.
    """

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str:
        """The address for clients; known once prepared, the same after a restart."""
        ...

    @property
    def description(self) -> str:
        """The server, for people: "Apache Kafka 4.4.0 from packages"."""
        ...

    @property
    def log_path(self) -> Path: ...

    @property
    def pid(self) -> int | None:
        """The process id while it runs, else None."""
        ...

    @property
    def exit_code(self) -> int | None:
        """None while it runs or was never started."""
        ...

    @property
    def ready_timeout_s(self) -> float: ...

    def prepare(self, progress: Progress | None = None, stopping: Event | None = None) -> None:
        """Do everything that precedes the first start: fetch, configure, format.

        Raises StackError, StopRequested.
        """
        ...

    def spawn(self) -> None: ...

    def is_ready(self) -> bool: ...

    def stop(self, timeout_s: float) -> None: ...

    def last_lines(self, count: int = 10) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Servers:
    """A running Kafka (``host:port``) and Redis (URL), and a description of both."""

    kafka: KafkaConnection
    redis_url: str
    description: str
    parts: tuple[Server, ...]

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End both. Their data stays."""
        for server in self.parts:
            server.stop(timeout_s)


def start_servers(
    directory: Path, backend: Backend = "packages", progress: Progress | None = None
) -> Servers:
    """Start a Kafka and a Redis of our own on the loopback interface, with their data under
    ``directory``, and wait until both serve.

    They end with this process at the latest. Raises StackError if one cannot be started; then
    neither runs.
    """
    progress = progress or Silent()
    kafka, redis = make_kafka(directory, backend), make_redis(directory, backend)
    start_all((kafka, redis), progress)
    return Servers(
        KafkaConnection(servers=kafka.address),
        redis.address,
        f"{kafka.description}, {redis.description}",
        (kafka, redis),
    )


def make_kafka(directory: Path, backend: Backend) -> Server:
    """A broker that is not started yet.

    Its data goes to ``directory/kafka``, its log to ``directory/logs``.
    """
    if backend == "docker":
        return ContainerServer(KafkaRecipe(), directory / "kafka", directory / "logs")
    return KafkaServer(directory / "kafka", directory / "logs")


def make_redis(directory: Path, backend: Backend) -> Server:
    """A Redis that is not started yet.

    Its data goes to ``directory/redis``, its log to ``directory/logs``.
    """
    if backend == "docker":
        return ContainerServer(RedisRecipe(), directory / "redis", directory / "logs")
    return RedisServer(directory / "redis", directory / "logs")


def start_all(servers: Sequence[Server], progress: Progress, stopping: Event | None = None) -> None:
    """Prepare and start servers, and wait until all serve.

    On failure none of them runs.
    """
    try:
        for server in servers:
            server.prepare(progress, stopping)
        for server in servers:
            progress.say(f"starting {server.description}")
            server.spawn()
        for server in servers:
            wait_until_ready(server, stopping)
    except BaseException:
        for server in servers:
            server.stop(STOP_TIMEOUT_S)
        raise


def wait_until_ready(server: Server, stopping: Event | None = None) -> None:
    """Wait until a server that was spawned serves.

    Raises StackError with the end of its log if it ended or took too long.
    """
    is_over = is_true_within(
        lambda: server.exit_code is not None or server.is_ready(),
        server.ready_timeout_s,
        stopping=stopping,
    )
    if is_over and server.exit_code is None:
        return
    ended = server.exit_code is not None
    what = (
        f"ended with exit code {server.exit_code}"
        if ended
        else f"did not serve within {server.ready_timeout_s:.0f} s"
    )
    log = "\n".join(f"  {line}" for line in server.last_lines(15))
    raise StackError(f"{server.description} {what}. The end of {server.log_path}:\n{log}")


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """The backend that runs the servers, and why it was chosen."""

    backend: Backend
    reason: str


def choose_backend(requested: str | None = None) -> BackendChoice:
    """Return the requested backend.

    Without a request, it is containers if a Docker engine answers and has the images, else
    packages. Raises StackError for an unknown name.
    """
    if requested:
        if requested not in ("packages", "docker"):
            raise StackError(f"there is no backend {requested!r}: choose packages or docker")
        return BackendChoice("docker" if requested == "docker" else "packages", "as requested")
    reason = why_not_docker()
    return (
        BackendChoice("packages", reason)
        if reason
        else BackendChoice("docker", "a Docker engine answers and has the images")
    )
