"""Kafka and Redis in containers, through testcontainers, with their data in a directory of ours.

The containers run the same command lines and configurations as the packages' servers. So a Kafka
image needs the jars in /opt/kafka/libs and ``java`` on the PATH. A Redis image needs
``valkey-server`` or ``redis-server`` on the PATH. The official images have them.

An image named by a tag can be another one tomorrow. The stack says so, and how to pin it.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, Protocol
from urllib.parse import urlsplit

from usageledger.local.errors import StackError
from usageledger.local.files import make_private_directory, write_atomically
from usageledger.local.kafka_node import LOGGING, KafkaNode
from usageledger.local.kafka_server import kept_cluster_id
from usageledger.local.ports import LOOPBACK, accepts_connections, kept_ports
from usageledger.local.processes import last_lines
from usageledger.local.progress import Progress
from usageledger.local.redis_server import (
    answers_ping,
    kept_password,
    redis_address,
    redis_configuration,
)
from usageledger.operations.kafka_probe import broker_is_ready
from usageledger.runtime.kafka_connection import KafkaConnection

KAFKA_IMAGE_VARIABLE, KAFKA_IMAGE = "USAGELEDGER_KAFKA_IMAGE", "apache/kafka:4.4.0"
REDIS_IMAGE_VARIABLE, REDIS_IMAGE = "USAGELEDGER_REDIS_IMAGE", "valkey/valkey:9"
ENGINE = "unix:///var/run/docker.sock"
DIRECTORY_LABEL = "usageledger.directory"
LOOK_EVERY_S = 1.0
ANYWHERE = "0.0.0.0"  # inside a container; only the loopback port is published
DATA, LOGS, SETTINGS = "/var/lib/usageledger", "/var/log/usageledger", "/etc/usageledger"


def kafka_image() -> str:
    """The Kafka image: ``USAGELEDGER_KAFKA_IMAGE`` or the official one."""
    return os.environ.get(KAFKA_IMAGE_VARIABLE) or KAFKA_IMAGE


def redis_image() -> str:
    """The Redis or Valkey image: ``USAGELEDGER_REDIS_IMAGE`` or the official one."""
    return os.environ.get(REDIS_IMAGE_VARIABLE) or REDIS_IMAGE


def pinning_advice(
    image: str, variable: str, repository_digests: Sequence[str] | None, image_id: str
) -> str | None:
    """A warning that an image is named by a tag, with the line that pins it as it is now.

    The engine knows the digests of an image that it fetched, and the id of every image. None if
    the name has a digest or is an id.
    """
    if "@sha256:" in image or image.startswith("sha256:"):
        return None
    pinned = repository_digests[0] if repository_digests else image_id
    return (
        f"the image {image} is named by a tag, which may be another image tomorrow. "
        f"To keep the one that runs now: export {variable}={pinned}"
    )


class _Recipe(Protocol):
    """A kind of server, and the files that it puts into its container."""

    name: str
    image: str
    image_variable: str

    def write(self, directory: Path) -> int:
        """Write the configuration into ``directory/settings`` and return the port that the server
        serves.
        """
        ...

    def script(self) -> str:
        """The shell commands that the container runs; the last one replaces the shell."""
        ...

    def serves(self, port: int) -> bool: ...

    def address(self, port: int) -> str: ...


class ContainerServer:
    """A server in a container of its own.

    Each start makes a new container. Data, settings and port stay in the directory.
    """

    ready_timeout_s = 120.0

    def __init__(self, recipe: _Recipe, directory: Path, logs: Path) -> None:
        self._recipe = recipe
        self._directory = directory.resolve()
        self._logs = logs.resolve()
        self._port = 0
        self._container: Any = None
        self._reaper: subprocess.Popen[bytes] | None = None
        self._looked_s = 0.0
        self._seen: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        return self._recipe.name

    @property
    def address(self) -> str:
        return self._recipe.address(self._port)

    @property
    def description(self) -> str:
        return f"{self._recipe.image} in a container"

    @property
    def log_path(self) -> Path:
        return self._logs / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """The process id on this machine while the container runs.

        None outside Linux, where the engine runs in a virtual machine.
        """
        state = self._state()
        return (
            int(state["Pid"]) or None if state.get("Running") and sys.platform == "linux" else None
        )

    @property
    def exit_code(self) -> int | None:
        state = self._state()
        return int(state["ExitCode"]) if state.get("Status") in ("exited", "dead") else None

    def prepare(self, progress: Progress | None = None, stopping: Event | None = None) -> None:
        """Fetch the image if the engine has none, and write the configuration."""
        with _docker() as client:
            _pull_if_missing(client, self._recipe.image, progress)
            found = client.images.get(self._recipe.image)
        advice = pinning_advice(
            self._recipe.image,
            self._recipe.image_variable,
            found.attrs.get("RepoDigests"),
            found.id,
        )
        if advice is not None and progress is not None:
            progress.warn(advice)
        for directory in (self._directory / "data", self._directory / "settings", self._logs):
            make_private_directory(directory)
        self._port = self._recipe.write(self._directory)

    def spawn(self) -> None:
        """Make and start the container. Raises StackError."""
        self._discard()
        with _docker() as client:
            _remove_labelled(client, str(self._directory))
            user = _container_user(client)
        self._container = self._start_container(user)
        self._reaper = _start_reaper(self._container.get_container_id())
        self._looked_s = 0.0

    def is_ready(self) -> bool:
        return (
            self.exit_code is None
            and accepts_connections(self._port)
            and self._recipe.serves(self._port)
        )

    def stop(self, timeout_s: float) -> None:
        """Stop the server and remove the container. The data stays.

        The engine kills a server that has not ended within ``timeout_s``.
        """
        if self._container is not None:
            wrapped = self._container.get_wrapped_container()
            if wrapped is not None:
                with _stack_errors("stop the container"):
                    wrapped.stop(timeout=max(1, int(timeout_s)))
        self._discard()

    def last_lines(self, count: int = 10) -> list[str]:
        """The end of the server's log, or of the container's output if there is no log."""
        lines = last_lines(self.log_path, count)
        wrapped = self._container.get_wrapped_container() if self._container is not None else None
        if lines or wrapped is None:
            return lines
        with _stack_errors("read the container's output"):
            text: str = wrapped.logs(tail=count).decode("utf-8", "replace")
        return text.splitlines()

    def _start_container(self, user: str) -> Any:
        from testcontainers.core.container import DockerContainer

        container = DockerContainer(self._recipe.image)
        # testcontainers' own way of publishing a port opens it to the whole network.
        ports: dict[str, Any] = {f"{self._port}/tcp": (LOOPBACK, self._port)}
        container.ports.update(ports)
        container.with_volume_mapping(self._directory / "data", DATA, "rw").with_volume_mapping(
            self._logs, LOGS, "rw"
        )
        container.with_volume_mapping(self._directory / "settings", SETTINGS, "ro").with_command(
            ["-c", f"umask 077\n{self._recipe.script()}"]
        )
        container.with_kwargs(
            entrypoint=["/bin/sh"],
            user=user,
            labels={DIRECTORY_LABEL: str(self._directory)},
            working_dir="/",
        )
        with _without_ryuk(), _stack_errors(f"start {self._recipe.image}"):
            try:
                return container.start()
            except BaseException:
                container.stop()
                raise

    def _discard(self) -> None:
        if self._container is not None:
            with _stack_errors("remove the container"):
                try:
                    self._container.stop()
                except _not_found():
                    self._container.get_docker_client().client.close()
            self._container, self._seen = None, {}
        if self._reaper is not None:
            assert self._reaper.stdin is not None
            self._reaper.stdin.close()
            self._reaper.wait(30.0)
            self._reaper = None

    def _state(self) -> Mapping[str, Any]:
        """The engine's view of the container, at most a second old."""
        if self._container is None:
            return {}
        if time.monotonic() - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = time.monotonic()
            self._seen = self._look()
        return self._seen

    def _look(self) -> Mapping[str, Any]:
        wrapped = self._container.get_wrapped_container()
        try:
            with _stack_errors("inspect the container"):
                wrapped.reload()
        except StackError:
            # The container was removed, or ended with its engine. The supervisor starts it again.
            return {"Status": "dead", "Running": False, "ExitCode": 137}
        state: Mapping[str, Any] = wrapped.attrs["State"]
        return state


class KafkaRecipe:
    """One KRaft node, formatted at the first start."""

    name = "kafka"
    image_variable = KAFKA_IMAGE_VARIABLE

    def __init__(self) -> None:
        self.image = kafka_image()
        self._node: KafkaNode | None = None

    def write(self, directory: Path) -> int:
        ports = kept_ports(directory / "ports.json", ("client", "controller"))
        self._node = KafkaNode(
            node_id=1,
            cluster_id=kept_cluster_id(directory),
            client_port=ports["client"],
            controllers=((1, ports["controller"]),),
            data_directory=f"{DATA}/log",
            bind_host=ANYWHERE,
        )
        write_atomically(directory / "settings" / "server.properties", self._node.properties())
        write_atomically(directory / "settings" / "log4j2.properties", LOGGING)
        return ports["client"]

    def script(self) -> str:
        assert self._node is not None
        properties = f"{SETTINGS}/server.properties"
        form = self._node.format_command("java", "/opt/kafka/libs/*", properties)
        serve = self._node.serve_command(
            "java",
            "/opt/kafka/libs/*",
            properties,
            logging=f"{SETTINGS}/log4j2.properties",
            log=f"{LOGS}/kafka.log",
        )
        return (
            f"test -e {DATA}/log/meta.properties || {shlex.join(form)} || exit 1\nexec "
            f"{shlex.join(serve)}"
        )

    def serves(self, port: int) -> bool:
        return broker_is_ready(KafkaConnection(servers=self.address(port)))

    def address(self, port: int) -> str:
        return f"{LOOPBACK}:{port}"


class RedisRecipe:
    """One Redis-protocol server with an append-only file."""

    name = "redis"
    image_variable = REDIS_IMAGE_VARIABLE

    def __init__(self) -> None:
        self.image = redis_image()
        self._password = ""

    def write(self, directory: Path) -> int:
        port = kept_ports(directory / "ports.json", ("client",))["client"]
        self._password = kept_password(directory)
        configuration = redis_configuration(
            port=port,
            data_directory=DATA,
            password=self._password,
            bind_host=ANYWHERE,
            log_file=f"{LOGS}/redis.log",
        )
        write_atomically(directory / "settings" / "redis.conf", configuration)
        return port

    def script(self) -> str:
        return (
            f'exec "$(command -v valkey-server || command -v redis-server)" {SETTINGS}/redis.conf'
        )

    def serves(self, port: int) -> bool:
        return answers_ping(self.address(port))

    def address(self, port: int) -> str:
        return redis_address(port, self._password)


def why_not_docker() -> str | None:
    """Return a short reason why containers cannot be used.

    None if a Docker engine answers and has both images.
    """
    try:
        with _docker() as client:
            missing = [
                image for image in (kafka_image(), redis_image()) if not _has_image(client, image)
            ]
    except StackError as error:
        return str(error)
    return f"the Docker engine has no image {' and no image '.join(missing)}" if missing else None


def remove_container(container_id: str) -> None:
    """End a container at once, if it is there."""
    with _docker() as client:
        try:
            client.containers.get(container_id).remove(force=True, v=True)
        except _not_found():
            return


@contextmanager
def _docker() -> Iterator[Any]:
    """The Docker SDK's client, connected as testcontainers connects.

    Raises StackError if no engine answers.
    """
    try:
        import docker.errors
        import requests
        from testcontainers.core.docker_client import DockerClient, get_docker_host
    except ImportError as error:
        raise StackError(
            "containers need the docker extra: pip install 'usageledger[docker]'"
        ) from error
    _check_engine(get_docker_host() or ENGINE)
    try:
        client = DockerClient(timeout=30).client
    except (docker.errors.DockerException, OSError) as error:
        raise StackError(
            f"no Docker engine answers ({error}). Start one, set DOCKER_HOST to its address, or "
            "use --backend packages."
        ) from error
    try:
        client.ping()
        yield client
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise StackError(f"the Docker engine failed: {error}") from error
    finally:
        client.close()


def _check_engine(address: str) -> None:
    """Check that something listens at the engine's socket, and that the engine is on this machine.

    The loopback of another machine is not ours. Raises StackError.
    """
    parts = urlsplit(address)
    if parts.scheme == "unix":
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(parts.path)
            except OSError as error:
                raise StackError(
                    f"no Docker engine answers at {address} ({error.strerror}): start one, set "
                    "DOCKER_HOST to its address, or use --backend packages"
                ) from error
    elif parts.scheme != "npipe" and parts.hostname not in ("localhost", LOOPBACK):
        raise StackError(
            f"the Docker engine at {address} is on another machine: use one on this machine, "
            "or --backend packages"
        )


@contextmanager
def _stack_errors(what: str) -> Iterator[None]:
    """Raise the engine's errors as StackErrors. ``what`` is the act, such as "start it"."""
    import docker.errors
    import requests

    try:
        yield
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise StackError(f"the Docker engine could not {what}: {error}") from error


@contextmanager
def _without_ryuk() -> Iterator[None]:
    """Switch off Ryuk, testcontainers' reaper, while in this context.

    Ryuk is one more image to fetch. Our reaper needs none.
    """
    from testcontainers.core.config import testcontainers_config

    before = testcontainers_config.ryuk_disabled
    testcontainers_config.ryuk_disabled = True
    try:
        yield
    finally:
        testcontainers_config.ryuk_disabled = before


def _not_found() -> type[Exception]:
    from docker.errors import NotFound

    found: type[Exception] = NotFound
    return found


def _has_image(client: Any, image: str) -> bool:
    try:
        client.images.get(image)
    except _not_found():
        return False
    return True


def _pull_if_missing(client: Any, image: str, progress: Progress | None) -> None:
    if _has_image(client, image):
        return
    if progress is not None:
        progress.say(f"pulling {image}")
    with _stack_errors(
        f"get the image {image} (choose another with {KAFKA_IMAGE_VARIABLE} or "
        f"{REDIS_IMAGE_VARIABLE})"
    ):
        client.images.pull(image)


def _remove_labelled(client: Any, directory: str) -> None:
    """Remove the containers that a killed run has left behind.

    Two servers must never write to one directory.
    """
    for container in client.containers.list(
        all=True, filters={"label": f"{DIRECTORY_LABEL}={directory}"}
    ):
        try:
            container.remove(force=True, v=True)
        except _not_found():
            continue


def _container_user(client: Any) -> str:
    """The user that may write our directories: ours or, in a rootless engine, the container's root.

    Outside its container, that root is our user.
    """
    rootless = any("rootless" in option for option in client.info().get("SecurityOptions") or ())
    return "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"


def _start_reaper(container_id: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "usageledger.local.container_reaper", container_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
