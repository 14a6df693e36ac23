"""Creating a ledger's five topics, checking those that exist, and ending import mode."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from usageledger.log.topics import Topics
from usageledger.operations.errors import OperatorError
from usageledger.operations.kafka_probe import admin_client
from usageledger.runtime.kafka_connection import KafkaConnection

PARTITIONS = 8
LOG_APPEND_TIME, CREATE_TIME = "LogAppendTime", "CreateTime"
FOR_EVER_MS = 2**63 - 1
UNHEARD_OF_TIMEOUT_S = 20.0
MIB = 1024 * 1024

# The broker decompresses what it receives and then measures it. So max.message.bytes bounds what a
# reader gets, whatever the writer compresses with.
READ_AS_RECEIVED = {"compression.type": "uncompressed"}

LedgerMode = Literal["absent", "importing", "going_live", "live"]


class TopicMismatch(OperatorError):
    """A topic exists with other settings than were asked for. Nothing was altered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSettings:
    """One topic as it should be. ``configs`` are Kafka's own names and values."""

    name: str
    partitions: int
    configs: Mapping[str, str]


def topic_settings(
    topics: Topics, *, partitions: int = PARTITIONS, importing: bool = False
) -> tuple[TopicSettings, ...]:
    """The five topics of a ledger.

    The four that are keyed by account have ``partitions`` each, the catalog has one.

    With ``importing`` the two input topics keep each record's own time, however far in the past or
    the future.
    """
    log = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
    # Segments are never deleted, so to roll them by time gains nothing, and the import of a year
    # would make hundreds.
    log |= {"segment.ms": str(FOR_EVER_MS)}
    appended = log | {"message.timestamp.type": LOG_APPEND_TIME}
    dated = log | {
        "message.timestamp.type": CREATE_TIME,
        "message.timestamp.before.max.ms": str(FOR_EVER_MS),
        "message.timestamp.after.max.ms": str(FOR_EVER_MS),
    }
    inputs = (dated if importing else appended) | READ_AS_RECEIVED
    # Whatever a cluster's default is: their writers choose a codec.
    announced = appended | {"compression.type": "producer", "max.message.bytes": str(8 * MIB)}
    return (
        TopicSettings(
            name=topics.usage,
            partitions=partitions,
            configs=inputs | {"max.message.bytes": str(1 * MIB)},
        ),
        TopicSettings(
            name=topics.account,
            partitions=partitions,
            configs=inputs | {"max.message.bytes": str(1 * MIB)},
        ),
        # All entries of one input are in one batch, and all of a chunk's may be.
        TopicSettings(
            name=topics.ledger,
            partitions=partitions,
            configs=announced,
        ),
        TopicSettings(
            name=topics.limit,
            partitions=partitions,
            configs=announced,
        ),
        TopicSettings(
            name=topics.catalog,
            partitions=1,
            configs=appended | READ_AS_RECEIVED | {"max.message.bytes": str(8 * MIB)},
        ),
    )


def create_topics(
    kafka: KafkaConnection,
    prefix: str = "",
    *,
    partitions: int = PARTITIONS,
    importing: bool = False,
    replication_factor: int = -1,
) -> list[str]:
    """Create the topics that are missing, and check those that exist.

    Returns the names of those created, in order. ``replication_factor`` -1 is the broker's default.
    Raises TopicMismatch, before anything is created, if an existing topic has another partition
    count or kind of timestamp, or does not keep its records. A ledger whose import has ended cannot
    be imported into again. Raises OperatorError if the broker does not do what was asked.
    """
    wanted = topic_settings(Topics(prefix), partitions=partitions, importing=importing)
    with _admin(kafka) as admin:
        there = _describe(admin, [topic.name for topic in wanted])
        _refuse_mismatches(wanted, there)
        missing = [topic for topic in wanted if topic.name not in there]
        if missing:
            _create(admin, missing, replication_factor)
            # Another process may have made some of them in the meantime, with other settings.
            _refuse_mismatches(wanted, _describe(admin, [topic.name for topic in wanted]))
    return [topic.name for topic in missing]


def compression_notes(kafka: KafkaConnection, prefix: str = "") -> list[str]:
    """The topics that are compressed in another way than ours, each with what mends it.

    A ledger works on such topics. Raises OperatorError.
    """
    topics = Topics(prefix)
    wanted = {topic.name: topic for topic in topic_settings(topics)}
    with _admin(kafka) as admin:
        there = _describe(admin, list(wanted))
    return [
        f"{note.what}: {note.why}. To change that: {note.mend}"
        for name, topic in there.items()
        if (note := compression_note(kafka, wanted[name], topic.configs)) is not None
    ]


class CompressionNote(NamedTuple):
    """How a topic is compressed, why that matters, and Kafka's command that mends it."""

    what: str
    why: str
    mend: str


def compression_note(
    kafka: KafkaConnection, wanted: TopicSettings, configs: Mapping[str, str]
) -> CompressionNote | None:
    """A note if a topic's ``compression.type`` is not the one that it should have."""
    found, right = configs.get("compression.type"), wanted.configs["compression.type"]
    if found == right:
        return None
    return CompressionNote(
        what=f"{wanted.name} has compression.type={found}",
        why=(
            "the broker does not bound what a reader decompresses, and one batch that is too large "
            "stops a partition"
            if right == "uncompressed"
            else "the broker compresses anew what its writer has compressed already"
        ),
        mend=alter_command(kafka, wanted.name, f"compression.type={right}"),
    )


def alter_command(kafka: KafkaConnection, topic: str, setting: str) -> str:
    """Kafka's own command that changes a topic's setting."""
    return (
        f"kafka-configs.sh --bootstrap-server {kafka} --entity-type topics --entity-name {topic} "
        f"--alter --add-config {setting}"
    )


def existing_partitions(kafka: KafkaConnection, prefix: str = "") -> int | None:
    """How many partitions a ledger's existing topics have: the fewest, as topics only grow.

    None if there are none. Raises OperatorError.
    """
    names = list(Topics(prefix).partitioned)
    with _admin(kafka) as admin:
        counts = [
            len(topic["partitions"])
            for topic in admin.describe_topics(names)
            if topic["error_code"] == 0
        ]
    return min(counts, default=None)


def ledger_mode(kafka: KafkaConnection, prefix: str = "") -> LedgerMode:
    """The mode of a ledger, which is the kind of timestamps of its input topics.

    They keep each record's own time (``importing``), have Kafka's (``live``), differ because a
    go-live was cut short (``going_live``), or do not exist (``absent``). Raises OperatorError.
    """
    topics = Topics(prefix)
    with _admin(kafka) as admin:
        there = _describe(admin, [topics.usage, topics.account])
    kinds = {topic.configs["message.timestamp.type"] for topic in there.values()}
    if len(there) != 2:
        return "absent"
    if len(kinds) == 2:
        return "going_live"
    return "importing" if kinds == {CREATE_TIME} else "live"


def is_importing(kafka: KafkaConnection, prefix: str = "") -> bool:
    """Whether the ledger is in import mode: its input topics keep each record's own time.

    Raises OperatorError if there is no ledger, or if a go-live was cut short.
    """
    mode = ledger_mode(kafka, prefix)
    if mode == "absent":
        raise _no_ledger(kafka, prefix)
    if mode == "going_live":
        raise TopicMismatch(
            "the input topics differ in message.timestamp.type: a go-live was cut short; finish it "
            "with `usageledger go-live`"
        )
    return mode == "importing"


def go_live(kafka: KafkaConnection, prefix: str = "") -> bool:
    """End import mode for good: from now on Kafka dates the records of both input topics.

    Returns whether the ledger was in import mode. Raises OperatorError.
    """
    from kafka.admin import ConfigResource, ConfigResourceType

    topics = Topics(prefix)
    with _admin(kafka) as admin:
        there = _describe(admin, [topics.usage, topics.account])
        if len(there) != 2:
            raise _no_ledger(kafka, prefix)
        dated = [
            name
            for name, topic in there.items()
            if topic.configs["message.timestamp.type"] != LOG_APPEND_TIME
        ]
        if dated:
            change = {"message.timestamp.type": LOG_APPEND_TIME}
            admin.alter_configs(
                [ConfigResource(ConfigResourceType.TOPIC, name, change) for name in dated]
            )
    return bool(dated)


def _refuse_mismatches(
    wanted: tuple[TopicSettings, ...], there: Mapping[str, TopicSettings]
) -> None:
    problems = [
        problem
        for topic in wanted
        if topic.name in there
        for problem in _mismatches(topic, there[topic.name])
    ]
    if problems:
        raise TopicMismatch(
            f"topics exist that do not fit: {'; '.join(problems)}. Nothing was altered. "
            f"{_next_step(wanted, there)} another --data or --prefix for a new ledger."
        )


def _next_step(wanted: tuple[TopicSettings, ...], there: Mapping[str, TopicSettings]) -> str:
    is_live = any(
        topic.configs["message.timestamp.type"] == CREATE_TIME
        and there[topic.name].configs["message.timestamp.type"] == LOG_APPEND_TIME
        for topic in wanted
        if topic.name in there
    )
    return "Start without --import, or name" if is_live else "Name"


def _mismatches(wanted: TopicSettings, there: TopicSettings) -> Iterator[str]:
    if there.partitions != wanted.partitions:
        yield f"{there.name} has {there.partitions} partitions, not {wanted.partitions}"
    if there.configs["message.timestamp.type"] != wanted.configs["message.timestamp.type"]:
        importing = wanted.configs["message.timestamp.type"] == CREATE_TIME
        in_import = "it is in import mode: `--import`, or `usageledger go-live`"
        reason = (
            "it is live, and a live ledger cannot go back to import mode"
            if importing
            else in_import
        )
        yield (
            f"{there.name} has message.timestamp.type={there.configs['message.timestamp.type']} "
            f"({reason})"
        )
    if there.configs["cleanup.policy"] != wanted.configs["cleanup.policy"]:
        yield (
            f"{there.name} has cleanup.policy={there.configs['cleanup.policy']}: the log is the "
            "truth and must not be compacted"
        )


def _create(admin: Any, missing: list[TopicSettings], replication_factor: int) -> None:
    from kafka.errors import KafkaError, TopicAlreadyExistsError

    for topic in missing:
        described = {
            "num_partitions": topic.partitions,
            "replication_factor": replication_factor,
            "configs": dict(topic.configs),
        }
        try:
            admin.create_topics({topic.name: described})
        except TopicAlreadyExistsError:
            continue
        except KafkaError as error:
            raise OperatorError(
                f"topic {topic.name} could not be made ({error}): see the broker's log, and repeat "
                "the command"
            ) from error
    admin.wait_for_topics([topic.name for topic in missing], timeout_ms=30_000)


def _describe(admin: Any, names: list[str]) -> dict[str, TopicSettings]:
    """The settings of those topics that exist. Raises OperatorError.

    A broker that has not heard of a new topic yet answers without its settings, so it is asked
    again for up to 20 seconds.
    """
    from kafka.admin import ConfigResource, ConfigResourceType

    found = {
        topic["name"]: len(topic["partitions"])
        for topic in admin.describe_topics(names)
        if topic["error_code"] == 0
    }
    if not found:
        return {}
    deadline_s = time.monotonic() + UNHEARD_OF_TIMEOUT_S
    while True:
        answer = admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, name) for name in found], config_filter="all"
        )["topic"]
        unheard_of = [name for name in found if not answer.get(name)]
        if not unheard_of:
            break
        if time.monotonic() >= deadline_s:
            raise OperatorError(
                f"the broker did not give the settings of {', '.join(unheard_of)} within "
                f"{UNHEARD_OF_TIMEOUT_S:.0f} s: repeat the command"
            )
        time.sleep(0.1)
    return {
        name: TopicSettings(
            name=name,
            partitions=count,
            configs={key: config["value"] for key, config in answer[name].items()},
        )
        for name, count in found.items()
    }


@contextmanager
def _admin(kafka: KafkaConnection) -> Iterator[Any]:
    """An admin client whose errors are raised as OperatorError."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # kafka-python's import warns under Python 3.11
        from kafka.errors import KafkaError
    try:
        with admin_client(kafka) as admin:
            yield admin
    except KafkaError as error:
        raise OperatorError(
            f"the Kafka broker at {kafka} did not do what was asked ({error}): see its log, "
            "and repeat the command"
        ) from error


def _no_ledger(kafka: KafkaConnection, prefix: str) -> OperatorError:
    which = f" with the prefix {prefix!r}" if prefix else ""
    return OperatorError(
        f"there is no ledger{which} at {kafka}: its input topics do not exist. Make it with "
        "`usageledger up`."
    )
