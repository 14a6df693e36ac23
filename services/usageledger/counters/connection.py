"""Connecting to a Redis: one server, one found by its Sentinels, or a Redis Cluster.

An address is a URL:

- ``redis://host:6379/0``: one server; ``rediss://`` with TLS. Options are as in redis-py's URLs.
- ``redis+sentinel://a:26379,b/name``: the master that these Sentinels know as ``name``.
- ``redis+cluster://a:6379,b:6379``: a Redis Cluster, by some of its nodes, one of which must be
  up; ``rediss+cluster://`` with TLS.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry

AsyncClient = redis.asyncio.Redis | redis.asyncio.RedisCluster
Client = redis.Redis | redis.RedisCluster

DEFAULT_PORT = 6_379
DEFAULT_SENTINEL_PORT = 26_379

_READ_RETRIES = 2
_CLUSTER_RETRIES = 3


def connect(url: str, *, timeout_s: float = 5.0) -> AsyncClient:
    """An asyncio client, fit for a view's owner. Raises ValueError for an address it cannot read.

    It connects with its first call. On one server it repeats nothing: the owner decides whether to
    repeat a commit, after reading the head. A cluster's client must repeat a call to find a slot
    that has moved; a commit that was applied and is repeated raises HeadMoved.
    """
    options = _options(timeout_s)
    scheme, plain_url = _split(url)
    if scheme == "cluster":
        retry = AsyncRetry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), _CLUSTER_RETRIES)
        first_url, others = _nodes(plain_url)
        more = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in others]
        return redis.asyncio.RedisCluster.from_url(
            first_url, retry=retry, startup_nodes=more, **options
        )
    once = AsyncRetry(NoBackoff(), 0)
    if scheme == "sentinel":
        sentinels, name, credentials = _sentinels(url)
        watch = redis.asyncio.sentinel.Sentinel(
            sentinels, sentinel_kwargs=options, retry=once, **options, **credentials
        )  # type: ignore[no-untyped-call] # redis-py has no types here
        master: redis.asyncio.Redis = watch.master_for(
            name, connection_pool_class=_AsyncSentinelPool
        )
        return master
    return redis.asyncio.Redis.from_url(plain_url, retry=once, **options)


def connect_blocking(url: str, *, timeout_s: float = 2.0, is_patient: bool = True) -> Client:
    """A blocking client for readers; a patient one repeats a failed call for a moment.

    Raises ValueError for an address that it cannot read, and redis-py's errors for a cluster of
    which no node answers.
    """
    scheme, plain_url = _split(url)
    patient = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), _READ_RETRIES)
    # A cluster's client finds a slot that has moved by trying again.
    impatient = Retry(NoBackoff(), _CLUSTER_RETRIES if scheme == "cluster" else 0)
    options = _options(timeout_s) | {"retry": patient if is_patient else impatient}
    if scheme == "cluster":
        first_url, others = _nodes(plain_url)
        # redis-py has no types here.
        more = [
            redis.cluster.ClusterNode(host, port)  # type: ignore[no-untyped-call]
            for host, port in others
        ]
        return redis.RedisCluster.from_url(first_url, startup_nodes=more, **options)
    if scheme == "sentinel":
        sentinels, name, credentials = _sentinels(url)
        watch = redis.sentinel.Sentinel(
            sentinels, sentinel_kwargs=options, **options, **credentials
        )  # type: ignore[no-untyped-call] # redis-py has no types here
        # redis-py has no types here.
        master: redis.Redis = watch.master_for(  # type: ignore[no-untyped-call]
            name, connection_pool_class=_SentinelPool
        )
        return master
    return redis.Redis.from_url(plain_url, **options)


class _AsyncSentinelPool(redis.asyncio.sentinel.SentinelConnectionPool):
    """Also closes the connections to the Sentinels, which redis-py leaves open."""

    async def aclose(self) -> None:
        await super().aclose()
        for sentinel in self.sentinel_manager.sentinels:
            await sentinel.aclose()


class _SentinelPool(redis.sentinel.SentinelConnectionPool):
    """Also closes the connections to the Sentinels, which redis-py leaves open."""

    def close(self) -> None:
        super().close()
        for sentinel in self.sentinel_manager.sentinels:
            sentinel.close()


def _options(timeout_s: float) -> dict[str, Any]:
    # Version 2 of the protocol can express every reply of the scripts, and every server and proxy
    # speaks it.
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "protocol": 2,
    }


def _split(url: str) -> tuple[str, str]:
    """The kind of server ("", "cluster" or "sentinel"), and the address as redis-py reads it."""
    scheme, separator, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    if not separator or base not in ("redis", "rediss") or kind not in ("", "cluster", "sentinel"):
        raise ValueError(
            "a Redis is named as redis://HOST:PORT/0, redis+sentinel://HOST,HOST/NAME/0 or "
            "redis+cluster://HOST:PORT,HOST:PORT"
        )
    return kind, f"{base}://{rest}"


def _nodes(url: str) -> tuple[str, list[tuple[str, int]]]:
    """A cluster's first node as redis-py reads it, and the other nodes.

    A client that starts while one node is down asks another.
    """
    scheme, _, rest = url.partition("://")
    netloc, slash, path = rest.partition("/")
    credentials, at, hosts = netloc.rpartition("@")
    first, *others = hosts.split(",")
    addresses = [host.partition(":") for host in others]
    return f"{scheme}://{credentials}{at}{first}{slash}{path}", [
        (host, int(port or DEFAULT_PORT)) for host, _, port in addresses
    ]


def _sentinels(url: str) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """The Sentinels, the name of the master that they watch, and the master's own options."""
    parts = urlsplit(url)
    addresses = parts.netloc.rpartition("@")[2].split(",")
    name, _, database = parts.path.strip("/").partition("/")
    if not name or not all(addresses):
        raise ValueError(
            "Sentinels are named as redis+sentinel://HOST:26379,HOST:26379/NAME/0, NAME being what "
            "they call the master"
        )
    hosts = [address.partition(":") for address in addresses]
    credentials: dict[str, Any] = {
        "db": int(database or 0),
        "ssl": parts.scheme.startswith("rediss"),
    }
    # `username` and `password` of a netloc with several hosts: urlsplit reads them from before the
    # last @.
    credentials |= {
        key: value
        for key, value in (("username", parts.username), ("password", parts.password))
        if value
    }
    return (
        [(host, int(port or DEFAULT_SENTINEL_PORT)) for host, _, port in hosts],
        name,
        credentials,
    )
