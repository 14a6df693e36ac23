"""Whether a Redis is fit for counters: it must not evict, and must keep an append-only file.

This is checked before anything is started.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import NoPermissionError, ResponseError

from usageledger.counters.connection import Client
from usageledger.counters.replies import REDIS_FAILURES, view_error

VERSION_MIN = (7, 0)
"""The first version that refuses a whole script when memory runs out, instead of half of it.

Valkey says 7.2 or later.
"""


class ServerUnfit(Exception):
    """The server is not set up for the ledger.

    Each of ``problems`` is a sentence that says what is wrong and what to do.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__(" ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """One server's settings, as it reports them.

    ``appendfsync`` is None if the server does not report it, as many managed ones do not.
    """

    address: str
    version: str
    is_master: bool
    maxmemory_policy: str
    has_append_only_file: bool
    appendfsync: str | None


def check_server(redis: Client) -> list[str]:
    """Check every server that may hold counters, and return warnings.

    Raises ServerUnfit, and ViewError if a server does not answer.
    """
    try:
        settings = _all_settings(redis)
    except REDIS_FAILURES as error:
        raise view_error(error) from error
    problems = [problem for server in settings for problem in problems_of(server)]
    if problems:
        raise ServerUnfit(problems)
    return [warning for server in settings for warning in warnings_of(server)]


def problems_of(server: ServerSettings) -> list[str]:
    """Why counters must not be kept on this server."""
    problems = []
    if _version_of(server.version) < VERSION_MIN:
        problems.append(
            f"{server.address} is version {server.version}: use Redis 7.0 or later, or Valkey."
        )
    if not server.is_master:
        problems.append(
            f"{server.address} is a replica: give the address of its master (or redis+sentinel:// "
            "or redis+cluster://)."
        )
    if server.maxmemory_policy != "noeviction":
        problems.append(
            f"{server.address} evicts keys when memory is short (maxmemory-policy "
            f"{server.maxmemory_policy}), which would lose charges: "
            "set maxmemory-policy noeviction."
        )
    if not server.has_append_only_file:
        problems.append(
            f"{server.address} keeps no append-only file: set appendonly yes and appendfsync "
            "everysec."
        )
    return problems


def warnings_of(server: ServerSettings) -> list[str]:
    """Warnings for the operator about this server."""
    if server.appendfsync == "no":
        return [
            f"{server.address} leaves it to the system when to write its file (appendfsync no): a "
            "crash can lose minutes, which are then "
            "replayed: set appendfsync everysec."
        ]
    if server.appendfsync is None:
        return [
            f"{server.address} does not tell its appendfsync: see that it is everysec or always."
        ]
    return []


def _all_settings(client: Client) -> list[ServerSettings]:
    if isinstance(client, redis.RedisCluster):
        # redis-py has no type for it.
        nodes = client.get_primaries()  # type: ignore[no-untyped-call]
        return [_settings_of(client.get_redis_connection(node), node.name) for node in nodes]
    where = client.connection_pool.connection_kwargs
    return [
        _settings_of(
            client, f"{where.get('host', 'the Redis')}:{where.get('port', '')}".rstrip(":")
        )
    ]


def _settings_of(client: redis.Redis, address: str) -> ServerSettings:
    # INFO instead of CONFIG wherever it says the same: managed servers refuse CONFIG.
    about: dict[str, Any] = {}
    for section in ("server", "memory", "persistence", "replication"):
        about |= dict(client.info(section))
    return ServerSettings(
        address=address,
        version=str(about["redis_version"]),
        is_master=about["role"] == "master",
        maxmemory_policy=str(about["maxmemory_policy"]),
        has_append_only_file=bool(about["aof_enabled"]),
        appendfsync=_appendfsync(client),
    )


def _appendfsync(client: redis.Redis) -> str | None:
    try:
        answer = dict(client.config_get("appendfsync")).get("appendfsync")
    except (NoPermissionError, ResponseError):
        return None
    return None if answer is None else str(answer.decode() if isinstance(answer, bytes) else answer)


def _version_of(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
