"""A follower's connection ends without ending the task that follows."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from usageledger.log.follower import Stalled, TopicFollower
from usageledger.runtime.kafka_connection import KafkaConnection


class StubbornConsumer:
    """A consumer that lets out a cancellation of its own, as aiokafka does after an outage."""

    async def getmany(self, *, timeout_ms: int, max_records: int | None) -> None:
        raise asyncio.CancelledError

    async def stop(self) -> None:
        raise asyncio.CancelledError


def a_follower(consumer: object) -> TopicFollower:
    follower = TopicFollower(
        KafkaConnection(servers="kafka:9092"),
        "limit.events.v1",
        client_id="test",
        answer_within_s=1.0,
    )
    follower._consumer = consumer
    return follower


async def _poll_once(follower: TopicFollower) -> None:
    async with aclosing(follower):
        await follower.poll(timeout_ms=1)


def test_a_cancellation_that_nobody_asked_for_is_a_stall_and_ends_no_task() -> None:
    """A broker was away for a minute; from then on no stream had a limit event.

    aiokafka had let a cancellation out while the connection was closed, and it ended the task.
    """
    with pytest.raises(Stalled):
        asyncio.run(_poll_once(a_follower(StubbornConsumer())))


def test_a_task_that_is_cancelled_while_it_closes_ends() -> None:
    class Slow(StubbornConsumer):
        async def stop(self) -> None:
            await asyncio.sleep(60)

    async def cancel_it() -> None:
        task = asyncio.ensure_future(a_follower(Slow()).aclose())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_it())
