"""A secured broker and a Redis with users, where each role has exactly its rights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from usageledger.counters.connection import connect_blocking
from usageledger.local.kafka_security import KafkaSecurity
from usageledger.local.kafka_server import KafkaServer
from usageledger.local.progress import Silent
from usageledger.local.redis_server import RedisServer
from usageledger.local.servers import start_all, wait_until_ready
from usageledger.operations.access_rights import ROLES, grant, kafka_rights, redis_rules
from usageledger.operations.kafka_probe import admin_client
from usageledger.runtime.kafka_connection import KafkaConnection

REDIS_PASSWORD = "as-long-as-it-is-secret"
SUBSCRIBER_GROUP = "editor"


@dataclass(frozen=True, slots=True)
class SecuredServers:
    """A broker that refuses strangers, and a Redis. ``redis_url`` is the administrator's."""

    security: KafkaSecurity
    broker: KafkaServer
    redis_url: str

    def kafka_as(self, role: str) -> KafkaConnection:
        return self.security.connection(self.broker.address, role)

    def redis_as(self, role: str, prefix: str) -> str:
        host = self.redis_url.rpartition("//")[2].rpartition("@")[2]
        return f"redis://{prefix}-{role}:{REDIS_PASSWORD}@{host}"

    def give_rights(self, prefix: str) -> None:
        """Give every role its rights in one ledger, in Kafka and in Redis."""
        with admin_client(self.broker.connection) as admin:
            for role in ROLES:
                grant(admin, role, kafka_rights(role, prefix, group=SUBSCRIBER_GROUP))
        redis = connect_blocking(self.redis_url)
        try:
            for role in ROLES:
                if rules := redis_rules(role, prefix):
                    redis.execute_command(  # type: ignore[no-untyped-call]
                        "ACL", "SETUSER", f"{prefix}-{role}", "on", f">{REDIS_PASSWORD}", *rules
                    )
        finally:
            redis.close()

    def change_password(self, user: str, password: str) -> None:
        """Change a user's password on the broker, and then in its file."""
        with admin_client(self.broker.connection) as admin:
            answer = admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion(user, ScramMechanism.SCRAM_SHA_512, password)]
            )
        assert answer == {user: None}
        self.security.write_password(user, password)

    def restart(self) -> None:
        self.broker.stop(30.0)
        self.broker.spawn()
        wait_until_ready(self.broker)


@contextmanager
def secured_servers(directory: Path) -> Iterator[SecuredServers]:
    security = KafkaSecurity(directory / "kafka" / "security", ROLES)
    broker = KafkaServer(directory / "kafka", directory / "logs", security)
    redis = RedisServer(directory / "redis", directory / "logs")
    start_all((broker, redis), Silent())
    try:
        yield SecuredServers(security, broker, redis.address)
    finally:
        broker.stop(30.0)
        redis.stop(30.0)


@dataclass(slots=True)
class Services:
    """The services of one ledger as processes, each connected as its own role."""

    servers: SecuredServers
    prefix: str
    directory: Path
    variables: dict[str, str] = field(default_factory=dict)
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *, role: str | None = None) -> None:
        role = role or name
        environment: dict[str, str] = (
            os.environ
            | {
                "USAGELEDGER_REDIS_URL": self.servers.redis_as(role, self.prefix),
                "USAGELEDGER_PREFIX": self.prefix,
                "USAGELEDGER_DATA": str(self.directory),
            }
            | self.servers.kafka_as(role).as_environment()
            | self.variables
        )
        with self._log_path(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "usageledger.cli", "service", name],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def log_of(self, name: str) -> str:
        return self._log_path(name).read_text(encoding="utf-8")

    def _log_path(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def is_running(self, name: str) -> bool:
        return self._running[name].poll() is None

    def end(self) -> None:
        for service in self._running.values():
            service.send_signal(signal.SIGTERM)
        for service in self._running.values():
            try:
                service.wait(20)
            except subprocess.TimeoutExpired:
                service.kill()
                service.wait(20)


def logs(services: Services) -> dict[str, Any]:
    """The end of each service's log, for a failing test."""
    return {path.name: path.read_text()[-3_000:] for path in services.directory.glob("*.log")}
