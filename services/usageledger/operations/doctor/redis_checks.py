"""Whether Redis keeps the view safely, has copies, and has room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import redis

from usageledger.counters.connection import Client
from usageledger.counters.server_check import ServerUnfit, check_server
from usageledger.counters.troubles import REFUSING_WRITES
from usageledger.counters.view import ViewError
from usageledger.counters.write_probe import refusal
from usageledger.operations.doctor.finding import Finding

MEMORY_SHARE_MAX = 0.8
PROBED_PARTITIONS = 64
"""In a cluster, the servers of these partitions are asked whether they accept writes."""


def redis_findings(client: Client, prefix: str) -> Iterator[Finding]:
    """The faults of each server that holds the view. Raises ViewError, redis-py's errors."""
    refused = refusal(client, prefix, PROBED_PARTITIONS)
    if refused is not None:
        if refused.cause not in REFUSING_WRITES:
            raise refused
        yield refusal_finding(refused)
    try:
        problems, warnings = [], check_server(client)
    except ServerUnfit as unfit:
        problems, warnings = unfit.problems, []
    for problem in [*problems, *warnings]:
        what, _, mend = problem.rpartition(": ")
        yield _finding(
            what, "it could lose counters, or not hold them at all", f"redis-cli CONFIG: {mend}"
        )
    for address, info in server_infos(client).items():
        yield from server_findings(address, info)
    if isinstance(client, redis.RedisCluster):
        yield from cluster_findings(
            {name: str(value) for name, value in dict(client.cluster_info()).items()}
        )


def refusal_finding(error: ViewError) -> Finding:
    """A Redis that does not do what it is asked."""
    what, _, mend = str(error).partition(": ")
    return _finding(what, "partitions wait, holds are refused, and checks become old", mend)


def server_infos(client: Client) -> dict[str, Mapping[str, Any]]:
    """INFO of each server that holds the view, by its address."""
    if isinstance(client, redis.RedisCluster):
        # redis-py has no type for it.
        primaries = client.get_primaries()  # type: ignore[no-untyped-call]
        return {node.name: dict(client.get_redis_connection(node).info()) for node in primaries}
    where = client.connection_pool.connection_kwargs
    address = f"{where.get('host', 'the Redis')}:{where.get('port', '')}".rstrip(":")
    return {address: dict(client.info())}


def server_findings(address: str, info: Mapping[str, Any]) -> Iterator[Finding]:
    """The faults of one server, by its INFO."""
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if most and used > MEMORY_SHARE_MAX * most:
        yield _finding(
            f"{address} uses {100 * used // most} % of its maxmemory",
            "when it is full, partitions stop until there is room",
            f"redis-cli -u redis://{address} CONFIG SET maxmemory BYTES",
        )
    for field in ("aof_last_write_status", "aof_last_bgrewrite_status"):
        if info.get(field, "ok") != "ok":
            yield _finding(
                f"{address} says {field}:{info[field]}",
                "what is written to it does not reach its disk",
                "df -h: look at its disk, then at its log",
            )
    if int(info.get("connected_slaves", 0)) == 0:
        yield _finding(
            f"{address} has no replica",
            "while it is down no counter can be read, and its partitions wait",
            f"redis-cli -h REPLICA REPLICAOF {address.replace(':', ' ')}",
            is_notice=True,
        )


def cluster_findings(state: Mapping[str, str]) -> Iterator[Finding]:
    """The faults of a cluster, by its CLUSTER INFO."""
    if state.get("cluster_state") != "ok" or state.get("cluster_slots_ok") != "16384":
        yield _finding(
            f"the cluster is {state.get('cluster_state')}, with {state.get('cluster_slots_ok')} of "
            "16384 slots served",
            "the partitions in the other slots wait",
            "redis-cli --cluster fix HOST:PORT",
        )


def _finding(what: str, why: str, mend: str, *, is_notice: bool = False) -> Finding:
    return Finding(area="redis", what=what, why=why, mend=mend, is_notice=is_notice)
