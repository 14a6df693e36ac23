"""Refused inputs: which they are, which have been accepted since, and sending them again
unchanged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from usageledger.domain.chain import SealedEntry
from usageledger.domain.entry import EventReference, InputAddress
from usageledger.domain.refusal import Refusal
from usageledger.ledger.partitioning import partition_of
from usageledger.log.reading import LogReader
from usageledger.log.topics import Topics
from usageledger.operations.event_file import Input, OutgoingRecord

CAN_CHANGE = tuple(
    refusal.value
    for refusal in (
        Refusal.UNKNOWN_MODEL,
        Refusal.UNKNOWN_FEATURE,
        Refusal.UNKNOWN_PLAN,
        Refusal.UNKNOWN_ACCOUNT,
    )
)
"""Reasons that another catalog, or an account that is opened, does away with."""


@dataclass(slots=True)
class RefusedInput:
    """One input that the ledger refused, and where both lie.

    ``is_resolved``: the same event has been accepted since.
    """

    account: str
    reason: str
    detail: str
    appended_at: datetime
    input: InputAddress
    partition: int
    offset: int
    event: EventReference | None
    feature: str | None = None
    model: str | None = None
    is_resolved: bool = False

    @property
    def entry(self) -> str:
        """The address of the ledger entry that says so."""
        return f"{self.partition}-{self.offset}"

    @property
    def place(self) -> str:
        """Where the refused record lies: topic, partition-offset."""
        return f"{self.input.topic} {self.input.partition}-{self.input.offset}"


def refused_inputs(entries: Iterable[SealedEntry]) -> list[RefusedInput]:
    """The refused inputs among a ledger's entries, in their order."""
    refused: list[RefusedInput] = []
    unresolved: dict[tuple[str, str, str, str], list[RefusedInput]] = {}
    for sealed in entries:
        entry = sealed.entry
        if entry.input is None:
            continue
        identity = (
            None
            if entry.event is None
            else (entry.input.topic, entry.account, entry.event.source, entry.event.id)
        )
        if entry.kind != "refusal":
            for earlier in unresolved.pop(identity, ()) if identity is not None else ():
                earlier.is_resolved = True
            continue
        refusal = RefusedInput(
            account=entry.account,
            reason=entry.reason or "",
            detail=entry.detail or "",
            appended_at=entry.appended_at,
            input=entry.input,
            partition=entry.partition,
            offset=entry.offset,
            event=entry.event,
            feature=entry.feature,
            model=entry.model,
        )
        refused.append(refusal)
        if identity is not None:
            unresolved.setdefault(identity, []).append(refusal)
    return refused


def to_send_again(refused: Iterable[RefusedInput], reasons: Collection[str]) -> list[RefusedInput]:
    """Those refused for one of these reasons and not accepted since; of several refusals of one
    event, the first.
    """
    chosen: dict[object, RefusedInput] = {}
    for refusal in refused:
        if (
            refusal.reason in reasons
            and not refusal.is_resolved
            and refusal.input.topic != "catalog"
        ):
            event = refusal.event
            same: object = (
                refusal.place
                if event is None
                else (refusal.input.topic, refusal.account, event.source, event.id)
            )
            chosen.setdefault(same, refusal)
    return list(chosen.values())


def original_records(
    reader: LogReader,
    prefix: str,
    refused: Iterable[RefusedInput],
    *,
    partition_count: int,
    importing: bool,
) -> Iterator[OutgoingRecord]:
    """The records that were refused, read where they lie, to be sent unchanged (with their own time
    into a ledger that is being imported).

    ``line`` counts them. Raises LogUnreadable where one is no longer there.
    """
    topics = Topics(prefix)
    for number, refusal in enumerate(refused, start=1):
        input: Input = "usage" if refusal.input.topic == "usage" else "account"
        topic = topics.usage if input == "usage" else topics.account
        for record in reader.read(
            topic, refusal.input.partition, refusal.input.offset, refusal.input.offset + 1
        ):
            yield OutgoingRecord(
                line=number,
                input=input,
                type=refusal.reason,
                key=record.key,
                partition=0 if record.key is None else partition_of(record.key, partition_count),
                value=record.value or b"",
                timestamp_ms=record.timestamp_ms if importing else None,
            )
