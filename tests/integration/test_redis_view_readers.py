"""Reading a view as the CLI, the gateway and the audit do, from one server or a cluster.

One call returns the head and an account at one moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.valkey_server import ValkeyServer, running_cluster, running_valkey
from usageledger.counters.connection import connect, connect_blocking
from usageledger.counters.reading import read_account, read_heads
from usageledger.counters.redis_view import RedisView
from usageledger.counters.view import Position, ViewChange, ViewError
from usageledger.local.ports import LOOPBACK, free_port

PARTITIONS = 8


@pytest.fixture(scope="module", params=["server", "cluster"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis with views of partitions 0 to 7 of the ledger ``test``.

    They are spread over the nodes if there are several.
    """
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "server":
        with running_valkey(directory) as server:
            asyncio.run(fill(server.url))
            yield server.url
    else:
        with running_cluster(directory) as node:
            asyncio.run(fill(node.cluster_url))
            yield node.cluster_url


async def fill(url: str) -> None:
    async with connect(url) as client:
        for partition in range(PARTITIONS):
            change = ViewChange(
                head=b"head %d" % partition,
                position=Position(partition, "aa"),
                accounts={"ann": b"%d" % partition},
            )
            await RedisView(client, "test", partition).commit(None, change)


def test_an_account_is_read_with_the_head_it_belongs_to(url: str) -> None:
    with closing(connect_blocking(url)) as redis:
        for partition in range(PARTITIONS):
            head, account, *_ = read_account(redis, "test", partition, "ann")
            assert head is not None
            assert (head.position, head.value, account) == (
                Position(partition, "aa"),
                b"head %d" % partition,
                b"%d" % partition,
            )
            assert head.verified_at_ms > 1_700_000_000_000


def test_a_missing_account_or_view_is_none(url: str) -> None:
    with closing(connect_blocking(url)) as redis:
        head, account, *_ = read_account(redis, "test", 0, "nobody")
        assert head is not None
        assert account is None
        assert read_account(redis, "another", 0, "ann")[:4] == (None, None, 0, 0)


def test_heads_of_many_partitions_come_in_one_answer(url: str) -> None:
    with closing(connect_blocking(url)) as redis:
        heads = read_heads(redis, "test", range(PARTITIONS + 1))
    assert {partition: head and head.position for partition, head in heads.items()} == {
        **{partition: Position(partition, "aa") for partition in range(PARTITIONS)},
        PARTITIONS: None,
    }


def test_a_reader_whose_server_is_down_gets_a_retriable_error(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    server = ValkeyServer(tmp_path_factory.mktemp("never started"))
    with closing(connect_blocking(server.url, timeout_s=0.2)) as redis:
        with pytest.raises(ViewError) as failed:
            read_account(redis, "test", 0, "ann")
        assert failed.value.retriable
        with pytest.raises(ViewError):
            read_heads(redis, "test", [0, 1])


def test_a_cluster_is_found_while_one_of_the_named_nodes_is_down(tmp_path: Path) -> None:
    """One node of six was down, and the address named only that node. Each processor that was
    started then ended at once.
    """

    async def pings(url: str) -> bool:
        client = connect(url)
        try:
            return bool(await client.ping())
        finally:
            await client.aclose()

    with running_cluster(tmp_path) as node:
        url = f"redis+cluster://{LOOPBACK}:{free_port()},{LOOPBACK}:{node.port}"
        with closing(connect_blocking(url)) as client:
            assert client.ping()
        assert asyncio.run(pings(url))
