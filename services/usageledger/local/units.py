"""The units beside our own servers: services, and servers that were given to us."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from usageledger.local.errors import StackError
from usageledger.local.ports import accepts_connections
from usageledger.local.processes import ChildProcess
from usageledger.local.progress import Progress
from usageledger.operations.kafka_probe import admin_client

SETTLED_AFTER_S = 1.0


class Service:
    """A service of the ledger: a child process of ours.

    ``answers`` says that it is ready; without it, one that lives for a second is.
    """

    ready_timeout_s = 60.0

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_path: Path,
        environment: Mapping[str, str],
        *,
        answers: Callable[[], bool] | None = None,
        description: str = "",
    ) -> None:
        self.name = name
        self.description = description or name
        self._answers = answers
        self.log_path = log_path
        self._child = ChildProcess(name, command, log_path, environment=environment)
        self._spawned_s = 0.0

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        return self._child.exit_code

    def spawn(self) -> None:
        self._spawned_s = time.monotonic()
        self._child.spawn()

    def is_ready(self) -> bool:
        if self.pid is None:
            return False
        return (
            time.monotonic() - self._spawned_s >= SETTLED_AFTER_S
            if self._answers is None
            else self._answers()
        )

    def stop(self, timeout_s: float) -> None:
        self._child.stop(timeout_s)

    def last_lines(self, count: int = 10) -> list[str]:
        return self._child.last_lines(count)


class GivenServer:
    """A Kafka or a Redis that somebody else runs. We neither start nor end it."""

    pid: int | None = None
    exit_code: int | None = None
    log_path: Path | None = None
    ready_timeout_s = 60.0

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.description = f"{'Kafka' if name == 'kafka' else 'Redis'} at {address}, as given"

    def spawn(self) -> None:
        return

    def is_ready(self) -> bool:
        return True

    def stop(self, timeout_s: float) -> None:
        return

    def last_lines(self, count: int = 10) -> list[str]:
        return []


def check_given_kafka(bootstrap: str) -> None:
    """``bootstrap`` is ``host:port``, or several with commas between them.

    Raises StackError if no broker answers there.
    """
    if not any(_listens(address) for address in bootstrap.split(",")):
        raise StackError(
            f"nobody listens at {bootstrap}: is the address of the Kafka broker right (HOST:PORT), "
            "and does it run?"
        )
    admin_client(bootstrap, timeout_ms=10_000).close()


def check_given_redis(url: str, progress: Progress) -> None:
    """Raises StackError if no Redis answers there, or one that may throw away counters when its
    memory is full or when it restarts.
    """
    import redis

    try:
        with redis.Redis.from_url(
            url, socket_timeout=5.0, socket_connect_timeout=5.0, decode_responses=True
        ) as client:
            client.ping()
            settings = _redis_settings(client)
    except (redis.RedisError, ValueError) as error:
        raise StackError(
            f"no Redis answers at {url} ({error}): is the address right (redis://HOST:PORT/0), and "
            "does it run?"
        ) from error
    if settings is None:
        progress.warn(
            f"the Redis at {url} does not tell its settings: see to it that it has "
            "maxmemory-policy noeviction and appendonly yes"
        )
        return
    wrong = [
        f"{name} is {settings[name]}"
        for name, right in (("maxmemory-policy", "noeviction"), ("appendonly", "yes"))
        if settings.get(name) != right
    ]
    if wrong:
        raise StackError(
            f"the Redis at {url} may lose counters: {', '.join(wrong)}. The ledger needs "
            "maxmemory-policy noeviction and appendonly yes."
        )


def _listens(address: str) -> bool:
    host, _, port = address.strip().rpartition(":")
    return bool(host) and port.isdigit() and accepts_connections(int(port), host)


def _redis_settings(client: object) -> dict[str, str] | None:
    """The two settings that matter; None where the server does not let us ask (managed ones often
    do not).
    """
    import redis

    assert isinstance(client, redis.Redis)
    try:
        answer = client.config_get("maxmemory-policy", "appendonly")
    except redis.ResponseError:
        return None
    return {str(name): str(value) for name, value in answer.items()}
