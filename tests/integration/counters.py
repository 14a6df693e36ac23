"""Views as a processor begins them, for tests that run no processor."""

from __future__ import annotations

import asyncio

from usageledger.counters.connection import connect
from usageledger.counters.redis_view import RedisView
from usageledger.counters.view import Position, ViewChange
from usageledger.domain.encoding import encode
from usageledger.domain.head import Head

HASH = "0" * 64


def begin_counters(redis_url: str, prefix: str, partitions: int, *, catalogs: int = 1) -> None:
    """Write the views of a ledger that has adopted this many catalogs and nothing else."""

    async def begin() -> None:
        redis = connect(redis_url)
        for partition in range(partitions):
            head = Head(ledger="of this test", next_offset=1, hash=HASH, catalog_next=catalogs)
            await RedisView(redis, prefix, partition).commit(
                None, ViewChange(head=encode(head), position=Position(1, HASH))
            )
        await redis.aclose()

    asyncio.run(begin())
