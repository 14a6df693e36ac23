"""The units that are not servers of ours: services, and servers that others run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from usageledger.local.errors import StackError
from usageledger.local.ports import accepts_connections
from usageledger.local.processes import ChildProcess
from usageledger.local.progress import Progress
from usageledger.operations.kafka_probe import admin_client
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.runtime.redaction import redacted

READY_AFTER_S = 1.0


class Service:
    """A service of the ledger: a child process of ours.

    It is ready when ``answers`` returns true or, without ``answers``, when it has run for a second.
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
            time.monotonic() - self._spawned_s >= READY_AFTER_S
            if self._answers is None
            else self._answers()
        )

    def stop(self, timeout_s: float) -> None:
        self._child.stop(timeout_s)

    def last_lines(self, count: int = 10) -> list[str]:
        return self._child.last_lines(count)


class GivenServer:
    """A Kafka or a Redis that others run. We neither start nor stop it."""

    pid: int | None = None
    exit_code: int | None = None
    log_path: Path | None = None
    ready_timeout_s = 60.0

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.description = redacted(
            f"{'Kafka' if name == 'kafka' else 'Redis'} at {address}, as given"
        )

    def spawn(self) -> None:
        return

    def is_ready(self) -> bool:
        return True

    def stop(self, timeout_s: float) -> None:
        return

    def last_lines(self, count: int = 10) -> list[str]:
        return []


def check_given_kafka(kafka: KafkaConnection) -> None:
    """Check that a broker answers at ``kafka``. Raises StackError if none does.

    ``kafka`` is ``host:port``, or several with commas between them.
    """
    if not any(_listens(address) for address in kafka.addresses):
        raise StackError(
            f"nobody listens at {kafka}: is the address of the Kafka broker right (HOST:PORT), "
            "and does it run?"
        )
    admin_client(kafka, timeout_ms=10_000).close()


def check_given_redis(url: str, progress: Progress) -> None:
    """Check that a Redis answers at ``url`` and does not lose counters.

    Raises StackError if none answers, or if it may lose counters when its memory is full or when it
    restarts.
    """
    import redis

    shown = redacted(url)
    try:
        with redis.Redis.from_url(
            url, socket_timeout=5.0, socket_connect_timeout=5.0, decode_responses=True
        ) as client:
            client.ping()
            settings = _redis_settings(client)
    except (redis.RedisError, ValueError) as error:
        raise StackError(
            f"no Redis answers at {shown} ({redacted(str(error))}): is the address right "
            "(redis://HOST:PORT/0), and does it run?"
        ) from error
    if settings is None:
        progress.warn(
            f"the Redis at {shown} does not show its settings: make sure that it has "
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
            f"the Redis at {shown} may lose counters: {', '.join(wrong)}. The ledger needs "
            "maxmemory-policy noeviction and appendonly yes."
        )


def _listens(address: str) -> bool:
    host, _, port = address.strip().rpartition(":")
    return bool(host) and port.isdigit() and accepts_connections(int(port), host)


def _redis_settings(client: object) -> dict[str, str] | None:
    """The two settings that matter; None if the server does not show them.

    Managed servers often do not.
    """
    import redis

    assert isinstance(client, redis.Redis)
    try:
        answer = client.config_get("maxmemory-policy", "appendonly")
    except redis.ResponseError:
        return None
    return {str(name): str(value) for name, value in answer.items()}
