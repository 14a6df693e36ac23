"""Somebody else at the brokers: records that are not ours, and topics with other settings."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import closing

from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions
from kafka.errors import KafkaError

from tests.chaos.stage import PARTITIONS, PREFIX, Stage
from usageledger.audit.verify import verify
from usageledger.operations.kafka_probe import admin_client
from usageledger.operations.lags import lag_reader
from usageledger.operations.partition_states import partition_states
from usageledger.operations.waiting import is_true_within

MARK = b"intruder"
"""Every record of junk contains this."""
CODECS = ("gzip", "snappy", "lz4", "zstd")
SETTLE_S = 30.0
GROWN_TO = PARTITIONS + 3
NOTICED_TIMEOUT_S = 120.0
STRAY_EVENTS = 50


def write_junk(stage: Stage, topic: str, partition: int, rng: random.Random) -> int:
    """Append some junk to a partition. Return how many records Kafka acknowledged."""
    producer = KafkaProducer(**stage.kafka.for_kafka_python(), acks="all", retries=0)
    with closing(producer):
        sent = [
            producer.send(topic, key=b"a", value=_junk(rng), partition=partition)
            for _ in range(rng.randint(1, 9))
        ]
        producer.flush(timeout=SETTLE_S)
        # Records without an acknowledgement may be in the topic too: the proof reads the topic.
        return sum(each.succeeded() for each in sent)


def _junk(rng: random.Random) -> bytes:
    return rng.choice(
        (
            MARK + rng.randbytes(rng.randint(0, 300)),
            b'{"%s":{}}' % MARK,
            b'{"specversion":"1.0","type":"usage.recorded","source":"%s"}' % MARK,
            b"[" * 200 + MARK,
        )
    )


def set_codecs(stage: Stage, first: int) -> dict[str, str]:
    """Let the brokers store each topic's batches in a codec, and return which."""
    chosen = {
        topic: CODECS[(first + number) % len(CODECS)]
        for number, topic in enumerate(stage.replicated_topics)
    }
    _alter(stage, chosen)
    return chosen


def reset_codecs(stage: Stage, settings: Mapping[str, str]) -> None:
    """Give the topics their own setting back, as soon as the brokers accept it."""
    if not is_true_within(lambda: _is_altered(stage, settings), SETTLE_S, every_s=0.5):
        raise TimeoutError("the brokers did not accept the topics' settings")


def codec_settings(stage: Stage) -> dict[str, str]:
    """The ``compression.type`` of each topic."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in stage.replicated_topics]
    with admin_client(stage.kafka, timeout_ms=10_000) as admin:
        found = admin.describe_configs(resources, config_filter="all")["topic"]
    return {name: str(configs["compression.type"]["value"]) for name, configs in found.items()}


def _is_altered(stage: Stage, settings: Mapping[str, str]) -> bool:
    try:
        _alter(stage, settings)
    except KafkaError:
        return False
    return True


def _alter(stage: Stage, settings: Mapping[str, str]) -> None:
    with admin_client(stage.kafka, timeout_ms=10_000) as admin:
        admin.alter_configs(
            [
                ConfigResource(ConfigResourceType.TOPIC, name, {"compression.type": codec})
                for name, codec in settings.items()
            ]
        )


def grow_usage_topic(stage: Stage) -> Sequence[str]:
    """Give the usage topic more partitions, with processors running, and events on the new ones.

    Return what is wrong. The ledger must stop, and neither status nor audit may hide an event.
    """
    topic = stage.topics.usage
    with admin_client(stage.kafka, timeout_ms=30_000) as admin:
        admin.create_partitions({topic: NewPartitions(GROWN_TO)})
    wrong = []
    if not is_true_within(lambda: _stopped(stage) == PARTITIONS, NOTICED_TIMEOUT_S, every_s=0.5):
        wrong.append(f"{_stopped(stage)} of {PARTITIONS} partitions stopped")
    producer = KafkaProducer(**stage.kafka.for_kafka_python(), acks="all")
    with closing(producer):
        for number in range(STRAY_EVENTS):
            partition = PARTITIONS + number % (GROWN_TO - PARTITIONS)
            producer.send(topic, key=b"a", value=b"%d" % number, partition=partition)
        producer.flush(timeout=SETTLE_S)
    report = verify(stage.kafka, stage.store.url, PREFIX)
    if report.is_clean or not any(topic in found for found in report.differences):
        wrong.append(f"the audit did not say that {topic} has grown: {report.differences}")
    if report.undecided_inputs != STRAY_EVENTS:
        wrong.append(f"the audit counted {report.undecided_inputs} of {STRAY_EVENTS} stray events")
    return wrong


def _stopped(stage: Stage) -> int:
    with lag_reader(stage.kafka, stage.store.url, PREFIX) as reader:
        states = partition_states(reader.look(), reader.owner_reports())
    return sum(state.name == "stopped" for state in states[:PARTITIONS])
