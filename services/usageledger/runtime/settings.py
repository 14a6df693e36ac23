"""Where this ledger is and what its services are told: from ``USAGELEDGER_…`` variables, or from
the stack that runs on this machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

DATA_DEFAULT = Path(".usageledger")
STACK_FILE = "stack.json"
LOCK_FILE = "stack.lock"


class SettingsError(Exception):
    """The settings are incomplete or wrong. ``str()`` says which, and what to do."""


class Settings(BaseSettings):
    """``USAGELEDGER_KAFKA``, ``USAGELEDGER_REDIS_URL``, ``USAGELEDGER_PREFIX``,
    ``USAGELEDGER_DATA``.
    """

    model_config = SettingsConfigDict(env_prefix="USAGELEDGER_", frozen=True)

    kafka: str
    """The broker's ``host:port``, or several with commas between them."""
    redis_url: str
    prefix: str = ""
    """Which of the ledgers that share this Kafka and Redis; most have one, without a name."""
    data: Path = DATA_DEFAULT
    """Where the one-machine stack keeps its data."""

    @classmethod
    def find(cls, data: Path | None = None) -> Settings:
        """The settings in force: a stack that runs in ``data`` if one is named, else the variables,
        else the stack in ``.usageledger``.

        Raises SettingsError.
        """
        if data is not None and (stack := running_stack(data)) is not None:
            return cls._of_stack(stack, data)
        surroundings = _Surroundings()
        if surroundings.kafka is not None or surroundings.redis_url is not None:
            return cls._of_variables(surroundings, data)
        directory = data or surroundings.data
        if (stack := running_stack(directory)) is not None:
            return cls._of_stack(stack, directory, surroundings.prefix)
        raise SettingsError(
            f"no running stack in {directory}: start one with `usageledger up`, name its directory "
            "with --data, "
            "or set USAGELEDGER_KAFKA and USAGELEDGER_REDIS_URL"
        )

    @classmethod
    def _of_variables(cls, surroundings: _Surroundings, data: Path | None) -> Settings:
        missing = [name for name in ("kafka", "redis_url") if getattr(surroundings, name) is None]
        if missing:
            there = "USAGELEDGER_REDIS_URL" if missing == ["kafka"] else "USAGELEDGER_KAFKA"
            raise SettingsError(
                f"{there} is set but USAGELEDGER_{missing[0].upper()} is not: set both, or neither "
                "to use the stack in --data"
            )
        return cls(
            kafka=str(surroundings.kafka),
            redis_url=str(surroundings.redis_url),
            prefix=surroundings.prefix or "",
            data=data or surroundings.data,
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
                kafka=stack["kafka"],
                redis_url=stack["redis"],
                prefix=stack.get("prefix", "") if prefix is None else prefix,
                data=data,
            )
        except (KeyError, ValidationError) as error:
            raise SettingsError(
                f"{data / STACK_FILE} cannot be read ({error}): `usageledger down` and `up` write "
                "it anew"
            ) from error


class GatewaySettings(BaseSettings):
    """``USAGELEDGER_GATEWAY_HOST``, ``…_PORT``, ``…_KEY``, ``…_ALLOWED_ORIGINS`` (with commas
    between them), ``…_WEBHOOK_REACH``.
    """

    model_config = SettingsConfigDict(
        env_prefix="USAGELEDGER_GATEWAY_", env_ignore_empty=True, frozen=True
    )

    host: str = "127.0.0.1"
    port: int = 8_137
    key: SecretStr | None = None
    """An app key with every scope, made elsewhere: it works from the start."""
    allowed_origins: str = ""
    """Whose pages may ask with account tokens, such as ``https://app.example``."""
    webhook_reach: Literal["public", "loopback", "any"] = "public"
    """Where webhooks may go: to public addresses over https, to this machine as well, or wherever
    the gateway reaches.
    """


class TelemetrySettings(BaseSettings):
    """``USAGELEDGER_TELEMETRY_HOST``, ``…_PORT``: where a service without HTTP of its own tells of
    itself. Without a port, nowhere.
    """

    model_config = SettingsConfigDict(
        env_prefix="USAGELEDGER_TELEMETRY_", env_ignore_empty=True, frozen=True
    )

    host: str = "127.0.0.1"
    port: int | None = None


class ClientSettings(BaseSettings):
    """``USAGELEDGER_GATEWAY_URL`` and ``USAGELEDGER_KEY``: the gateway that commands ask, where it
    is not a stack's on this machine.
    """

    model_config = SettingsConfigDict(env_prefix="USAGELEDGER_", env_ignore_empty=True, frozen=True)

    gateway_url: str | None = None
    key: SecretStr | None = None
    data: Path = DATA_DEFAULT


class _Surroundings(BaseSettings):
    """The same variables, none of which must be there."""

    model_config = SettingsConfigDict(env_prefix="USAGELEDGER_", env_ignore_empty=True)

    kafka: str | None = None
    redis_url: str | None = None
    prefix: str | None = None
    data: Path = DATA_DEFAULT


def running_stack(data: Path) -> dict[str, Any] | None:
    """What the stack in this directory says of itself in ``stack.json``, None if none runs
    there.
    """
    if not is_locked(data / LOCK_FILE):
        return None
    try:
        content = json.loads((data / STACK_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def is_locked(path: Path) -> bool:
    """Whether a running process holds this lock file.

    The system lets go of a lock when its holder ends, however it ends.
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
