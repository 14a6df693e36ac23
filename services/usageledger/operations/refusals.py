"""Refused inputs: how they are shown, which may be sent again, and what is sent then.

The console lists them from the history, the command line from a scan of the ledger. Everything
after the list is shared and is here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from usageledger.domain.chain import SealedEntry
from usageledger.domain.entry import InputAddress
from usageledger.domain.refusal import Refusal
from usageledger.ledger.partitioning import partition_of
from usageledger.ledger.records import Record
from usageledger.ledger.refused_input import EventIdentity, RefusedInput, event_identity
from usageledger.log.reading import LogReader, LogUnreadable
from usageledger.log.topics import Topics
from usageledger.operations.event_file import OutgoingRecord

CAN_CHANGE = tuple(
    refusal.value
    for refusal in (
        Refusal.UNKNOWN_MODEL,
        Refusal.UNKNOWN_FEATURE,
        Refusal.UNKNOWN_PLAN,
        Refusal.UNKNOWN_ACCOUNT,
    )
)
"""The reasons that another catalog, or opening the account, removes."""

Hindrance = Literal["not_found", "already_resolved", "not_sendable", "gone"]

HINDRANCES: Mapping[Hindrance, str] = {
    "not_found": "no refusal is known at that address",
    "already_resolved": "the same event has been accepted since",
    "not_sendable": "a catalog cannot be sent again: publish it under another version",
    "gone": "the refused record is no longer in its topic",
}
"""Why a refused input is not sent again, in words."""


def refused_inputs(entries: Iterable[SealedEntry]) -> list[RefusedInput]:
    """The refused inputs among a ledger's entries, in their order."""
    refused: list[RefusedInput] = []
    unresolved: dict[EventIdentity, list[int]] = {}
    for sealed in entries:
        entry = sealed.entry
        if entry.input is None:
            continue
        identity = event_identity(entry)
        if entry.kind != "refusal":
            for index in unresolved.pop(identity, ()) if identity is not None else ():
                refused[index] = replace(refused[index], is_resolved=True)
            continue
        if identity is not None:
            unresolved.setdefault(identity, []).append(len(refused))
        refused.append(
            RefusedInput(
                partition=entry.partition,
                offset=entry.offset,
                appended_at=entry.appended_at,
                account=entry.account,
                reason=entry.reason or "",
                detail=entry.detail or "",
                input=entry.input,
                event=identity,
                feature=entry.feature,
                model=entry.model,
                run=entry.run,
            )
        )
    return refused


def refusal_row(refusal: RefusedInput) -> dict[str, Any]:
    """A refused input as the API and ``refusals list --json`` show it."""
    event = refusal.event
    return {
        "entry": refusal.entry,
        "account": refusal.account or None,
        "reason": refusal.reason,
        "detail": refusal_detail(refusal),
        "appended_at": refusal.appended_at,
        "event": None if event is None else {"source": event.source, "id": event.id},
        "feature": refusal.feature,
        "model": refusal.model,
        "is_resolved": refusal.is_resolved,
        "place": refusal.place,
        "records": 1 if refusal.run is None else refusal.run.records,
        "reasons": None if refusal.run is None else refusal.run.reasons,
    }


def refusal_detail(refusal: RefusedInput) -> str:
    """The fault in words: the ledger's own, or those for the reason; often empty."""
    if refusal.run is not None:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in refusal.run.reasons.items())
        return (
            f"{refusal.run.records:,} records in a row, up to offset {refusal.input.offset}: "
            f"{counts}. The first: {refusal.detail}"
        )
    return refusal.detail or refusal_text(
        refusal.reason, {"feature": refusal.feature, "model": refusal.model}
    )


def refusal_text(reason: str, data: Mapping[str, Any]) -> str:
    """A refusal in words: what was asked for, and what to do. Empty where the reason says it all.

    ``data`` is the event's, or as much of it as is known.
    """
    plan, feature, model, time_zone = (
        data.get(name) for name in ("plan", "feature", "model", "time_zone")
    )
    a_plan, the_plan = (f"a plan {plan!r}", f"plan {plan!r}") if plan else ("the plan",) * 2
    texts = {
        "unknown_plan": f"no catalog has {a_plan}: `usageledger catalog show` lists them",
        "plan_has_no_cycle": f"{the_plan} has no billing cycle, so nothing is subscribed to: "
        "`usageledger account cancel` ends a subscription",
        "unknown_feature": f"no catalog has a feature {feature!r}: `usageledger catalog show` "
        "lists them",
        "unknown_model": f"no catalog has a rate for model {model!r} of {feature!r}: `usageledger "
        "catalog show` lists them"
        if model
        else f"{feature!r} is charged by model, and none was named: name one (--model); "
        "`usageledger catalog show` lists them",
        "unknown_time_zone": "there is no such time zone: name one as Europe/Berlin"
        if time_zone is None
        else f"there is no time zone {time_zone!r}: name one as Europe/Berlin",
        "already_subscribed": "the account has a plan already: `usageledger account change-plan` "
        "changes it",
        "not_subscribed": "the account has no subscription: `usageledger account subscribe` begins "
        "one",
        "already_suspended": "the account is suspended already",
        "not_suspended": "the account is not suspended",
        "account_already_known": "the account is known already: an account can be opened only "
        "before its first event",
        "unknown_account": "nothing is known of the account, and the catalog refuses unknown "
        "accounts: open it, or subscribe it to a plan, first",
        "already_voided": "that use was voided already",
        "period_closed": "the period ended more than 72 hours ago and is closed: grant credits "
        "instead",
        "id_reused_with_different_content": "the id was used before for another event: send this "
        "one under a new id",
    }
    return texts.get(reason, "")


def to_send_again(refused: Iterable[RefusedInput], reasons: Collection[str]) -> list[RefusedInput]:
    """Those that were refused for one of these reasons and that nothing hinders.

    Of several refusals of one event, the first. A run is sent again whole if it has such a record.
    """
    chosen: dict[object, RefusedInput] = {}
    for refusal in refused:
        found = {refusal.reason} if refusal.run is None else refusal.run.reasons.keys()
        if not found.isdisjoint(reasons) and hindrance(refusal) is None:
            chosen.setdefault(refusal.event or refusal.place, refusal)
    return list(chosen.values())


def hindrance(refusal: RefusedInput | None) -> Hindrance | None:
    """Why a refused input may not be sent again; None where it may, if its record still exists."""
    if refusal is None:
        return "not_found"
    if refusal.is_resolved:
        return "already_resolved"
    return "not_sendable" if refusal.input.topic == "catalog" else None


def refused_records(
    reader: LogReader, topics: Topics, refused: Iterable[RefusedInput]
) -> Iterator[list[Record]]:
    """The refused records of each refusal, in the order asked: one, or those of a run.

    Empty where the topic no longer has them all. Raises LogUnreadable, KafkaError.
    """
    kept: dict[tuple[str, int], range] = {}
    for refusal in refused:
        topic, partition = _topic_of(topics, refusal.input), refusal.input.partition
        offsets = refusal.input_offsets
        if (topic, partition) not in kept:
            kept[topic, partition] = range(
                reader.start_offset(topic, partition), reader.end_offset(topic, partition)
            )
        there = kept[topic, partition]
        yield (
            list(reader.read(topic, partition, offsets.start, offsets.stop))
            if offsets[0] in there and offsets[-1] in there
            else []
        )


def resent_record(
    refusal: RefusedInput,
    record: Record,
    *,
    partition_count: int,
    importing: bool,
    line: int = 0,
) -> OutgoingRecord:
    """A refused record as it is sent again: unchanged, to the partition that its key belongs to.

    In a ledger that is being imported it keeps its own time.
    """
    return OutgoingRecord(
        line=line,
        input="usage" if refusal.input.topic == "usage" else "account",
        type=refusal.reason,
        key=record.key,
        partition=0 if record.key is None else partition_of(record.key, partition_count),
        value=record.value or b"",
        timestamp_ms=record.timestamp_ms if importing else None,
    )


def resent_records(
    reader: LogReader,
    prefix: str,
    refused: Collection[RefusedInput],
    *,
    partition_count: int,
    importing: bool,
) -> Iterator[OutgoingRecord]:
    """The records to send again for these refusals; ``line`` counts them from 1.

    Raises LogUnreadable where one is no longer in its topic, KafkaError.
    """
    line = 0
    groups = refused_records(reader, Topics(prefix), refused)
    for refusal, records in zip(refused, groups, strict=True):
        if not records:
            raise LogUnreadable(f"{refusal.place}: {HINDRANCES['gone']}")
        for record in records:
            line += 1
            yield resent_record(
                refusal, record, partition_count=partition_count, importing=importing, line=line
            )


def _topic_of(topics: Topics, address: InputAddress) -> str:
    return topics.usage if address.topic == "usage" else topics.account
