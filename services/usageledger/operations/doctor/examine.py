"""The examination: looks at everything once, in order, and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from msgspec import MsgspecError

from usageledger.counters.connection import Client, connect_blocking
from usageledger.counters.reading import read_heads
from usageledger.counters.replies import REDIS_FAILURES, view_error
from usageledger.counters.view import StoredHead, ViewError
from usageledger.domain.encoding import decode_head
from usageledger.domain.head import Head
from usageledger.ledger.timestamps import time_of
from usageledger.log.partition_counts import ledger_partition_count
from usageledger.log.reading import LogReader, log_reader
from usageledger.log.topics import Topics
from usageledger.operations.catalogs import published_catalogs
from usageledger.operations.doctor.codec_checks import CODECS, codec_findings
from usageledger.operations.doctor.finding import Area, Examination, Finding
from usageledger.operations.doctor.kafka_checks import FoundTopic, described_topics, topic_findings
from usageledger.operations.doctor.ledger_checks import (
    catalog_findings,
    clock_findings,
    is_verified,
    limits_findings,
    partition_count_findings,
    partition_findings,
    reused_id_findings,
    rules_findings,
    view_findings,
)
from usageledger.operations.doctor.redis_checks import redis_findings, refusal_finding
from usageledger.operations.errors import OperatorError
from usageledger.operations.kafka_probe import admin_client
from usageledger.operations.lags import lag_reader
from usageledger.operations.partition_states import partition_states
from usageledger.operations.reachability import require_listener
from usageledger.operations.waiting import is_true_within
from usageledger.runtime.kafka_connection import KafkaConnection

ANSWER_TIMEOUT_MS = 10_000
SECOND_LOOK_S = 2.0
VERIFIED_WITHIN_S = 5.0


def examine(kafka: KafkaConnection, redis_url: str, prefix: str) -> Examination:
    """Look at every area of a ledger.

    A server or topic that does not answer is a finding, and what depends on it is not looked at.
    """
    examination = Examination()
    topics = Topics(prefix)
    redis = connect_blocking(redis_url)
    try:
        has_topics = _examine_kafka(examination, kafka, topics)
        examination.add("codecs", ", ".join(CODECS), list(codec_findings()))
        has_redis = _examine_redis(examination, redis, redis_url, prefix)
        if has_topics and has_redis:
            with (
                _unanswered_as_finding(examination, "view", "usageledger status"),
                log_reader(kafka) as reader,
            ):
                _examine_ledger(examination, kafka, redis_url, topics, reader, redis)
    finally:
        redis.close()
    return examination


def _examine_kafka(examination: Examination, kafka: KafkaConnection, topics: Topics) -> bool:
    """Look at the brokers and the topics; return whether all five topics exist."""
    there: dict[str, FoundTopic] = {}
    with (
        _unanswered_as_finding(
            examination, "broker", "do what it says; `usageledger up` starts a broker here"
        ),
        _admin_at_once(kafka) as admin,
    ):
        brokers = admin.describe_cluster()["brokers"]
        fenced = [broker["broker_id"] for broker in brokers if broker.get("is_fenced")]
        findings = [
            Finding(
                area="broker",
                what=f"broker {broker} is fenced",
                why="what it holds has one copy less",
                mend="restart that broker and see its log",
            )
            for broker in fenced
        ]
        examination.add(
            "broker",
            f"{len(brokers)} broker{'' if len(brokers) == 1 else 's'} at {kafka}",
            findings,
        )
        there = described_topics(admin, [*topics.partitioned, topics.catalog])
        found = topic_findings(kafka, topics, there, len(brokers))
        count = there[topics.ledger].settings.partitions if topics.ledger in there else 0
        examination.add("topics", f"{len(there)} of 5 topics, {count} partitions", found)
    return len(there) == 5


@contextmanager
def _admin_at_once(kafka: KafkaConnection) -> Iterator[Any]:
    """An admin client. Raises OperatorError at once if there can be no connection."""
    require_listener(kafka)
    with admin_client(kafka, timeout_ms=ANSWER_TIMEOUT_MS) as admin:
        yield admin


def _examine_redis(examination: Examination, redis: Client, redis_url: str, prefix: str) -> bool:
    """Look at the servers; return whether they answer."""
    with _unanswered_as_finding(
        examination, "redis", "usageledger up, or start the Redis at that address"
    ):
        examination.add("redis", redis_url.rpartition("@")[2], list(redis_findings(redis, prefix)))
        return True
    return False


def _examine_ledger(
    examination: Examination,
    kafka: KafkaConnection,
    redis_url: str,
    topics: Topics,
    reader: LogReader,
    redis: Client,
) -> None:
    count = ledger_partition_count(reader, topics)
    redis_now, newest = _redis_now(redis), _newest_record_time(reader, topics.ledger, count)
    examination.add(
        "clocks",
        "this machine's, Redis's, and Kafka's by its newest record",
        list(clock_findings(datetime.now(UTC), redis_now, newest)),
    )
    stored, heads, unreadable = _heads(redis, topics.prefix, count)
    catalogs, end = published_catalogs(reader, topics.prefix), reader.end_offset(topics.catalog, 0)
    versions = f"{len(catalogs)} version{'' if len(catalogs) == 1 else 's'} published"
    examination.add("catalog", versions, list(catalog_findings(catalogs, end, heads)))
    examination.add("rules", "known to this release", list(rules_findings(heads)))
    if not unreadable:
        _examine_progress(examination, kafka, redis_url, topics)
    stored = _heads_once_verified(redis, topics.prefix, stored)
    examination.add(
        "view",
        f"{len(heads)} of {count} partitions have one that can be read",
        list(view_findings(reader, topics, stored, unreadable, _redis_now(redis))),
    )


def _examine_progress(
    examination: Examination, kafka: KafkaConnection, redis_url: str, topics: Topics
) -> None:
    with lag_reader(kafka, redis_url, topics.prefix, timeout_ms=ANSWER_TIMEOUT_MS) as lags:
        before = lags.look()
        time.sleep(SECOND_LOOK_S)
        after = lags.look()
        states = partition_states(after, lags.owner_reports(), lags.redis_refusal())
    idle = sum(state.name == "running/idle" for state in states)
    undecided = after.records("usage", "account", "catalog")
    examination.add(
        "partitions",
        f"{len(states)}, {idle} of them idle; {undecided:,} records to decide",
        [
            *partition_count_findings(after.difference, after.uncovered(topics)),
            *reused_id_findings(states),
            *partition_findings(states, "usageledger up (or `usageledger service processor`)"),
        ],
    )
    examination.add(
        "limits",
        f"{after.records('limits'):,} ledger records to announce",
        limits_findings(before, after, SECOND_LOOK_S),
    )


def _heads(
    redis: Client, prefix: str, count: int
) -> tuple[dict[int, StoredHead | None], dict[int, Head], list[int]]:
    """The stored heads, those that can be decoded, and the partitions of those that cannot."""
    stored: dict[int, StoredHead | None] = {}
    heads: dict[int, Head] = {}
    unreadable = []
    for partition in range(count):
        try:
            stored |= read_heads(redis, prefix, [partition])
            found = stored[partition]
            if found is not None:
                heads[partition] = decode_head(found.value)
        except (ViewError, MsgspecError) as error:
            if isinstance(error, ViewError) and error.retriable:
                raise
            stored[partition] = None
            unreadable.append(partition)
    return stored, heads, unreadable


def _heads_once_verified(
    redis: Client, prefix: str, stored: dict[int, StoredHead | None]
) -> dict[int, StoredHead | None]:
    """The heads, read again for a few seconds until each has been verified.

    An owner that has just started, or whose view was just rebuilt, verifies it within 2 seconds.
    """
    found = dict(stored)

    def read_unverified_again() -> bool:
        now = _redis_now(redis)
        unverified = [
            partition
            for partition, head in found.items()
            if head is not None and not is_verified(head, now)
        ]
        if unverified:
            found.update(read_heads(redis, prefix, unverified))
        return not unverified

    is_true_within(read_unverified_again, VERIFIED_WITHIN_S)
    return found


def _redis_now(redis: Client) -> datetime:
    """The clock of Redis, or of one of its nodes."""
    # A cluster answers by node.
    answer: Any = redis.time()  # type: ignore[no-untyped-call, unused-ignore]
    seconds, microseconds = next(iter(answer.values())) if isinstance(answer, dict) else answer
    return datetime.fromtimestamp(int(seconds) + int(microseconds) / 1_000_000, UTC)


def _newest_record_time(reader: LogReader, topic: str, count: int) -> datetime | None:
    """When Kafka appended the newest record of any partition, by the broker's clock."""
    ends = {partition: reader.end_offset(topic, partition) for partition in range(count)}
    last = [
        record
        for partition, end in ends.items()
        if end > 0
        for record in reader.read(topic, partition, end - 1, end)
    ]
    return max((time_of(record.timestamp_ms) for record in last), default=None)


@contextmanager
def _unanswered_as_finding(examination: Examination, area: Area, mend: str) -> Iterator[None]:
    """Turn an error that keeps an area from being looked at into a finding."""
    from kafka.errors import KafkaError

    from usageledger.log.reading import LogUnreadable

    try:
        yield
    except (KafkaError, OperatorError, LogUnreadable) as error:
        examination.add(area, "no answer", [_unanswered(area, error, mend)])
    except (ViewError, *REDIS_FAILURES) as error:
        examination.add(area, "no answer", [_unread(area, error, mend)])


def _unread(area: Area, error: Exception, mend: str) -> Finding:
    if area == "broker":  # a client of Kafka raises an OSError as well
        return _unanswered(area, error, mend)
    found = error if isinstance(error, ViewError) else view_error(error)
    if found.cause in (None, "unreachable"):
        return _unanswered(area, found, mend)
    return replace(refusal_finding(found), area=area)


def _unanswered(area: Area, error: Exception, mend: str) -> Finding:
    return Finding(
        area=area,
        what=f"it cannot be looked at: {error}",
        why="the ledger needs it",
        mend=mend,
    )
