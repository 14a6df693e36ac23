"""The single writer on a real broker that refuses, freezes or is gone."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from tests.integration.freezing import broker_pid, frozen
from usageledger.ledger.records import AppendOutcomeUnknown, GroupTooLarge, KeyedValue, LedgerError
from usageledger.log.kafka_ledger import KafkaLedgerPartition, LedgerSettings
from usageledger.log.topics import Topics
from usageledger.runtime.kafka_connection import KafkaConnection

__all__ = ["broker_pid"]

CLAIM = KeyedValue(None, b"claim")
IMPATIENT = LedgerSettings(append_timeout_s=1.0, claim_timeout_s=3.0, no_progress_timeout_s=3.0)
PATIENT = LedgerSettings(append_timeout_s=90.0, claim_timeout_s=90.0, no_progress_timeout_s=90.0)


def run(work: Coroutine[Any, Any, None]) -> None:
    async def checked() -> None:
        before = asyncio.all_tasks()
        await work
        # Nothing goes on trying to deliver what was given up, and nothing keeps connections.
        deadline = time.monotonic() + 40
        while left := asyncio.all_tasks() - before:
            assert time.monotonic() < deadline, f"tasks that outlive the partition: {left}"
            await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(checked(), 100))


@asynccontextmanager
async def partition(
    kafka: KafkaConnection, topic: str, settings: LedgerSettings | None = None, *, number: int = 0
) -> AsyncIterator[KafkaLedgerPartition]:
    ledger = KafkaLedgerPartition(kafka=kafka, topic=topic, partition=number, settings=settings)
    try:
        yield ledger
    finally:
        await ledger.close()


async def values(ledger: KafkaLedgerPartition) -> list[bytes | None]:
    return [
        record.value
        async for chunk in ledger.read(0, await ledger.end_offset())
        for record in chunk
    ]


@pytest.fixture
def narrow_topic(kafka: KafkaConnection, prefix: str) -> str:
    """A topic whose limit on batches is smaller than the ledger's settings say."""
    name = Topics(prefix).ledger + ".narrow"
    with KafkaAdminClient(**kafka.for_kafka_python()) as admin:
        admin.create_topics(
            [
                NewTopic(
                    name,
                    num_partitions=1,
                    replication_factor=1,
                    topic_configs={"max.message.bytes": "50000"},
                )
            ]
        )
    return name


def test_a_silent_broker_leaves_the_outcome_unknown_after_the_partitions_deadline(
    kafka: KafkaConnection, prefix: str, broker_pid: int
) -> None:
    """Calls with longer deadlines began earlier and still wait when the others have ended."""

    async def work() -> None:
        topic = Topics(prefix).ledger
        async with (
            partition(kafka, topic, IMPATIENT) as ledger,
            partition(kafka, topic, PATIENT, number=1) as appending,
            partition(kafka, topic, PATIENT, number=1) as claiming,
        ):
            await ledger.claim(CLAIM)
            await ledger.append(1, [[KeyedValue(b"a", b"first")]])
            await appending.claim(CLAIM)
            with frozen(broker_pid):
                patient = [
                    asyncio.create_task(appending.append(1, [[KeyedValue(b"a", b"slow")]])),
                    asyncio.create_task(claiming.claim(CLAIM)),
                ]
                with pytest.raises(AppendOutcomeUnknown):
                    await ledger.append(2, [[KeyedValue(b"a", b"unknown")]])
                with pytest.raises(AppendOutcomeUnknown):
                    await ledger.claim(CLAIM)
                assert not any(task.done() for task in patient)
                for task in patient:
                    task.cancel()
                await asyncio.wait(patient)
            claimed_at = await claimed_again(ledger)
            await ledger.append(claimed_at + 1, [[KeyedValue(b"a", b"second")]])
            found = await values(ledger)
            # The append on its way landed once or not at all. The claim and a catch-up find out
            # which.
            assert [value for value in found if value not in (b"claim", b"unknown")] == [
                b"first",
                b"second",
            ]
            assert found.count(b"unknown") <= 1
            assert found[claimed_at:] == [b"claim", b"second"]

    run(work())


async def claimed_again(ledger: KafkaLedgerPartition) -> int:
    deadline = time.monotonic() + 40
    while True:
        try:
            return await ledger.claim(CLAIM)
        except LedgerError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)


def test_an_append_that_is_cancelled_is_not_followed_by_another_before_a_claim(
    kafka: KafkaConnection, prefix: str, broker_pid: int
) -> None:
    async def work() -> None:
        async with partition(kafka, Topics(prefix).ledger) as ledger:
            await ledger.claim(CLAIM)
            with frozen(broker_pid):
                appending = asyncio.create_task(
                    ledger.append(1, [[KeyedValue(b"a", b"cancelled")]])
                )
                await asyncio.sleep(0.2)
                appending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await appending
                with pytest.raises(LedgerError, match="before a claim"):
                    await ledger.append(2, [[KeyedValue(b"a", b"next")]])
            claimed_at = await claimed_again(ledger)
            await ledger.append(claimed_at + 1, [[KeyedValue(b"a", b"valid")]])
            assert (await values(ledger))[claimed_at:] == [b"claim", b"valid"]

    run(work())


def test_a_batch_that_the_topic_refuses_for_its_size_says_so_and_a_new_claim_works(
    kafka: KafkaConnection, narrow_topic: str
) -> None:
    """After that refusal the same idempotent producer fails every later batch as out of order. So
    it must have been replaced. The bytes are random, because the ledger is compressed.
    """
    large = random.Random(1).randbytes(60_000)

    async def work() -> None:
        async with partition(kafka, narrow_topic) as ledger:
            await ledger.claim(CLAIM)
            with pytest.raises(GroupTooLarge, match="accepts only smaller batches"):
                await ledger.append(1, [[KeyedValue(b"a", large)]])
            assert await ledger.claim(CLAIM) == 1
            await ledger.append(2, [[KeyedValue(b"a", b"fits")]])
            assert await values(ledger) == [b"claim", b"claim", b"fits"]

    run(work())


def test_without_a_broker_every_call_ends_with_a_retriable_error() -> None:
    async def work() -> None:
        async with partition(KafkaConnection(servers="127.0.0.1:9"), "ledger", IMPATIENT) as ledger:
            for call in (
                ledger.claim(CLAIM),
                ledger.start_offset(),
                ledger.end_offset(),
                anext(aiter(ledger.read(0, 1))),
            ):
                with pytest.raises(LedgerError) as caught:
                    await call
                assert caught.value.retriable

    run(work())


def test_a_partition_that_is_not_there_is_an_error_that_names_it(
    kafka: KafkaConnection, prefix: str
) -> None:
    async def work() -> None:
        ledger = KafkaLedgerPartition(
            kafka=kafka, topic=Topics(prefix).ledger, partition=9, settings=IMPATIENT
        )
        with pytest.raises(
            LedgerError, match=rf"{Topics(prefix).ledger}/9: there is no such partition"
        ):
            await ledger.claim(CLAIM)
        await ledger.close()

    run(work())
