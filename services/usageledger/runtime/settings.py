"""Settings of commands and services: where the ledger is, from variables or a local stack.

The variables are named ``USAGELEDGER_…``; a stack is one that runs on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from usageledger.runtime.kafka_connection import KafkaConnection, KafkaConnectionError

DATA_DEFAULT = Path(".usageledger")
STACK_FILE = "stack.json"
REDIS_URL_FILE = "redis_url"
"""In a running stack's directory: the address of its Redis, with the password."""
LOCK_FILE = "stack.lock"


class SettingsError(Exception):
    """The settings are incomplete or wrong. ``str()`` says which, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the ledger is: ``USAGELEDGER_KAFKA``, ``…_REDIS_URL``, ``…_PREFIX``, ``…_DATA``."""

    kafka: KafkaConnection
    """Where Kafka is and how to connect to it: USAGELEDGER_KAFKA and ``USAGELEDGER_KAFKA_…``."""
    redis_url: str
    prefix: str = ""
    """Which of several ledgers on this Kafka and Redis. The only one usually has no prefix."""
    data: Path = DATA_DEFAULT
    """Where the one-machine stack keeps its data."""

    @classmethod
    def find(cls, data: Path | None = None) -> Settings:
        """The settings in force. Raises SettingsError.

        They are those of the stack that runs in ``data``, if it is given; otherwise the variables;
        otherwise the stack in ``.usageledger``.
        """
        if data is not None and (stack := running_stack(data)) is not None:
            return cls._of_stack(stack, data)
        variables = _OptionalSettings()
        if variables.kafka is not None or variables.redis_url is not None:
            return cls._of_variables(variables, data)
        directory = data or variables.data
        if (stack := running_stack(directory)) is not None:
            return cls._of_stack(stack, directory, variables.prefix)
        raise SettingsError(
            f"no running stack in {directory}: start one with `usageledger up`, name its directory "
            "with --data, or set USAGELEDGER_KAFKA and USAGELEDGER_REDIS_URL"
        )

    @classmethod
    def _of_variables(cls, variables: _OptionalSettings, data: Path | None) -> Settings:
        missing = [name for name in ("kafka", "redis_url") if getattr(variables, name) is None]
        if missing:
            present = "USAGELEDGER_REDIS_URL" if missing == ["kafka"] else "USAGELEDGER_KAFKA"
            raise SettingsError(
                f"{present} is set but USAGELEDGER_{missing[0].upper()} is not: set both, or "
                "neither to use the stack in --data"
            )
        return cls(
            kafka=_connection(KafkaConnection.from_environment),
            redis_url=str(variables.redis_url),
            prefix=variables.prefix or "",
            data=data or variables.data,
        )

    @classmethod
    def _of_stack(cls, stack: dict[str, Any], data: Path, prefix: str | None = None) -> Settings:
        if stack.get("state") != "running":
            raise SettingsError(
                f"the stack in {data} is {stack.get('state')}: wait until `usageledger status` "
                "says running"
            )
        try:
            return cls(
                kafka=_connection(lambda: KafkaConnection.from_json(stack["kafka_connection"])),
                redis_url=stack_redis_url(data),
                prefix=stack.get("prefix", "") if prefix is None else prefix,
                data=data,
            )
        except KeyError as error:
            raise _unreadable(data / STACK_FILE, error) from error


class GatewaySettings(BaseSettings):
    """The gateway's settings: ``USAGELEDGER_GATEWAY_HOST``, ``…_PORT``, ``…_KEY`` and so on.

    Several ``…_ALLOWED_ORIGINS`` are separated by commas.
    """

    model_config = SettingsConfigDict(
        env_prefix="USAGELEDGER_GATEWAY_", env_ignore_empty=True, frozen=True
    )

    host: str = "127.0.0.1"
    port: int = 8_137
    key: SecretStr | None = None
    """An app key with every scope that was made elsewhere and works from the start."""
    allowed_origins: str = ""
    """Origins whose pages may call with account tokens, such as ``https://app.example``."""
    webhook_reach: Literal["public", "loopback", "any"] = "public"
    """Where webhooks may be sent.

    ``public`` means public addresses over https, ``loopback`` also this machine, and ``any``
    every address that the gateway reaches.
    """
    webhook_ports: str = "443"
    """The ports that webhooks may be sent to on other machines, with commas between them."""
    trusted_proxies: str = ""
    """Networks of the reverse proxies whose X-Forwarded-For is believed, such as ``10.0.0.0/8``."""
    connections_per_address: int = Field(default=2_048, ge=1)
    """How many connections one address may have, unless it is a trusted proxy's."""
    tls_certfile: Path | None = None
    """The gateway's own TLS certificate with those of its issuers, in PEM."""
    tls_keyfile: Path | None = None
    """The key of that certificate, if another file has it."""

    @property
    def proxy_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks of ``trusted_proxies``. Raises SettingsError."""
        named = [name.strip() for name in self.trusted_proxies.split(",") if name.strip()]
        try:
            return tuple(ip_network(name) for name in named)
        except ValueError as error:
            raise SettingsError(
                f"USAGELEDGER_GATEWAY_TRUSTED_PROXIES: {error}. Name addresses or networks, such "
                "as 10.0.0.0/8, with commas between them"
            ) from None

    @property
    def allowed_webhook_ports(self) -> frozenset[int]:
        """The ports of ``webhook_ports``. Raises SettingsError."""
        named = [name.strip() for name in self.webhook_ports.split(",")]
        if not all(name.isascii() and name.isdigit() and 0 < int(name) < 65_536 for name in named):
            raise SettingsError(
                f"USAGELEDGER_GATEWAY_WEBHOOK_PORTS: {self.webhook_ports!r} is not a list of "
                "ports. Name ports such as 443,8443, with commas between them"
            )
        return frozenset(map(int, named))

    @property
    def certificate(self) -> tuple[Path, Path | None] | None:
        """The files of the certificate and of its key. Raises SettingsError."""
        if self.tls_certfile is not None:
            return self.tls_certfile, self.tls_keyfile
        if self.tls_keyfile is not None:
            raise SettingsError(
                "USAGELEDGER_GATEWAY_TLS_KEYFILE is set but USAGELEDGER_GATEWAY_TLS_CERTFILE is "
                "not: set both, or neither to serve http"
            )
        return None


class TelemetrySettings(BaseSettings):
    """Where a service serves telemetry; nowhere without a port.

    The variables are ``USAGELEDGER_TELEMETRY_HOST`` and ``…_PORT``.
    """

    model_config = SettingsConfigDict(
        env_prefix="USAGELEDGER_TELEMETRY_", env_ignore_empty=True, frozen=True
    )

    host: str = "127.0.0.1"
    port: int | None = None


class ClientSettings(BaseSettings):
    """The gateway that commands call, unless it is that of a stack on this machine.

    The variables are ``USAGELEDGER_GATEWAY_URL`` and ``USAGELEDGER_KEY``.
    """

    model_config = SettingsConfigDict(env_prefix="USAGELEDGER_", env_ignore_empty=True, frozen=True)

    gateway_url: str | None = None
    key: SecretStr | None = None
    data: Path = DATA_DEFAULT


class _OptionalSettings(BaseSettings):
    """The variables of `Settings`, none of which is required."""

    model_config = SettingsConfigDict(env_prefix="USAGELEDGER_", env_ignore_empty=True)

    kafka: str | None = None
    redis_url: str | None = None
    prefix: str | None = None
    data: Path = DATA_DEFAULT


def _connection(describe: Callable[[], KafkaConnection]) -> KafkaConnection:
    try:
        return describe()
    except KafkaConnectionError as error:
        raise SettingsError(str(error)) from error


def running_stack(data: Path) -> dict[str, Any] | None:
    """The contents of ``stack.json`` of the stack in this directory; None if none runs there."""
    if not is_locked(data / LOCK_FILE):
        return None
    try:
        content = json.loads((data / STACK_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def stack_redis_url(data: Path) -> str:
    """The address of the Redis of the stack in this directory, with the password.

    It is in a file of its own, which only the stack's user can read. Raises SettingsError.
    """
    path = data / REDIS_URL_FILE
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> SettingsError:
    return SettingsError(
        f"{path} cannot be read ({error}): use the stack as the user that started it, or let "
        "`usageledger down` and `up` write it anew"
    )


def is_locked(path: Path) -> bool:
    """Whether a running process holds this lock file.

    The system releases a lock when its holder ends, however it ends.
    """
    import fcntl

    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
