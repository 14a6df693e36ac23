"""Proves from the log and the journals that no event was lost, doubled or left unannounced."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.http_worker import SOURCE
from tests.chaos.intruder import MARK, STRAY_EVENTS, grow_usage_topic
from tests.chaos.journal import read_journal
from tests.chaos.stage import PARTITIONS, PREFIX, Stage
from tests.valkey_server import running_valkey
from usageledger.audit.verify import verify
from usageledger.counters.connection import Client, connect, connect_blocking
from usageledger.counters.keys import PartitionKeys
from usageledger.counters.reading import read_heads
from usageledger.counters.redis_view import RedisView
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.chain import SealedEntry, entry_at
from usageledger.domain.claim import claim_of, decode_claim
from usageledger.domain.head import Head
from usageledger.domain.record_skip import SkippedPlace, SkippedTopic, place_of
from usageledger.ledger.limit_address import LimitAddress, read_limit_event
from usageledger.ledger.limit_events import limit_events
from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.records import Record
from usageledger.log.kafka_ledger import KafkaLedgerPartition
from usageledger.log.reading import LogReader, log_reader
from usageledger.operations.audit_verdict import verdict_line
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.catch_up import catch_up
from usageledger.sdk.producer.events import usage_voided

SHOWN_MAX = 5
AUDIT_FAULTS_MAX = 3

Identity = tuple[str, str, str, str]
"""Topic, account, source, id."""


@dataclass(slots=True)
class Finding:
    """The result of one check: its title, how many items it looked at, and which are wrong."""

    title: str
    looked_at: int = 0
    wrong: list[str] = field(default_factory=list)

    def check(self, is_right: bool, otherwise: str) -> None:
        """Count one more item. If it is not right, note ``otherwise``."""
        self.looked_at += 1
        if not is_right:
            self.wrong.append(otherwise)

    def __str__(self) -> str:
        shown = "".join(f"\n      {detail}" for detail in self.wrong[:SHOWN_MAX])
        more = (
            f"\n      … and {len(self.wrong) - SHOWN_MAX:,} more"
            if len(self.wrong) > SHOWN_MAX
            else ""
        )
        return (
            f"{'ok  ' if not self.wrong else 'FAIL'} {self.title}: {self.looked_at:,} checked, "
            f"{len(self.wrong):,} wrong{shown}{more}"
        )


@dataclass(slots=True)
class Log:
    """The records of the topics."""

    entries: list[list[SealedEntry]] = field(default_factory=list)
    entry_times: list[list[float]] = field(default_factory=list)
    input_times: list[float] = field(default_factory=list)
    """When Kafka appended each input."""
    decided_times: list[float] = field(default_factory=list)
    """When the first entry of each input was appended to the ledger."""
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    limit_records: list[list[Record]] = field(default_factory=list)
    junk: list[SkippedPlace] = field(default_factory=list)
    """The records of an intruder in the ledger and in the limit topic."""
    ledger_records: int = 0
    claims: int = 0

    def all_entries(self) -> Iterator[SealedEntry]:
        """The valid entries of all partitions."""
        for entries in self.entries:
            yield from entries


def read_log(stage: Stage) -> Log:
    """Read all topics from their beginning."""
    topics, log = stage.topics, Log()
    with log_reader(stage.kafka) as reader:
        for partition in range(PARTITIONS):
            entries, times = [], []
            for record in _all_records(reader, log, topics.ledger, partition):
                log.ledger_records += 1
                log.claims += decode_claim(record.value) is not None
                log.junk += _junk("ledger", partition, record)
                sealed = entry_at(record.offset, record.value)
                if sealed is not None:
                    entries.append(sealed)
                    times.append(record.timestamp_ms / 1000)
            log.decided_times += _decided_times(entries, times)
            log.entries.append(entries)
            log.entry_times.append(times)
            announced = list(_all_records(reader, log, topics.limit, partition))
            log.limit_records.append(announced)
            for record in announced:
                log.junk += _junk("limit", partition, record)
            for topic in (topics.usage, topics.account):
                log.input_times += [
                    record.timestamp_ms / 1000
                    for record in _all_records(reader, log, topic, partition)
                ]
    return log


def _junk(topic: SkippedTopic, partition: int, record: Record) -> list[SkippedPlace]:
    is_junk = MARK in (record.value or b"")
    return [place_of(topic, partition, record.offset, record.value)] if is_junk else []


def _decided_times(entries: Sequence[SealedEntry], times: Sequence[float]) -> Iterator[float]:
    before = None
    for sealed, at in zip(entries, times, strict=True):
        address = sealed.entry.input
        if address is not None and address != before and address.topic != "catalog":
            yield at
        before = address


def _all_records(reader: LogReader, log: Log, topic: str, partition: int) -> Iterator[Record]:
    end = log.ends[topic, partition] = reader.end_offset(topic, partition)
    return reader.read(topic, partition, 0, end)


def prove(stage: Stage, log: Log) -> list[Finding]:
    """All findings, the most important first."""
    decisions = _decisions(log)
    return [
        _every_journaled_use(stage, decisions),
        _every_journaled_command(stage, decisions),
        _every_stray_record(stage, log),
        _every_identity_charged_once(decisions),
        _every_input_decided_once(stage, log),
        _every_limit_event_once(log),
        *_subscriber_findings(stage, log),
        _store_equals_a_rebuild(stage, log),
        _audit(stage, log),
    ]


def _decisions(log: Log) -> dict[Identity, list[SealedEntry]]:
    found: dict[Identity, list[SealedEntry]] = defaultdict(list)
    for sealed in log.all_entries():
        entry = sealed.entry
        if entry.event is not None and entry.input is not None and entry.input.topic != "catalog":
            found[entry.input.topic, entry.account, entry.event.source, entry.event.id].append(
                sealed
            )
    return found


def _every_journaled_use(
    stage: Stage, decisions: Mapping[Identity, Sequence[SealedEntry]]
) -> Finding:
    """Each use is accepted once, or refused for the reason that the worker expected.

    Periods are short here. While an event waits on a disk through an outage, two of them may end.
    Then the ledger may refuse it for that reason too.
    """
    finding = Finding("events that workers journaled are in the ledger, once each")
    expected: dict[Identity, set[str]] = defaultdict(set)
    for actor in stage.of_role("worker"):
        for line in read_journal(stage.journal_of(actor)):
            arguments = line["arguments"]
            if line["what"] == "record":
                expected["usage", arguments["account"], "render", arguments["id"]].add(
                    line["expect"]
                )
            else:
                void = usage_voided(
                    source="render",
                    account=arguments["account"],
                    usage_source="render",
                    usage_id=arguments["id"],
                    reason=arguments["reason"],
                    now=datetime.now(UTC),
                )
                expected["account", arguments["account"], "render", str(void["id"])].add("void")
    for actor in stage.of_role("http_worker"):
        for line in read_journal(stage.journal_of(actor)):
            if line["what"] == "record":
                arguments = line["arguments"]
                expected["usage", arguments["account"], SOURCE, arguments["id"]].add("accepted")
    for identity, expectations in expected.items():
        found = decisions.get(identity, ())
        kinds = Counter(sealed.entry.kind for sealed in found)
        reasons = {sealed.entry.reason for sealed in found if sealed.entry.kind == "refusal"}
        what_was_found = f"{identity}: {dict(kinds)}, refused for {reasons or 'nothing'}"
        if "void" in expectations:
            finding.check(kinds["void"] == 1 or reasons == {"period_closed"}, what_was_found)
        elif expectations == {"unknown_model"}:
            finding.check(kinds["usage"] == 0 and "unknown_model" in reasons, what_was_found)
        else:
            finding.check(
                kinds["usage"] == 1 or (kinds["usage"] == 0 and reasons == {"period_closed"}),
                what_was_found,
            )
    return finding


def _every_journaled_command(
    stage: Stage, decisions: Mapping[Identity, Sequence[SealedEntry]]
) -> Finding:
    finding = Finding("commands that billing journaled are in the ledger, in force once at most")
    for actor in stage.of_role("billing"):
        for line in read_journal(stage.journal_of(actor)):
            arguments = line["arguments"]
            found = decisions.get(("account", arguments["account"], "billing", arguments["id"]), ())
            in_force = {
                sealed.entry.input
                for sealed in found
                if sealed.entry.kind not in ("refusal", "duplicate")
            }
            finding.check(
                bool(found) and len(in_force) <= 1,
                f"{line['what']} {arguments}: {len(found)} entries, in force by {in_force}",
            )
    return finding


def _every_stray_record(stage: Stage, log: Log) -> Finding:
    finding = Finding(
        "malformed records that Kafka acknowledged are refused in order, with the reason"
    )
    refused: dict[tuple[str, int, int], set[str | None]] = {
        (sealed.entry.input.topic, sealed.entry.input.partition, offset): (
            {sealed.entry.reason} if sealed.entry.run is None else set(sealed.entry.run.reasons)
        )
        for sealed in log.all_entries()
        if sealed.entry.kind == "refusal" and sealed.entry.input is not None
        for offset in sealed.entry.input_offsets
    }
    names = {stage.topics.usage: "usage", stage.topics.account: "account"}
    for actor in stage.of_role("stranger"):
        for line in read_journal(stage.journal_of(actor)):
            place = (names[line["topic"]], line["partition"], line["offset"])
            finding.check(
                line["reason"] in refused.get(place, ()),
                f"{place}: {refused.get(place)!r}, not {line['reason']!r}",
            )
    return finding


def _every_identity_charged_once(decisions: Mapping[Identity, Sequence[SealedEntry]]) -> Finding:
    finding = Finding("identities are charged at most once")
    for identity, found in decisions.items():
        charged = [sealed.entry.offset for sealed in found if sealed.entry.kind == "usage"]
        finding.check(len(charged) <= 1, f"{identity} was charged at {charged}")
    return finding


def _every_input_decided_once(stage: Stage, log: Log) -> Finding:
    """Every record of both inputs is accepted, a duplicate or refused, in order, and only once."""
    finding = Finding("input records have one decision each, in order")
    for partition, entries in enumerate(log.entries):
        for name, topic in (("usage", stage.topics.usage), ("account", stage.topics.account)):
            decided = [
                offset
                for s in entries
                if s.entry.input is not None and s.entry.input.topic == name
                for offset in s.entry.input_offsets
            ]
            # An input may have several entries, one directly after the other.
            once = [
                offset for n, offset in enumerate(decided) if n == 0 or decided[n - 1] != offset
            ]
            end = log.ends[topic, partition]
            finding.looked_at += end
            if once != list(range(end)):
                missing, again = (
                    sorted(set(range(end)) - set(once)),
                    [o for o, n in Counter(once).items() if n > 1],
                )
                finding.wrong.append(
                    f"{topic}/{partition}: of {end} records, {missing[:9]} have no decision and "
                    f"{again[:9]} have several"
                )
    return finding


def _every_limit_event_once(log: Log) -> Finding:
    """A reader sees exactly the crossings of the ledger, in their order.

    It drops each event that is not beyond the last one it has seen.
    """
    finding = Finding("crossings are announced once each, by their ids")
    for partition, entries in enumerate(log.entries):
        crossed = [message.value for sealed in entries for message in limit_events(sealed.entry)]
        seen: list[bytes] = []
        last: LimitAddress | None = None
        for record in log.limit_records[partition]:
            if MARK in (record.value or b""):
                continue
            _, place = read_limit_event(record.value)
            if place.is_beyond(last):
                seen.append(record.value or b"")
                last = place
        finding.looked_at += len(crossed)
        if seen != crossed:
            at = next(
                (n for n, (a, b) in enumerate(zip(seen, crossed, strict=False)) if a != b),
                min(len(seen), len(crossed)),
            )
            finding.wrong.append(
                f"partition {partition}: {len(seen)} announced, {len(crossed)} crossed; the first "
                f"difference is at event {at}"
            )
    return finding


def crossed_ids(log: Log) -> set[str]:
    """The ids of all limit events that follow from the ledger."""
    return {
        message.address.id for sealed in log.all_entries() for message in limit_events(sealed.entry)
    }


def blocked_accounts(log: Log) -> set[str]:
    """The accounts that are blocked at the end."""
    blocked: set[str] = set()
    for sealed in log.all_entries():
        for crossing in sealed.entry.crossings:
            if crossing.type == "limit.reached":
                blocked.add(sealed.entry.account)
            elif crossing.type == "limit.cleared":
                blocked.discard(sealed.entry.account)
    return blocked


def heard_lines(path: Path) -> list[dict[str, Any]]:
    """The notes of a subscriber. A line cut short by a kill does not count."""
    lines = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def missing_ids(stage: Stage, log: Log) -> dict[str, set[str]]:
    """By app: the limit events that did not reach it.

    The instances of a group are one app.
    """
    heard: dict[str, set[str]] = defaultdict(set)
    for actor in stage.of_role("listener"):
        heard[_app_of(actor.name)] |= {line["id"] for line in heard_lines(stage.heard_by(actor))}
    return {app: crossed_ids(log) - ids for app, ids in heard.items()}


def _app_of(name: str) -> str:
    return "the app without a group" if name.endswith("3") else "the group"


def _subscriber_findings(stage: Stage, log: Log) -> list[Finding]:
    reached = Finding("limit events reached the subscribers, and nothing else did")
    crossed = crossed_ids(log)
    for app, missing in missing_ids(stage, log).items():
        reached.looked_at += len(crossed)
        reached.wrong += [f"{app} was not notified of {id}" for id in sorted(missing)]
    once = Finding(
        "a subscriber without a group is notified of each event once in each of its lives, in order"
    )
    views = Finding("subscribers hold the right accounts for blocked")
    blocked = blocked_accounts(log)
    for actor in stage.of_role("listener"):
        lines = heard_lines(stage.heard_by(actor))
        reached.wrong += [
            f"{actor.name} was notified of {line['id']}, which nothing crossed"
            for line in lines
            if line["id"] not in crossed
        ]
        if actor.name.endswith("3"):
            _check_lives(once, lines)
        try:
            said = set(json.loads(stage.blocked_at(actor).read_text())["blocked"])
        except (OSError, ValueError) as error:
            views.check(False, f"{actor.name} said nothing: {error}")
        else:
            views.check(
                said == blocked, f"{actor.name} differs in {sorted(said ^ blocked)[:SHOWN_MAX]}"
            )
    return [reached, once, views]


def _check_lives(finding: Finding, lines: Sequence[dict[str, Any]]) -> None:
    last: dict[tuple[str, int], tuple[int, int]] = {}
    for line in lines:
        partition, offset, index = (int(part) for part in line["id"].split("-"))
        before = last.get((line["life"], partition), (-1, -1))
        finding.check(
            (offset, index) > before,
            f"{line['life']} was notified of {line['id']} after "
            f"{partition}-{before[0]}-{before[1]}",
        )
        last[line["life"], partition] = (offset, index)


def _store_equals_a_rebuild(stage: Stage, log: Log) -> Finding:
    """Fold the whole ledger into an empty store, and compare every key to the byte."""
    finding = Finding("keys of the store are byte for byte those of a rebuild")
    with (
        running_valkey(stage.directory / "rebuilt") as scratch,
        closing(connect_blocking(stage.store.url, timeout_s=10.0)) as live,
    ):
        heads = read_heads(live, PREFIX, range(PARTITIONS))
        with closing(connect_blocking(scratch.url, timeout_s=10.0)) as rebuilt:
            for partition in range(PARTITIONS):
                stored = heads[partition]
                if stored is None:
                    finding.check(False, f"partition {partition} has no head")
                    continue
                beyond = [
                    sealed.entry.offset
                    for sealed in log.entries[partition]
                    if sealed.entry.offset >= stored.position.next_offset
                ]
                finding.check(
                    not beyond,
                    f"partition {partition} stands at {stored.position.next_offset}, entries lie "
                    f"at {beyond[:5]}",
                )
                asyncio.run(_rebuild(stage, scratch.url, partition, stored.position.next_offset))
                ours, theirs = _keys_of(live, partition), _keys_of(rebuilt, partition)
                for key in sorted(ours.keys() | theirs.keys()):
                    finding.check(
                        ours.get(key) == theirs.get(key),
                        f"{key}: {_difference(ours.get(key), theirs.get(key))}",
                    )
    return finding


async def _rebuild(stage: Stage, url: str, partition: int, stop: int) -> None:
    catalogs = CatalogLog()
    with log_reader(stage.kafka) as reader:
        topic = stage.topics.catalog
        catalogs.put(list(reader.read(topic, 0, 0, reader.end_offset(topic, 0))))
        first = next(iter(reader.read(stage.topics.ledger, partition, 0, 1)))
    begun_by = decode_claim(first.value)
    assert begun_by is not None
    claim = claim_of(partition, begun_by.ledger, "rebuild")
    head = Head(ledger=claim.ledger, decide=claim.decide, tzdata=claim.tzdata)
    book = PartitionBook(partition, PARTITIONS, head, AdoptedCatalogs())
    ledger = KafkaLedgerPartition(kafka=stage.kafka, topic=stage.topics.ledger, partition=partition)
    redis = connect(url)
    try:
        await catch_up(
            book,
            ledger=ledger,
            view=RedisView(redis, PREFIX, partition),
            catalogs=catalogs,
            claimed_at=stop - 1,
        )
    finally:
        await redis.aclose()
        await ledger.close()


def _keys_of(client: Client, partition: int) -> dict[str, Any]:
    """Every key of a partition, without when its head was last verified."""
    keys = PartitionKeys(PREFIX, partition)
    # redis-py's types also cover its asynchronous client.
    head: dict[bytes, bytes] = client.hgetall(keys.head)  # type: ignore[assignment]
    head.pop(b"verified_at_ms", None)
    windows = [int(window) for window in head.get(b"windows", b"").split()]
    named = [keys.accounts, *(keys.identities(window) for window in windows)]
    due = client.zrange(keys.due, 0, -1, withscores=True)
    return {keys.head: head, keys.due: due} | {name: client.hgetall(name) for name in named}


def _difference(ours: Any, theirs: Any) -> str:
    if ours == theirs or not isinstance(ours, dict) or not isinstance(theirs, dict):
        return f"{str(ours)[:200]} and not {str(theirs)[:200]}"
    fields = [
        field for field in ours.keys() | theirs.keys() if ours.get(field) != theirs.get(field)
    ]
    return (
        f"{len(fields)} fields, such as {fields[0]!r}: {ours.get(fields[0])!r} and not "
        f"{theirs.get(fields[0])!r}"
    )


def _audit(stage: Stage, log: Log) -> Finding:
    report = verify(stage.kafka, stage.store.url, PREFIX)
    found, junk = set(report.invalid_records), set(log.junk)
    report.invalid_records = []
    finding = Finding(
        f"audit verify names {len(found)} records of an intruder, and the rest is "
        f"{verdict_line(report)}",
        looked_at=report.counts.entries,
        wrong=list(report.differences[:AUDIT_FAULTS_MAX]),
    )
    if report.undecided_inputs or report.unwritten_limit_events:
        finding.wrong.append(
            f"{report.undecided_inputs} inputs and {report.unwritten_limit_events} limit events "
            "still wait"
        )
    if found != junk:
        finding.wrong.append(
            f"it named {len(found)} records of an intruder, {len(junk)} are there; one or the "
            f"other alone: {list(found ^ junk)[:SHOWN_MAX]}"
        )
    return finding


def no_finished_generation_keeps_its_hold(stage: Stage) -> Finding:
    """Ask the gateway, once everything is decided.

    In a failover the store may forget a hold, which is then gone. The entry of a use settles its
    hold, whatever the store forgot.
    """
    finding, settled = Finding(""), 0
    with httpx.Client(
        base_url=stage.gateway,
        headers={"Authorization": f"Bearer {stage.key}"},
        transport=httpx.HTTPTransport(retries=3),
        timeout=30.0,
    ) as client:
        for actor in stage.of_role("http_worker"):
            for line in read_journal(stage.journal_of(actor)):
                if line["what"] != "record":
                    continue
                account, hold = line["arguments"]["account"], line["arguments"]["id"]
                answer = client.get(f"/v1/accounts/{account}/holds/{hold}")
                state = answer.json().get("state")
                settled += state == "settled"
                finding.check(
                    answer.status_code == 404 or state == "settled",
                    f"{account}/{hold}: {answer.status_code} {state}",
                )
    finding.title = f"no reported generation keeps its hold: {settled:,} settled, the others gone"
    return finding


def a_grown_topic_is_noticed(stage: Stage) -> Finding:
    """Grow the usage topic under running processors: the end of this ledger.

    It cannot be undone, so it comes after everything else.
    """
    for actor in stage.of_role("processor"):
        actor.is_wanted = True
    finding = Finding("a grown usage topic stops the ledger, and the audit counts what it lacks")
    finding.looked_at = STRAY_EVENTS
    finding.wrong += grow_usage_topic(stage)
    return finding
