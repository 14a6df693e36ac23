"""Whether Redis would accept a commit now, and why not. Services, status and doctor ask it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import redis.asyncio
from redis.exceptions import SlotNotCoveredError

from usageledger.counters.calling import ask, ask_async
from usageledger.counters.connection import AsyncClient, Client
from usageledger.counters.keys import PartitionKeys
from usageledger.counters.replies import REDIS_FAILURES
from usageledger.counters.scripts import Word
from usageledger.counters.troubles import full_sentence
from usageledger.counters.view import ViewError


@dataclass(frozen=True, slots=True)
class AcceptWrite:
    """A call that writes nothing and is refused wherever a commit would be."""

    script: ClassVar[str] = "accept_write"

    def keys(self, partition: PartitionKeys) -> Sequence[str]:
        return [partition.head]

    def words(self) -> Sequence[Word]:
        return []

    def answer(self, reply: Any) -> None:
        return None


def refusal(client: Client, prefix: str, partition_count: int) -> ViewError | None:
    """Why a server that holds counters accepts no writes; None if each of them does."""
    try:
        for keys in _one_of_each_server(client, prefix, partition_count):
            ask(client, keys, AcceptWrite())
    except ViewError as error:
        if error.cause != "full" or isinstance(client, redis.RedisCluster):
            return error
        try:
            return _full(client.info("memory"))
        except REDIS_FAILURES:
            return error
    return None


async def refusal_async(client: AsyncClient, prefix: str, partition_count: int) -> ViewError | None:
    """As ``refusal``, with an asynchronous client."""
    try:
        for keys in _one_of_each_server(client, prefix, partition_count):
            await ask_async(client, keys, AcceptWrite())
    except ViewError as error:
        if error.cause != "full" or isinstance(client, redis.asyncio.RedisCluster):
            return error
        try:
            return _full(await client.info("memory"))
        except REDIS_FAILURES:
            return error
    return None


def _one_of_each_server(
    client: Client | AsyncClient, prefix: str, partition_count: int
) -> Iterator[PartitionKeys]:
    """The keys of one partition on each server that holds some.

    The first is asked before the others are chosen: a cluster's client knows the nodes only then.
    """
    first = PartitionKeys(prefix, 0)
    yield first
    if not isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster):
        return
    asked = {_node_of(client, first)}
    for partition in range(1, partition_count):
        keys = PartitionKeys(prefix, partition)
        node = _node_of(client, keys)
        if node not in asked:
            asked.add(node)
            yield keys


def _node_of(client: redis.RedisCluster | redis.asyncio.RedisCluster, keys: PartitionKeys) -> Any:
    """The node that has these keys; None if no node has their slot, which asking then shows."""
    try:
        return client.get_node_from_key(keys.head)
    except SlotNotCoveredError:
        return None


def _full(memory: Any) -> ViewError:
    figures = ("used_memory_human", "maxmemory_human", "maxmemory_policy")
    return ViewError(full_sentence(*(str(memory[name]) for name in figures)), cause="full")
