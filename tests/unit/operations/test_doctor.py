"""The findings of `doctor`, each with the command that mends it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import aiokafka.codec
import kafka.codec
import pytest
from redis import exceptions

from usageledger.counters.owner_reports import OwnerReport
from usageledger.counters.replies import view_error
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog_document import load_shipped_catalog
from usageledger.domain.claim import DECIDE_VERSION
from usageledger.domain.head import Head
from usageledger.log import bounded_codecs
from usageledger.log.topics import Topics
from usageledger.operations.doctor.codec_checks import codec_findings
from usageledger.operations.doctor.finding import Examination, Finding
from usageledger.operations.doctor.kafka_checks import FoundTopic, topic_findings
from usageledger.operations.doctor.ledger_checks import (
    catalog_findings,
    clock_findings,
    limits_findings,
    partition_findings,
    reused_id_findings,
    rules_findings,
)
from usageledger.operations.doctor.redis_checks import (
    cluster_findings,
    refusal_finding,
    server_findings,
)
from usageledger.operations.lags import Lag, LedgerLags
from usageledger.operations.partition_states import PartitionState
from usageledger.operations.topics import topic_settings
from usageledger.runtime.kafka_connection import KafkaConnection

TOPICS = Topics("acme")
KAFKA = KafkaConnection(servers="k:1")
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
HEALTHY = {"unclean.leader.election.enable": "false", "min.insync.replicas": "2"}
KNOWN = Head(ledger="l", catalog_next=1, decide=DECIDE_VERSION, tzdata="2020.1")


def found_topics() -> dict[str, FoundTopic]:
    return {
        wanted.name: FoundTopic(
            settings=replace(wanted, configs={**wanted.configs, **HEALTHY}), replicas=3
        )
        for wanted in topic_settings(TOPICS, partitions=4)
    }


def with_config(there: dict[str, FoundTopic], topic: str, **configs: str) -> None:
    settings = there[topic].settings
    changed = {
        **settings.configs,
        **{name.replace("_", "."): value for name, value in configs.items()},
    }
    there[topic] = replace(there[topic], settings=replace(settings, configs=changed))


def whats_and_mends(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    return [(finding.what, finding.mend) for finding in findings]


def test_topics_as_they_should_be_have_no_findings() -> None:
    assert whats_and_mends(topic_findings(KAFKA, TOPICS, found_topics(), 3)) == []


@pytest.mark.parametrize(
    ("topic", "configs", "what", "mend"),
    [
        (
            "ledger",
            {"cleanup_policy": "compact"},
            "cleanup.policy=compact",
            "--add-config cleanup.policy=delete",
        ),
        (
            "usage",
            {"retention_ms": "604800000"},
            "retention.ms=604800000",
            "--add-config retention.ms=-1",
        ),
        ("limit", {"retention_bytes": "5"}, "retention.bytes=5", "--add-config retention.bytes=-1"),
        (
            "ledger",
            {"message_timestamp_type": "CreateTime"},
            "timestamp.type=CreateTime",
            "message.timestamp.type=LogAppendTime",
        ),
        (
            "ledger",
            {"max_message_bytes": "1048588"},
            "max.message.bytes=1048588",
            "max.message.bytes=8388608",
        ),
        (
            "account",
            {"unclean_leader_election_enable": "true"},
            "unclean leader",
            "unclean.leader.election.enable=false",
        ),
        ("catalog", {"min_insync_replicas": "1"}, "min.insync.replicas=1", "min.insync.replicas=2"),
        (
            "usage",
            {"message_timestamp_type": "CreateTime"},
            "go-live was cut short",
            "usageledger go-live",
        ),
    ],
)
def test_each_wrong_setting_is_found_with_the_command_that_mends_it(
    topic: str, configs: dict[str, str], what: str, mend: str
) -> None:
    there = found_topics()
    with_config(there, getattr(TOPICS, topic), **configs)
    [(found, command)] = whats_and_mends(topic_findings(KAFKA, TOPICS, there, 3))
    assert what in found
    assert mend in command


def test_topics_without_copies_or_leaders_and_missing_topics_are_found() -> None:
    there = found_topics()
    there[TOPICS.usage] = replace(there[TOPICS.usage], replicas=1)
    there[TOPICS.account] = replace(there[TOPICS.account], lagging=[2], leaderless=[3])
    there[TOPICS.limit] = replace(
        there[TOPICS.limit], settings=replace(there[TOPICS.limit].settings, partitions=5)
    )
    del there[TOPICS.catalog]
    found = " | ".join(what for what, _ in whats_and_mends(topic_findings(KAFKA, TOPICS, there, 3)))
    for what in (
        "1 replica on 3",
        "no leader for partitions 3",
        "in-sync copies of partitions 2",
        "limit.events.v1 5",
        "no topic acme.catalog",
    ):
        assert what in found
    assert len(found.split(" | ")) == 5


def test_one_broker_is_not_asked_for_copies() -> None:
    there = {name: replace(found, replicas=1) for name, found in found_topics().items()}
    assert whats_and_mends(topic_findings(KAFKA, TOPICS, there, 1)) == []


def test_a_redis_that_is_full_cannot_write_or_has_no_replica_is_found() -> None:
    about = {
        "used_memory": 90,
        "maxmemory": 100,
        "aof_last_write_status": "err",
        "connected_slaves": 0,
    }
    found = list(server_findings("h:1", about))
    assert [finding.is_notice for finding in found] == [False, False, True]
    assert "90 %" in found[0].what
    assert (
        list(server_findings("h:1", {"used_memory": 80, "maxmemory": 100, "connected_slaves": 1}))
        == []
    )


def test_a_redis_that_refuses_is_found_with_its_cause_and_what_to_do() -> None:
    finding = refusal_finding(view_error(exceptions.OutOfMemoryError("command not allowed")))
    assert (finding.what, finding.mend) == (
        "Redis is full and writes nothing", "raise its maxmemory, or make room in it",
    )  # fmt: skip


def test_a_cluster_that_does_not_serve_every_slot_is_found() -> None:
    assert (
        whats_and_mends(cluster_findings({"cluster_state": "ok", "cluster_slots_ok": "16384"}))
        == []
    )
    [(what, _)] = whats_and_mends(
        cluster_findings({"cluster_state": "fail", "cluster_slots_ok": "10923"})
    )
    assert "10923 of 16384" in what


@pytest.mark.parametrize(
    ("apart_s", "is_found"), [(-2.0, False), (2.0, False), (2.001, True), (-2.001, True)]
)
def test_redis_and_this_machine_may_differ_by_two_seconds(apart_s: float, is_found: bool) -> None:
    assert bool(list(clock_findings(NOW, NOW + timedelta(seconds=apart_s), None))) == is_found


def test_a_record_from_the_future_shows_that_the_brokers_clock_is_ahead() -> None:
    [finding] = clock_findings(NOW, NOW, NOW + timedelta(seconds=90))
    assert "90.0 s ahead of this machine's clock" in finding.what
    assert list(clock_findings(NOW, NOW, NOW - timedelta(days=90))) == []


def test_a_missing_or_unadopted_catalog_is_found_and_lint_is_a_notice() -> None:
    assert "no catalog" in next(catalog_findings(AdoptedCatalogs(), 0, {})).what
    published = AdoptedCatalogs((load_shipped_catalog(),))
    behind = list(catalog_findings(published, 1, {0: KNOWN, 1: Head(ledger="l")}))
    assert (behind[0].what, behind[0].is_notice) == (
        "partitions 1 have not adopted the newest catalog",
        False,
    )
    [notice] = catalog_findings(published, 1, {0: KNOWN})
    assert notice.is_notice
    assert len(notice.what.splitlines()) > 2, "each finding of the lint has a line"


def test_rules_that_this_release_does_not_know_are_found() -> None:
    newer = Head(ledger="l", decide=DECIDE_VERSION + 1, tzdata="2020.1")
    assert list(rules_findings({0: KNOWN})) == []
    [finding] = rules_findings({0: KNOWN, 3: newer})
    assert "partitions 3" in finding.what


def test_a_stopped_partition_is_found_with_the_command_that_its_stop_names() -> None:
    reason = (
        "the code fails on usage 1-5: …; or leave it out: usageledger processor skip 1@5 --topic "
        "usage --reason TEXT"
    )
    states = [
        PartitionState(0, {"usage": 9}, OwnerReport(worker="w", state="running")),
        PartitionState(1, {}, OwnerReport(worker="w", state="stopped", stopped_because=reason)),
        PartitionState(2, {}, None),
        PartitionState(
            3, {"usage": 9}, OwnerReport(worker="w", state="running", no_progress_s=30.0)
        ),
    ]
    found = whats_and_mends(partition_findings(states, "usageledger up"))
    assert [what.split(":")[0] for what, _ in found] == [
        "partitions 2 have no owner", "partition 1 has stopped", "partition 3 makes no progress",
    ]  # fmt: skip
    assert found[1][1] == "usageledger processor skip 1@5 --topic usage --reason TEXT"


def test_ids_that_were_used_again_are_found_with_the_last_one() -> None:
    report = OwnerReport(worker="w", state="running", ids_reused=2, last_id_reused="a /render u1")
    states = [PartitionState(0, {}, None), PartitionState(1, {}, report)]
    [finding] = reused_id_findings(states)
    assert "2 times, as by a /render u1" in finding.what
    assert finding.is_notice
    assert list(reused_id_findings(states[:1])) == []


@pytest.mark.parametrize(
    ("before", "after", "is_found"),
    [(5, 5, True), (5, 6, True), (5, 4, False), (0, 5, False), (5, 0, False)],
)
def test_limit_events_that_stay_unwritten_are_found(
    before: int, after: int, is_found: bool
) -> None:
    first, second = (LedgerLags((Lag("limits", 0, records),), {}) for records in (before, after))
    assert bool(list(limits_findings(first, second, 2.0))) == is_found


def test_notices_alone_leave_a_ledger_well() -> None:
    examination = Examination()
    examination.add(
        "redis", "h:1", [Finding(area="redis", what="w", why="y", mend="m", is_notice=True)]
    )
    assert (examination.is_well, examination.worst("redis")) == (True, "notice")
    examination.add("clocks", "", [Finding(area="clocks", what="w", why="y", mend="m")])
    assert (examination.is_well, examination.worst("clocks")) == (False, "finding")


def test_every_codec_is_read_by_both_libraries() -> None:
    assert list(codec_findings()) == []


def test_a_codec_whose_library_is_missing_names_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setattr(kafka.codec, "zstd", None)
    monkeypatch.setattr(aiokafka.codec, "cramjam", None)
    monkeypatch.setitem(sys.modules, "cramjam", None)
    found = {finding.what.partition(":")[0]: finding.mend for finding in codec_findings()}
    assert found == {
        "aiokafka cannot read snappy": "pip install cramjam",
        "aiokafka cannot read lz4": "pip install cramjam",
        "aiokafka cannot read zstd": "pip install zstandard cramjam",
        "kafka-python cannot read zstd": "pip install zstandard",
    }


def test_a_codec_that_decodes_to_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bounded_codecs._DECODERS, "lz4", lambda payload, bytes_max: b"")
    assert {finding.what.split(":")[0] for finding in codec_findings()} == {
        "aiokafka cannot read lz4",
        "kafka-python cannot read lz4",
    }


@pytest.mark.parametrize(
    ("topic", "found", "right"),
    [
        (TOPICS.usage, "producer", "uncompressed"),
        (TOPICS.account, "zstd", "uncompressed"),
        (TOPICS.catalog, "producer", "uncompressed"),
        (TOPICS.ledger, "lz4", "producer"),
        (TOPICS.limit, "uncompressed", "producer"),
    ],
)
def test_a_topic_that_is_compressed_in_another_way_is_found(
    topic: str, found: str, right: str
) -> None:
    there = found_topics()
    with_config(there, topic, compression_type=found)
    assert whats_and_mends(topic_findings(KAFKA, TOPICS, there, broker_count=3)) == [
        (
            f"{topic} has compression.type={found}",
            "kafka-configs.sh --bootstrap-server k:1 --entity-type topics --entity-name "
            f"{topic} --alter --add-config compression.type={right}",
        )
    ]
