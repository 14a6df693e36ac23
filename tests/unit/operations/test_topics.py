"""The settings of a ledger's topics."""

from __future__ import annotations

import tomllib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from usageledger.log.topics import Topics
from usageledger.operations.topics import is_importing, topic_settings
from usageledger.runtime.kafka_connection import KafkaConnection

TOPICS_TOML = Path(__file__).parents[3] / "infra" / "topics.toml"


def test_only_the_catalog_has_another_partition_count_than_the_rest() -> None:
    """The four topics keyed by account have equal counts; the catalog has one partition."""
    topics = Topics("acme")
    counts = {topic.name: topic.partitions for topic in topic_settings(topics, partitions=5)}
    assert counts == dict.fromkeys(topics.partitioned, 5) | {topics.catalog: 1}


@pytest.mark.peer_defect("OpenMeter #5005")
def test_no_topic_ever_drops_a_record() -> None:
    for importing in (False, True):
        for topic in topic_settings(Topics(), importing=importing):
            assert (
                topic.configs["cleanup.policy"],
                topic.configs["retention.ms"],
                topic.configs["retention.bytes"],
            ) == (
                "delete",
                "-1",
                "-1",
            )


def test_kafka_dates_every_record_of_a_live_ledger() -> None:
    assert {topic.configs["message.timestamp.type"] for topic in topic_settings(Topics())} == {
        "LogAppendTime"
    }


def test_an_import_keeps_the_dates_of_the_two_inputs_alone() -> None:
    topics = Topics()
    dated = {
        t.name
        for t in topic_settings(topics, importing=True)
        if t.configs["message.timestamp.type"] == "CreateTime"
    }
    assert dated == {topics.usage, topics.account}


def test_the_topics_document_for_operators_agrees_with_the_package() -> None:
    document = tomllib.loads(TOPICS_TOML.read_text(encoding="utf-8"))
    live = topic_settings(Topics(), partitions=64)
    assert document["topics"] == {
        topic.name: {"partitions": topic.partitions, "configs": dict(topic.configs)}
        for topic in live
    }
    importing = topic_settings(Topics(), partitions=64, importing=True)
    for before, after in zip(live, importing, strict=True):
        changed = {
            name: value
            for name, value in after.configs.items()
            if before.configs.get(name) != value
        }
        assert changed in ({}, document["import"]["configs"])


class BrokerBehindItsCluster:
    """A broker that knows a topic only once it has been asked about it."""

    def __init__(self) -> None:
        self.asked = 0

    def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        return [{"name": name, "partitions": [0, 1], "error_code": 0} for name in names]

    def describe_configs(self, resources: list[Any], config_filter: str) -> dict[str, Any]:
        self.asked += 1
        settings = {"message.timestamp.type": {"value": "LogAppendTime"}} if self.asked > 1 else {}
        return {"topic": {resource.name: settings for resource in resources}}


def test_a_broker_that_does_not_know_a_new_topic_yet_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On three brokers `create_topics` raised KeyError: one broker did not know new topics yet."""
    broker = BrokerBehindItsCluster()
    monkeypatch.setattr(
        "usageledger.operations.topics.admin_client", lambda bootstrap: nullcontext(broker)
    )
    assert not is_importing(KafkaConnection(servers="localhost:9092"))
    assert broker.asked == 2
