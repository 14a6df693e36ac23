"""Whether the topics of a ledger are there, keep their records, and have copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from usageledger.log.topics import Topics
from usageledger.operations.doctor.finding import Finding
from usageledger.operations.topics import (
    LOG_APPEND_TIME,
    TopicSettings,
    alter_command,
    compression_note,
    topic_settings,
)
from usageledger.runtime.kafka_connection import KafkaConnection

BROKERS_FOR_COPIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundTopic:
    """A topic as it is.

    ``replicas`` is the least that any partition has. ``leaderless`` partitions cannot be written
    to, ``lagging`` ones miss an in-sync copy.
    """

    settings: TopicSettings
    replicas: int
    leaderless: Sequence[int] = ()
    lagging: Sequence[int] = ()


def described_topics(admin: Any, names: Sequence[str]) -> dict[str, FoundTopic]:
    """Those of the topics that exist. Raises kafka-python's errors."""
    from kafka.admin import ConfigResource, ConfigResourceType

    partitions_of = {
        topic["name"]: topic["partitions"]
        for topic in admin.describe_topics(list(names))
        if topic["error_code"] == 0
    }
    if not partitions_of:
        return {}
    answer = admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name) for name in partitions_of],
        config_filter="all",
    )["topic"]
    return {
        name: FoundTopic(
            settings=TopicSettings(
                name=name,
                partitions=len(partitions),
                configs={key: config["value"] for key, config in answer[name].items()},
            ),
            replicas=min((len(each["replica_nodes"]) for each in partitions), default=0),
            leaderless=[each["partition_index"] for each in partitions if each["leader_id"] < 0],
            lagging=[
                each["partition_index"]
                for each in partitions
                if len(each["isr_nodes"]) < len(each["replica_nodes"])
            ],
        )
        for name, partitions in partitions_of.items()
    }


def topic_findings(
    kafka: KafkaConnection,
    topics: Topics,
    found_topics: Mapping[str, FoundTopic],
    broker_count: int,
) -> Iterator[Finding]:
    """The faults of the topics, each with Kafka's own command that mends it."""
    up = "usageledger up" if not topics.prefix else f"usageledger up --prefix {topics.prefix}"
    for expected in topic_settings(topics):
        found = found_topics.get(expected.name)
        if found is None:
            yield _finding(f"there is no topic {expected.name}", "a ledger needs all five", up)
            continue
        yield from _setting_findings(kafka, expected, found, topics)
        yield from _copy_findings(kafka, found, broker_count)
    counts = {
        name: found_topics[name].settings.partitions
        for name in topics.partitioned
        if name in found_topics
    }
    if len(set(counts.values())) > 1:
        count_list = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield _finding(
            f"the topics differ in their partition counts: {count_list}",
            "partition i of one belongs with partition i of the others",
            "usageledger topics create --prefix NEW: a topic cannot lose partitions again, so the "
            "history goes to a new ledger",
        )
    kinds = {
        found_topics[name].settings.configs.get("message.timestamp.type")
        for name in (topics.usage, topics.account)
        if name in found_topics
    }
    if len(kinds) > 1:
        yield _finding(
            "a go-live was cut short: one input is live and the other is not",
            "the ledger decides nothing until both are",
            "usageledger go-live",
        )


def _setting_findings(
    kafka: KafkaConnection, expected: TopicSettings, found: FoundTopic, topics: Topics
) -> Iterator[Finding]:
    name, configs = expected.name, found.settings.configs
    alter = partial(alter_command, kafka, name)

    if configs.get("cleanup.policy") != "delete":
        yield _finding(
            f"{name} has cleanup.policy={configs.get('cleanup.policy')}",
            "compaction removes entries from the log, which is the truth",
            alter("cleanup.policy=delete"),
        )
    for limit in ("retention.ms", "retention.bytes"):
        if configs.get(limit) != "-1":
            yield _finding(
                f"{name} has {limit}={configs.get(limit)}",
                "what it deletes can never be replayed",
                alter(f"{limit}=-1"),
            )
    if configs.get("unclean.leader.election.enable") != "false":
        yield _finding(
            f"{name} allows unclean leader elections",
            "such an election loses acknowledged entries",
            alter("unclean.leader.election.enable=false"),
        )
    note = compression_note(kafka, expected, configs)
    if note is not None:
        yield _finding(*note)
    is_input = name in (topics.usage, topics.account)
    if not is_input and configs.get("message.timestamp.type") != LOG_APPEND_TIME:
        yield _finding(
            f"{name} has message.timestamp.type={configs.get('message.timestamp.type')}",
            "the ledger's time is when Kafka appended a record",
            alter(f"message.timestamp.type={LOG_APPEND_TIME}"),
        )
    bytes_min = int(expected.configs["max.message.bytes"])
    if int(configs.get("max.message.bytes") or 0) < bytes_min:
        yield _finding(
            f"{name} has max.message.bytes={configs.get('max.message.bytes')}",
            "all entries of one input have to fit into one batch",
            alter(f"max.message.bytes={bytes_min}"),
        )


def _copy_findings(
    kafka: KafkaConnection, found: FoundTopic, broker_count: int
) -> Iterator[Finding]:
    name = found.settings.name
    in_sync_min = int(found.settings.configs.get("min.insync.replicas") or 1)
    describe = f"kafka-topics.sh --bootstrap-server {kafka} --describe --topic {name}"
    if found.leaderless:
        yield _finding(
            f"{name} has no leader for partitions {_numbers(found.leaderless)}",
            "nothing can be written there",
            describe,
        )
    if found.lagging:
        yield _finding(
            f"{name} misses in-sync copies of partitions {_numbers(found.lagging)}",
            "one more failure stops or endangers them",
            f"start the broker that is down, then {describe} --under-replicated-partitions",
        )
    if broker_count >= BROKERS_FOR_COPIES and found.replicas < BROKERS_FOR_COPIES:
        yield _finding(
            f"{name} has {found.replicas} replica{'' if found.replicas == 1 else 's'} on "
            f"{broker_count} brokers",
            "a broker that dies takes acknowledged entries with it",
            f"kafka-reassign-partitions.sh --bootstrap-server {kafka} --execute "
            "--reassignment-json-file THREE_REPLICAS.json",
        )
    elif found.replicas >= BROKERS_FOR_COPIES and in_sync_min < 2:
        yield _finding(
            f"{name} has min.insync.replicas={in_sync_min}",
            "an acknowledged entry may be on one broker alone",
            alter_command(kafka, name, "min.insync.replicas=2"),
        )


def _finding(what: str, why: str, mend: str) -> Finding:
    return Finding(area="topics", what=what, why=why, mend=mend)


def _numbers(partitions: Sequence[int]) -> str:
    return ", ".join(map(str, partitions))
