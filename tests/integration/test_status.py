"""Owners report their state in Redis. When they end, their reports are gone."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.operated import Operated, choking_on_poison, operated
from usageledger.operations.lags import lag_reader
from usageledger.operations.partition_states import PartitionState, partition_states

__all__ = ["choking_on_poison", "operated"]


def states(operated: Operated) -> dict[int, PartitionState]:
    with lag_reader(operated.kafka, operated.redis_url, operated.prefix) as reader:
        return {
            found.partition: found
            for found in partition_states(reader.look(), reader.owner_reports())
        }


@pytest.mark.usefixtures("choking_on_poison")
def test_each_partition_says_what_it_is_doing(operated: Operated) -> None:
    async def work() -> None:
        await operated.until(
            lambda: {found.name for found in states(operated).values()} == {"no_owner"}
        )
        async with operated.processor():
            await asyncio.to_thread(operated.use, operated.account_in(1), "u1", "poison", "u3")
            await operated.until(
                lambda: (
                    [found.name for found in states(operated).values()]
                    == ["running/idle", "stopped"]
                )
            )
            stopped = states(operated)[1]
            assert stopped.undecided == 2
            assert "processor skip 1@1 --topic usage" in stopped.detail
            skipped = await operated.run("processor", "skip", "1@1", "--reason", "see #812")
            assert skipped.exit_code == 0, skipped.output
            await operated.until(
                lambda: {found.name for found in states(operated).values()} == {"running/idle"}
            )
        await operated.until(
            lambda: {found.name for found in states(operated).values()} == {"no_owner"}
        )

    asyncio.run(work())
