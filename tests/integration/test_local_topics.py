"""A ledger's topics on a real broker."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from typer.testing import CliRunner, Result

from tests.notation import SHIPPED
from usageledger.cli import app
from usageledger.domain.head import Head
from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.records import Record
from usageledger.ledger.timestamps import milliseconds
from usageledger.log.topics import Topics
from usageledger.operations.kafka_probe import admin_client
from usageledger.operations.topics import (
    TopicMismatch,
    create_topics,
    existing_partitions,
    go_live,
    is_importing,
)
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.producer.events import encode, usage_recorded

LONG_AGO_MS = 1_500_000_000_000
DAY_MS = 86_400_000


def timestamp_of_a_record_sent_as_of(kafka: KafkaConnection, topic: str, timestamp_ms: int) -> int:
    """Append a record with a timestamp of its own and return the timestamp that Kafka stores."""
    return int(record_sent_as_of(kafka, topic, timestamp_ms, b"{}").timestamp)


def record_sent_as_of(kafka: KafkaConnection, topic: str, timestamp_ms: int, value: bytes) -> Any:
    """Append a record with a timestamp of its own and return it as Kafka stores it."""
    producer = KafkaProducer(**kafka.for_kafka_python())
    try:
        sent = producer.send(topic, key=b"acct", value=value, timestamp_ms=timestamp_ms).get(
            timeout=20
        )
    finally:
        producer.close(timeout=5)
    consumer = KafkaConsumer(
        **kafka.for_kafka_python(), auto_offset_reset="earliest", enable_auto_commit=False
    )
    try:
        partition = TopicPartition(topic, sent.partition)
        consumer.assign([partition])
        consumer.seek(partition, sent.offset)
        (record,) = consumer.poll(timeout_ms=20_000, max_records=1)[partition]
        return record
    finally:
        consumer.close()


def test_making_topics_again_makes_nothing_and_complains_of_nothing(
    kafka: KafkaConnection, prefix: str
) -> None:
    assert create_topics(kafka, prefix, partitions=2) == []


def test_a_missing_topic_is_made_beside_those_that_are_there(
    kafka: KafkaConnection, prefix: str
) -> None:
    from kafka.admin import KafkaAdminClient

    with KafkaAdminClient(**kafka.for_kafka_python()) as admin:
        admin.delete_topics([Topics(prefix).limit])
    assert create_topics(kafka, prefix, partitions=2) == [Topics(prefix).limit]


def test_another_partition_count_is_refused_and_nothing_is_altered(
    kafka: KafkaConnection, prefix: str
) -> None:
    with pytest.raises(TopicMismatch, match="has 2 partitions, not 4"):
        create_topics(kafka, prefix, partitions=4)
    assert create_topics(kafka, prefix, partitions=2) == []


def test_a_live_ledger_dates_records_itself_and_cannot_be_imported_into(
    kafka: KafkaConnection, prefix: str
) -> None:
    assert not is_importing(kafka, prefix)
    assert timestamp_of_a_record_sent_as_of(kafka, Topics(prefix).usage, LONG_AGO_MS) > LONG_AGO_MS
    with pytest.raises(
        TopicMismatch, match=r"cannot go back to import mode.* Start without --import"
    ):
        create_topics(kafka, prefix, partitions=2, importing=True)


@pytest.mark.peer_defect("OpenMeter #5005")
def test_an_event_under_an_old_date_is_counted_or_refused_and_never_gone(
    kafka: KafkaConnection, prefix: str
) -> None:
    """OpenMeter #5005 stamps records with the events' own times: retention then deletes late events
    that were accepted.
    """
    topic, now = Topics(prefix).usage, datetime.now(UTC)
    outcomes = {}
    for days in (34, 36, 4_000):
        occurred_at = now - timedelta(days=days)
        event = usage_recorded(
            source="/render",
            account="acct",
            id=f"gen_{days}",
            feature="chat_action",
            occurred_at=occurred_at,
            now=now,
            live=False,
        )
        record = record_sent_as_of(kafka, topic, milliseconds(occurred_at), encode(event))
        assert abs(record.timestamp - milliseconds(now)) < DAY_MS, "Kafka sets the timestamp"
        book = PartitionBook(record.partition, 2, Head(ledger="x"), SHIPPED)
        (item,) = book.decode(
            "usage", [Record(record.offset, record.timestamp, record.key, record.value)]
        )
        entry = book.decide_input(item)[-1].entry
        outcomes[days] = (entry.kind, entry.reason)
    assert outcomes == {
        34: ("usage", None),
        36: ("refusal", "too_old"),
        4_000: ("refusal", "too_old"),
    }


@pytest.mark.docker_backend
@pytest.mark.importing
def test_an_import_keeps_dates_until_it_goes_live_for_good(
    kafka: KafkaConnection, prefix: str
) -> None:
    topics = Topics(prefix)
    assert is_importing(kafka, prefix)
    assert timestamp_of_a_record_sent_as_of(kafka, topics.usage, LONG_AGO_MS) == LONG_AGO_MS
    assert (
        timestamp_of_a_record_sent_as_of(kafka, topics.account, 4_000_000_000_000)
        == 4_000_000_000_000
    )
    assert timestamp_of_a_record_sent_as_of(kafka, topics.ledger, LONG_AGO_MS) > LONG_AGO_MS
    with pytest.raises(TopicMismatch, match="it is in import mode"):
        create_topics(kafka, prefix, partitions=2)

    assert go_live(kafka, prefix)
    assert not is_importing(kafka, prefix)
    assert timestamp_of_a_record_sent_as_of(kafka, topics.usage, LONG_AGO_MS) > LONG_AGO_MS
    assert not go_live(kafka, prefix)
    assert (
        setting(kafka, topics.usage, "retention.ms"),
        setting(kafka, topics.usage, "cleanup.policy"),
    ) == ("-1", "delete")


def setting(kafka: KafkaConnection, topic: str, name: str) -> str:
    """The broker's value of one of a topic's settings."""
    with admin_client(kafka) as admin:
        answer = admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all"
        )
    return str(answer["topic"][topic][name]["value"])


def test_the_command_makes_missing_topics_and_reports_the_others(
    kafka: KafkaConnection, prefix: str
) -> None:
    environment = {
        "USAGELEDGER_KAFKA": str(kafka),
        "USAGELEDGER_REDIS_URL": "redis://localhost:6379",
        "USAGELEDGER_PREFIX": prefix,
    }

    def create(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["topics", "create", *arguments, "--json"], env=environment)

    topics = Topics(prefix)
    every = [*topics.partitioned, topics.catalog]
    assert json.loads(create().stdout) == {"partitions": 2, "created": [], "existing": every}

    refused = create("--partitions", "4")
    assert refused.exit_code == 1
    assert f"{topics.usage} has 2 partitions, not 4" in refused.output

    made = json.loads(create("--prefix", f"{prefix}.new", "--partitions", "3").stdout)
    assert (made["partitions"], len(made["created"]), made["existing"]) == (3, 5, [])
    assert existing_partitions(kafka, f"{prefix}.new") == 3
    assert existing_partitions(kafka, f"{prefix}.none") is None
