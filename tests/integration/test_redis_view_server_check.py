"""A server that would lose counters is refused at the start. The error says what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import redis

from tests.valkey_server import ValkeyServer, running_cluster, running_valkey
from usageledger.counters.connection import connect, connect_blocking
from usageledger.counters.server_check import ServerUnfit, check_server
from usageledger.counters.view import ViewError
from usageledger.counters.write_probe import refusal, refusal_async
from usageledger.local.ports import LOOPBACK

PARTITIONS = 16


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@contextmanager
def setting(server: ValkeyServer, name: str, value: str) -> Iterator[None]:
    with server.client() as client:
        before = client.config_get(name)[name]
        client.config_set(name, value)
        try:
            yield
        finally:
            client.config_set(name, before)


def check(url: str) -> list[str]:
    with closing(connect_blocking(url)) as client:
        return check_server(client)


def test_a_server_that_evicts_nothing_and_keeps_its_file_is_accepted(server: ValkeyServer) -> None:
    assert check(server.url) == []


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy noeviction"),
        ("appendonly", "no", "appendonly yes"),
    ],
)
def test_a_server_that_would_lose_counters_is_refused_with_what_to_set(
    server: ValkeyServer, name: str, value: str, advice: str
) -> None:
    with setting(server, name, value), pytest.raises(ServerUnfit) as refused:
        check(server.url)
    [problem] = refused.value.problems
    assert f"set {advice}" in problem
    assert f"{LOOPBACK}:{server.port}" in problem


def test_a_server_that_does_not_control_its_file_writes_gets_a_warning(
    server: ValkeyServer,
) -> None:
    with setting(server, "appendfsync", "no"):
        [warning] = check(server.url)
    assert "appendfsync everysec" in warning


def test_a_server_that_refuses_config_is_judged_by_what_info_says(
    server: ValkeyServer,
) -> None:
    """Managed servers refuse CONFIG."""
    with server.client() as client:
        client.acl_setuser(
            "guest",
            enabled=True,
            nopass=True,
            categories=["+@all"],
            commands=["-config"],
            keys=["*"],
        )
    [warning] = check(f"redis://guest:any@{LOOPBACK}:{server.port}/0")
    assert "appendfsync" in warning


def test_a_replica_is_refused(server: ValkeyServer, tmp_path: Path) -> None:
    with (
        running_valkey(tmp_path, "--replicaof", f"{LOOPBACK} {server.port}") as replica,
        pytest.raises(ServerUnfit, match="replica"),
    ):
        check(replica.url)


def test_each_master_of_a_cluster_is_checked(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as node:
        assert check(node.cluster_url) == []
        with closing(redis.RedisCluster.from_url(node.url)) as cluster:
            # redis-py has no type for it.
            primaries = cluster.get_primaries()  # type: ignore[no-untyped-call]
            [other] = [primary for primary in primaries if primary.port != node.port]
            cluster.config_set("maxmemory-policy", "allkeys-lru", target_nodes=[other])
        with pytest.raises(ServerUnfit) as refused:
            check(node.cluster_url)
        [problem] = refused.value.problems
        assert str(other.port) in problem


def test_each_master_of_a_cluster_is_asked_whether_it_accepts_writes(tmp_path: Path) -> None:
    async def refusal_by_asyncio(url: str) -> ViewError | None:
        cluster = connect(url)
        try:
            return await refusal_async(cluster, "ul", PARTITIONS)
        finally:
            await cluster.aclose()

    def refusals(url: str) -> list[str | None]:
        with closing(connect_blocking(url)) as cluster:
            blocking = refusal(cluster, "ul", PARTITIONS)
        found = (blocking, asyncio.run(refusal_by_asyncio(url)))
        return [None if error is None else error.cause for error in found]

    with running_cluster(tmp_path) as node:
        assert refusals(node.cluster_url) == [None, None]
        with closing(redis.RedisCluster.from_url(node.url)) as cluster:
            # redis-py has no type for it.
            for primary in cluster.get_primaries():  # type: ignore[no-untyped-call]
                cluster.config_set("maxmemory", "100kb", target_nodes=[primary])
                assert refusals(node.cluster_url) == ["full", "full"]
                cluster.config_set("maxmemory", 0, target_nodes=[primary])


def test_a_full_server_says_how_full_it_is(server: ValkeyServer) -> None:
    with (
        setting(server, "maxmemory", "100kb"),
        closing(connect_blocking(server.url)) as client,
    ):
        error = refusal(client, "ul", PARTITIONS)
    assert error is not None
    assert "of its maxmemory 100.00K, maxmemory-policy noeviction" in str(error)


def test_a_server_that_does_not_answer_is_not_called_unfit(tmp_path: Path) -> None:
    with pytest.raises(ViewError) as failed:
        check(ValkeyServer(tmp_path).url)
    assert failed.value.retriable
