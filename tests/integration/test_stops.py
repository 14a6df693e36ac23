"""Topics were changed under a ledger: its partitions stop and say so, and nothing resets."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import NewPartitions

from tests.integration.operated import Operated, operated
from usageledger.log.reading import entries_in, log_reader
from usageledger.log.topics import Topics
from usageledger.operations.kafka_probe import admin_client
from usageledger.operations.topics import create_topics
from usageledger.operations.waiting import is_true_within
from usageledger.processor.owner_settings import OwnerSettings

__all__ = ["operated"]

STOPPED = re.compile(r"partition (\d+) stopped: (.*)")


def stops(caplog: pytest.LogCaptureFixture) -> dict[int, str]:
    """The partitions that stopped, each with its reason. The log has one line for each."""
    found = [
        STOPPED.fullmatch(record.getMessage())
        for record in caplog.records
        if record.name.startswith("usageledger")
    ]
    return {int(match[1]): match[2] for match in found if match}


def truncate(operated: Operated, topic: str, partition: int, before: int) -> None:
    with KafkaAdminClient(**operated.kafka.for_kafka_python()) as admin:
        admin.delete_records({TopicPartition(topic, partition): before})


def make_anew(operated: Operated, *names: str) -> None:
    """Delete topics and make them again, empty."""
    with admin_client(operated.kafka, timeout_ms=30_000) as admin:
        admin.delete_topics(list(names))

        def are_gone() -> bool:
            return all(found["error_code"] != 0 for found in admin.describe_topics(list(names)))

        assert is_true_within(are_gone, 30)
    create_topics(operated.kafka, operated.prefix, partitions=operated.partitions)


def truncate_usage(operated: Operated) -> None:
    """Records were sent while the processor was away, and deleted before they were decided."""
    operated.use(operated.account_in(1), "lost1", "lost2")
    truncate(operated, Topics(operated.prefix).usage, 1, 4)


def truncate_ledger(operated: Operated) -> None:
    truncate(operated, Topics(operated.prefix).ledger, 1, 2)


@pytest.mark.parametrize(
    ("harm", "reason_part"),
    [
        (
            truncate_usage,
            "usage.events.v1/1 holds offsets 4 to 4, and the ledger has decided up to 2",
        ),
        (truncate_ledger, "partition 1 of the ledger begins at offset 2: it was truncated"),
    ],
)
def test_what_was_truncated_stops_its_partition_and_the_others_go_on(
    operated: Operated,
    harm: Callable[[Operated], None],
    reason_part: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        accounts = [operated.account_in(partition) for partition in range(2)]
        async with operated.processor():
            for account in accounts:
                await asyncio.to_thread(operated.use, account, "u1", "u2")
            await operated.decided(4)
        await asyncio.to_thread(harm, operated)
        async with operated.processor():
            await operated.until(lambda: 1 in stops(caplog))
            await asyncio.to_thread(operated.use, accounts[0], "u3")
            await operated.until(lambda: end_of_usage_decided(operated, 0) == 3)
        assert reason_part in stops(caplog)[1]
        assert list(stops(caplog)) == [1]

    asyncio.run(work())


def end_of_usage_decided(operated: Operated, partition: int) -> int:
    topic = Topics(operated.prefix).ledger
    with log_reader(operated.kafka) as reader:
        entries = entries_in(reader.read(topic, partition, 0, reader.end_offset(topic, partition)))
        return max(
            (
                sealed.entry.input.offset + 1
                for sealed in entries
                if sealed.entry.input and sealed.entry.input.topic == "usage"
            ),
            default=0,
        )


@pytest.mark.parametrize(
    ("names", "reason_part"),
    [
        (
            ("usage",),
            "holds offsets 0 to 0, and the ledger has decided up to 2: the topic was truncated or "
            "made anew",
        ),
        (("ledger",), "belongs to another ledger"),
    ],
    ids=["input", "ledger"],
)
def test_a_topic_that_was_made_anew_stops_every_partition_and_none_begins_again(
    operated: Operated, names: tuple[str, ...], reason_part: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with operated.processor():
            for partition in range(2):
                await asyncio.to_thread(operated.use, operated.account_in(partition), "u1", "u2")
            await operated.decided(4)
        topics = Topics(operated.prefix)
        await asyncio.to_thread(make_anew, operated, *(getattr(topics, name) for name in names))
        async with operated.processor():
            await operated.until(lambda: len(stops(caplog)) == 2)
        assert all(reason_part in reason for reason in stops(caplog).values())

    asyncio.run(work())


def test_topics_with_more_partitions_than_the_ledger_was_made_with_stop_it(
    operated: Operated, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker would look for accounts in partitions that never held them. They would begin again
    with Free's credits.
    """

    async def work() -> None:
        async with operated.processor():
            for partition in range(2):
                await asyncio.to_thread(operated.use, operated.account_in(partition), "u1")
            await operated.decided(2)
        with KafkaAdminClient(**operated.kafka.for_kafka_python()) as admin:
            admin.create_partitions(
                {topic: NewPartitions(4) for topic in Topics(operated.prefix).partitioned}
            )
        async with operated.processor():
            await operated.until(lambda: "every partition has stopped" in caplog.text)
        assert "the ledger was made with 2 partitions, and " in caplog.text
        assert f"{Topics(operated.prefix).usage} has 4" in caplog.text

    asyncio.run(work())


def test_a_catalog_topic_that_was_made_anew_stops_what_had_adopted_it(
    operated: Operated, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "usageledger.processor.service.DEFAULT_SETTINGS", OwnerSettings(catalog_wait_s=3.0)
    )

    async def work() -> None:
        async with operated.processor():
            await asyncio.to_thread(operated.use, operated.account_in(0), "u1")
            await operated.decided(1)
        await asyncio.to_thread(make_anew, operated, Topics(operated.prefix).catalog)
        async with operated.processor():
            await operated.until(lambda: sorted(stops(caplog)) == [0, 1])
        assert "the catalog topic does not hold the records before offset 1" in stops(caplog)[0]

    asyncio.run(work())


def test_a_catalog_reader_that_fails_ends_the_processor(
    operated: Operated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task had ended unnoticed, and the worker went on deciding by the catalogs that it had."""

    async def broken(*_: object) -> None:
        raise ZeroDivisionError(f"at {datetime.now(UTC)}")

    monkeypatch.setattr("usageledger.processor.service.read_catalogs", broken)

    async def work() -> None:
        with pytest.raises(ZeroDivisionError):
            async with operated.processor() as task:
                await asyncio.wait_for(asyncio.shield(task), 60)

    asyncio.run(work())
