"""A one-machine stack whose Kafka and Redis refuse strangers: each service has its role's user."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from usageledger.local.addresses import Addresses
from usageledger.local.errors import StackError
from usageledger.local.kafka_security import ADMIN, KafkaSecurity
from usageledger.local.kafka_server import KafkaServer
from usageledger.local.redis_server import RedisServer
from usageledger.operations.access_rights import ROLES, grant, kafka_rights, redis_rules
from usageledger.operations.kafka_probe import admin_client
from usageledger.runtime.kafka_connection import KafkaConnection

# The history reads for the same readers as the gateway. Commands on this machine are the operator.
_ROLE_OF_SERVICE = {"history": "gateway"}
OPERATOR, WORKER = "operator", "worker"


@dataclass(frozen=True, slots=True)
class SecuredServers:
    """The two servers, not started yet, and the users of the roles."""

    security: KafkaSecurity
    kafka: KafkaServer
    redis: RedisServer

    @classmethod
    def under(cls, data: Path, prefix: str) -> SecuredServers:
        """Servers with their data, passwords and certificates under ``data``.

        Raises StackError for data of a Kafka that was open, as its users are made when its data is.
        """
        directory = _directory(data)
        if not directory.exists() and (data / "kafka" / "data" / "meta.properties").exists():
            raise StackError(
                f"the Kafka in {data} was made without --secure: choose another directory with "
                "--data"
            )
        security, logs = KafkaSecurity(directory, ROLES), data / "logs"
        rules = {role: redis_rules(role, prefix) for role in ROLES}
        users = {role: words for role, words in rules.items() if words}
        return cls(
            security,
            KafkaServer(data / "kafka", logs, security),
            RedisServer(data / "redis", logs, users),
        )

    def connection(self, role: str) -> KafkaConnection:
        """How a role connects to Kafka; known once the servers are prepared."""
        return self.security.connection(self.kafka.address, role)

    def give_rights(self, prefix: str) -> None:
        """Give each role its rights in one ledger. Redis has them from its configuration."""
        with admin_client(self.connection(ADMIN)) as admin:
            for role in ROLES:
                grant(admin, role, kafka_rights(role, prefix))

    def addresses_of(self, service: str, addresses: Addresses) -> Addresses:
        """The same addresses as the user of a service."""
        role = _ROLE_OF_SERVICE.get(service, service)
        if role not in ROLES:
            return addresses
        return replace(
            addresses, kafka=self.connection(role), redis_url=self.redis.address_as(role)
        )


def was_secured(data: Path) -> bool:
    """Whether the stack in this directory was made secured. It stays so."""
    return _directory(data).exists()


def _directory(data: Path) -> Path:
    return data / "kafka" / "security"
