"""A secured broker that can be reached in every way that `KafkaConnection` knows."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from trustme import CA

from usageledger.local.kafka_security import KafkaSecurity
from usageledger.local.kafka_server import KafkaServer
from usageledger.local.ports import LOOPBACK, kept_ports
from usageledger.local.progress import Silent
from usageledger.local.servers import start_all
from usageledger.operations.access_rights import ROLES
from usageledger.runtime.kafka_connection import KafkaConnection

PLAIN_PASSWORD = "as-plain-as-it-is-secret"


class EveryListener(KafkaSecurity):
    """Adds PLAIN and OAUTHBEARER to the listener with TLS, a listener for certificates, and one
    that is open.
    """

    def __init__(self, directory: Path, ports: dict[str, int]) -> None:
        super().__init__(directory, ROLES)
        self._ports = ports

    def properties(self) -> dict[str, str]:
        ports = self._ports
        listeners = [f"{name.upper()}://{LOOPBACK}:{port}" for name, port in ports.items()]
        modules = "org.apache.kafka.common.security"
        protocols = "CLIENT:SASL_SSL,CONTROLLER:SASL_SSL,CERTIFICATE:SSL,OPEN:PLAINTEXT"
        return super().properties() | {
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(
                listener for listener in listeners if not listener.startswith("CONTROLLER")
            ),
            "listener.security.protocol.map": protocols,
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN,OAUTHBEARER",
            "listener.name.client.plain.sasl.jaas.config": (
                f'{modules}.plain.PlainLoginModule required user_worker="{PLAIN_PASSWORD}";'
            ),
            "listener.name.client.oauthbearer.sasl.jaas.config": (
                f"{modules}.oauthbearer.OAuthBearerLoginModule required "
                'unsecuredLoginStringClaim_sub="broker";'
            ),
            "listener.name.certificate.ssl.client.auth": "required",
            "listener.name.certificate.ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/",
        }


@dataclass(frozen=True, slots=True)
class Listeners:
    """A running broker with every listener, and how its user ``worker`` comes in by each."""

    security: EveryListener
    broker: KafkaServer
    ports: dict[str, int]
    directory: Path

    @property
    def by_scram(self) -> KafkaConnection:
        return self.security.connection(self.broker.address, "worker")

    @property
    def by_plain(self) -> KafkaConnection:
        password = self.directory / "plain"
        password.write_text(PLAIN_PASSWORD, encoding="ascii")
        return replace(self.by_scram, sasl_mechanism="PLAIN", sasl_password_file=password)

    @property
    def by_token(self) -> KafkaConnection:
        return KafkaConnection(
            servers=self.broker.address,
            security_protocol="SASL_SSL",
            sasl_mechanism="OAUTHBEARER",
            oauth_token=unsigned_token,
            ssl_cafile=self.security.cafile,
        )

    @property
    def by_certificate(self) -> KafkaConnection:
        certificate, key = self.directory / "worker.pem", self.directory / "worker.key"
        issue_certificate(self.security.authority(), certificate, key)
        return replace(self.without_certificate, ssl_certfile=certificate, ssl_keyfile=key)

    @property
    def without_certificate(self) -> KafkaConnection:
        return KafkaConnection(
            servers=f"{LOOPBACK}:{self.ports['certificate']}",
            security_protocol="SSL",
            ssl_cafile=self.security.cafile,
        )

    @property
    def open(self) -> KafkaConnection:
        return KafkaConnection(servers=f"{LOOPBACK}:{self.ports['open']}")


def issue_certificate(authority: CA, certificate: Path, key: Path) -> None:
    issued = authority.issue_cert("worker.example", common_name="worker")
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)


def unsigned_token() -> str:
    """A token as the broker's own test login has it: nobody signed it."""
    now = int(time.time())
    parts = {"alg": "none"}, {"sub": "worker", "iat": now, "exp": now + 600}
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts]
    return b".".join(encoded).decode("ascii") + "."


@contextmanager
def every_listener(directory: Path) -> Iterator[Listeners]:
    names = ("client", "controller", "certificate", "open")
    ports = kept_ports(directory / "kafka" / "ports.json", names)
    security = EveryListener(directory / "kafka" / "security", ports)
    broker = KafkaServer(directory / "kafka", directory / "logs", security)
    start_all((broker,), Silent())
    try:
        yield Listeners(security, broker, ports, directory)
    finally:
        broker.stop(30.0)
