"""The ledger itself: clocks, catalog, rules, partitions, views and limit events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from usageledger.counters.reading import verified_at
from usageledger.counters.view import StoredHead
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog_lint import lint
from usageledger.domain.claim import DECIDE_VERSION, knows_rules_of
from usageledger.domain.cycle import rules_version
from usageledger.domain.head import Head
from usageledger.ledger.reader_rule import HeadSearch
from usageledger.log.reading import LogReader
from usageledger.log.topics import Topics
from usageledger.operations.audit_verdict import uncovered_line
from usageledger.operations.doctor.finding import Area, Finding
from usageledger.operations.lags import LedgerLags
from usageledger.operations.partition_states import PartitionState

CLOCKS_APART_MAX = timedelta(seconds=2)
UNVERIFIED_MAX = timedelta(seconds=15)
LOOK_BACK_RECORDS = 100
LINT_SHOWN = 3


def clock_findings(
    now: datetime, redis_now: datetime, newest_record: datetime | None
) -> Iterator[Finding]:
    """Clocks that differ by more than 2 s.

    The broker's clock is known by its newest record, which cannot be later than now.
    """
    why = "holds, renewals and `as of` times go by these clocks"
    mend = "chronyc makestep (or timedatectl set-ntp true) on the machine that is wrong"
    if abs(now - redis_now) > CLOCKS_APART_MAX:
        yield _finding(
            "clocks", f"Redis's clock is {_apart(redis_now - now)} this machine's", why, mend
        )
    if newest_record is not None and newest_record - now > CLOCKS_APART_MAX:
        yield _finding(
            "clocks",
            f"Kafka has dated a record {_apart(newest_record - now)} this machine's clock",
            why,
            mend,
        )


def catalog_findings(
    catalogs: AdoptedCatalogs, end: int, heads: Mapping[int, Head]
) -> Iterator[Finding]:
    """Whether every partition has adopted the newest catalog, and what lint says of it."""
    if not catalogs:
        yield _finding(
            "catalog",
            "no catalog is published",
            "nothing is decided before one is",
            "usageledger catalog publish",
        )
        return
    behind = [partition for partition, head in heads.items() if head.catalog_next < end]
    if behind:
        yield _finding(
            "catalog",
            f"partitions {_numbers(behind)} have not adopted the newest catalog",
            "they rate by an older one",
            "usageledger status: see why those partitions make no progress",
        )
    newest = catalogs.catalogs[-1]
    found = lint(newest)
    if found:
        lines = [f"{each.where}: {each.message}" for each in found[:LINT_SHOWN]]
        if len(found) > LINT_SHOWN:
            lines.append(f"and {len(found) - LINT_SHOWN} more")
        yield _finding(
            "catalog",
            "\n".join([f"catalog {newest.version}", *lines]),
            "it may not be what was meant",
            "usageledger catalog lint",
            is_notice=True,
        )


def partition_count_findings(
    difference: str | None, uncovered: Mapping[tuple[str, int], int]
) -> Iterator[Finding]:
    """Topics with another partition count than the ledger was made with."""
    if difference is not None:
        what, _, next_step = difference.partition(": ")
        yield _finding(
            "partitions",
            what,
            f"nothing more is decided; {uncovered_line(uncovered)}"
            if uncovered
            else "nothing more is decided",
            next_step,
        )


def partition_findings(states: Sequence[PartitionState], service: str) -> Iterator[Finding]:
    """Partitions that do not go on by themselves. ``service`` starts a processor."""
    unowned = [state.partition for state in states if state.name == "no_owner"]
    if unowned:
        yield _finding(
            "partitions",
            f"partitions {_numbers(unowned)} have no owner",
            "what arrives there waits",
            service,
        )
    for state in states:
        if state.name == "stopped":
            mend = "usageledger status: its reason says what to do"
            if "usageledger " in state.detail:
                mend = f"usageledger {state.detail.rpartition('usageledger ')[2].rstrip('`')}"
            yield _finding(
                "partitions",
                f"partition {state.partition} has stopped: {state.detail}",
                "what arrives there waits",
                mend,
            )
        elif state.is_stuck:
            yield _finding(
                "partitions",
                f"partition {state.partition} makes no progress: {state.undecided:,} records wait, "
                f"{state.detail}",
                "its meters and limits do not change",
                "see the processor's log; it ends a stuck worker after a minute",
            )


def reused_id_findings(states: Sequence[PartitionState]) -> Iterator[Finding]:
    """Events whose id had been used before for other content, since the processors started."""
    reports = [state.report for state in states if state.report is not None]
    total = sum(report.ids_reused for report in reports)
    if total:
        last = next(report.last_id_reused for report in reports if report.ids_reused)
        yield _finding(
            "events",
            f"an id was used again for other content {_times(total)}, as by {last}",
            "such an event is refused and not charged: two services have one source or make the "
            "same ids, or somebody tries ids",
            "usageledger refusals list --reason id_reused_with_different_content",
            is_notice=True,
        )


def limits_findings(before: LedgerLags, after: LedgerLags, seconds: float) -> Iterator[Finding]:
    """Partitions with limit events to write, none of which was written between two looks."""
    lag = {each.partition: each.records for each in before.lags if each.what == "limits"}
    stalled = [
        each
        for each in after.lags
        if each.what == "limits" and each.records and each.records >= lag.get(each.partition, 0) > 0
    ]
    for each in stalled:
        yield _finding(
            "limits",
            f"partition {each.partition} has {each.records:,} ledger records to announce, and none "
            f"was announced in {seconds:.0f} s",
            "apps are not told to block an account or to offer an upgrade",
            "usageledger service limits; if it runs, its log says why the partition stopped",
        )


def rules_findings(heads: Mapping[int, Head]) -> Iterator[Finding]:
    """Partitions that were decided by rules which this release does not know."""
    newer = [partition for partition, head in heads.items() if not knows_rules_of(head)]
    if newer:
        head = heads[newer[0]]
        yield _finding(
            "rules",
            f"partitions {_numbers(newer)} are decided by rules {head.decide}, tzdata "
            f"{head.tzdata}; this release has {DECIDE_VERSION}, tzdata {rules_version()}",
            "this release must not decide or replay them",
            "pip install --upgrade usageledger",
        )


def view_findings(
    reader: LogReader,
    topics: Topics,
    heads: Mapping[int, StoredHead | None],
    unreadable: Sequence[int],
    redis_now: datetime,
) -> Iterator[Finding]:
    """Views that are not a fold of the log, or that no owner has verified lately.

    Only each view's head is compared; `audit verify` compares everything.
    """
    for partition, stored in heads.items():
        rebuild = f"usageledger rebuild --partition {partition}"
        if partition in unreadable:
            yield _finding(
                "view",
                f"the view of partition {partition} cannot be read",
                "its accounts cannot be shown or checked",
                rebuild,
            )
        elif stored is not None:
            yield from _head_findings(reader, topics, partition, stored, redis_now)
        elif reader.end_offset(topics.ledger, partition) > 0:
            yield _finding(
                "view",
                f"partition {partition} has a ledger and no view",
                "its accounts have no counters",
                rebuild,
            )


def _head_findings(
    reader: LogReader, topics: Topics, partition: int, stored: StoredHead, redis_now: datetime
) -> Iterator[Finding]:
    if not _is_prefix(reader, topics.ledger, partition, stored):
        yield _finding(
            "view",
            f"the view of partition {partition} is no prefix of its ledger",
            "its counters are not the log's",
            f"usageledger rebuild --partition {partition}",
        )
    if not is_verified(stored, redis_now):
        at = verified_at(stored).isoformat(sep=" ", timespec="seconds")
        verified = (
            f"was last verified at {at}"
            if stored.verified_at_ms
            else "has not been verified since it was made"
        )
        yield _finding(
            "view",
            f"the view of partition {partition} {verified}",
            "counters may be older than they look",
            "usageledger up (or `usageledger service processor`): its owner verifies it each "
            "second",
        )


def is_verified(stored: StoredHead, redis_now: datetime) -> bool:
    """Whether an owner has verified this view in the last 15 seconds."""
    return redis_now - verified_at(stored) <= UNVERIFIED_MAX


def _is_prefix(reader: LogReader, topic: str, partition: int, stored: StoredHead) -> bool:
    """Whether the last entry below the view's head is the one whose hash the head has."""
    stop, start = stored.position.next_offset, reader.start_offset(topic, partition)
    if stop > reader.end_offset(topic, partition):
        return False
    count, search = LOOK_BACK_RECORDS, HeadSearch(stored.position.hash)
    while stop > start and not search.is_over:
        begin = max(start, stop - count)
        search.see(reader.read(topic, partition, begin, stop))
        stop, count = begin, 10 * count
    return search.is_last


def _finding(area: Area, what: str, why: str, mend: str, *, is_notice: bool = False) -> Finding:
    return Finding(area=area, what=what, why=why, mend=mend, is_notice=is_notice)


def _apart(difference: timedelta) -> str:
    return (
        f"{abs(difference).total_seconds():.1f} s "
        f"{'ahead of' if difference > timedelta() else 'behind'}"
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _numbers(partitions: Sequence[int]) -> str:
    return ", ".join(map(str, partitions))
