"""A secured broker of our own: certificates, users with passwords, and its settings.

A node's clients use TLS and SCRAM, each with the user of its role, and an authorizer refuses what
the role has no right to. Nobody but the node itself knows the password of the controller's
listener.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from usageledger.local.files import write_atomically
from usageledger.local.ports import LOOPBACK
from usageledger.runtime.kafka_connection import KafkaConnection

if TYPE_CHECKING:
    from trustme import CA

# The broker's own user, and the one that may do everything: it creates users and their rights.
BROKER, ADMIN = "broker", "admin"
MECHANISM = "SCRAM-SHA-512"
PASSWORD_BYTES = 24


class KafkaSecurity:
    """The files that secure one broker, in a directory that only this user can enter.

    ``users`` are the names of those that exist from the start, beside the broker and the admin.
    Files that exist already are kept.
    """

    def __init__(self, directory: Path, users: Sequence[str] = ()) -> None:
        self._directory = directory
        self._users = (BROKER, ADMIN, *users)

    @property
    def cafile(self) -> Path:
        """The authority that vouches for the broker, as PEM."""
        return self._directory / "ca.pem"

    def password_file(self, user: str) -> Path:
        """The file that holds a user's password."""
        return self._directory / "passwords" / user

    def connection(self, servers: str, user: str) -> KafkaConnection:
        """How a user connects to the broker."""
        return KafkaConnection(
            servers=servers,
            security_protocol="SASL_SSL",
            sasl_mechanism=MECHANISM,
            sasl_username=user,
            sasl_password_file=self.password_file(user),
            ssl_cafile=self.cafile,
        )

    def prepare(self) -> None:
        """Write the files that are missing."""
        for directory in (self._directory, self._directory / "passwords"):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o700)
        for user in self._users:
            if not self.password_file(user).exists():
                self.write_password(user, secrets.token_urlsafe(PASSWORD_BYTES))
        if not self._keystore.exists():
            self.renew_certificate()

    def write_password(self, user: str, password: str) -> None:
        """Replace the password in a user's file. The broker learns it from an administrator."""
        write_atomically(self.password_file(user), password + "\n")

    def authority(self) -> CA:
        """The authority, with its key; made at the first call."""
        from trustme import CA

        key_file = self._directory / "ca.key"
        if key_file.exists():
            return CA.from_pem(self.cafile.read_bytes(), key_file.read_bytes())
        authority = CA(organization_name="usageledger", organization_unit_name="local stack")
        write_atomically(key_file, authority.private_key_pem.bytes().decode("ascii"))
        write_atomically(self.cafile, authority.cert_pem.bytes().decode("ascii"))
        return authority

    def renew_certificate(self) -> None:
        """Issue another certificate for the broker, which uses it from its next start on."""
        from cryptography.hazmat.primitives import serialization

        issued = self.authority().issue_cert(LOOPBACK, "localhost", common_name="broker")
        # Kafka reads keys in PKCS #8 alone.
        key = serialization.load_pem_private_key(
            issued.private_key_pem.bytes(), None
        ).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        parts = [key, *(part.bytes() for part in issued.cert_chain_pems)]
        write_atomically(self._keystore, b"".join(parts).decode("ascii"))

    def properties(self) -> dict[str, str]:
        """The server's settings beside those of an open one. They hold the broker's password."""
        password = self._password(BROKER)
        login = f'required username="{BROKER}" password="{password}"'
        scram = f"org.apache.kafka.common.security.scram.ScramLoginModule {login};"
        plain = (
            f"org.apache.kafka.common.security.plain.PlainLoginModule {login} "
            f'user_{BROKER}="{password}";'
        )
        return {
            "listener.security.protocol.map": "CLIENT:SASL_SSL,CONTROLLER:SASL_SSL",
            "sasl.enabled.mechanisms": MECHANISM,
            "sasl.mechanism.inter.broker.protocol": MECHANISM,
            "sasl.mechanism.controller.protocol": "PLAIN",
            f"listener.name.client.{MECHANISM.lower()}.sasl.jaas.config": scram,
            "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.controller.plain.sasl.jaas.config": plain,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._keystore),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.cafile),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{BROKER};User:{ADMIN}",
        }

    def format_arguments(self) -> list[str]:
        """Arguments of StorageTool that create the users. They hold passwords."""
        return [
            argument
            for user in self._users
            for argument in (
                "--add-scram",
                f"{MECHANISM}=[name={user},password={self._password(user)}]",
            )
        ]

    @property
    def _keystore(self) -> Path:
        return self._directory / "broker.pem"

    def _password(self, user: str) -> str:
        return self.password_file(user).read_text(encoding="utf-8").strip()


def in_argument_file(command: Sequence[str], path: Path) -> list[str]:
    """The same Java command with its arguments in a file that only this user can read.

    A process list shows everyone the arguments of a command, and these hold passwords.
    """
    quoted = ['"' + each.replace("\\", "\\\\").replace('"', '\\"') + '"' for each in command[1:]]
    write_atomically(path, "\n".join(quoted) + "\n")
    return [command[0], f"@{path}"]
