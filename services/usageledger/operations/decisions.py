"""One event sent by hand, and what the ledger made of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from usageledger.domain.chain import SealedEntry
from usageledger.domain.entry import LedgerEntry
from usageledger.log.reading import LogReader, entries_in
from usageledger.log.topics import Topics
from usageledger.operations.event_file import OutgoingRecord, outgoing_records
from usageledger.operations.lags import LookAtLags
from usageledger.operations.ledger_entries import ledger_partitions
from usageledger.sdk.producer.events import Event, encode

POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Mark:
    """Where an account's ledger partition ended before something was sent: what is decided about
    that lies behind it.
    """

    partition: int
    ledger_end: int


def mark(reader: LogReader, prefix: str, account: str) -> Mark:
    """Where the account's partition ends now.

    Raises OperatorError where there is no such ledger.
    """
    (partition,) = ledger_partitions(reader, prefix, account)
    return Mark(partition, reader.end_offset(Topics(prefix).ledger, partition))


def record_of(event: Event, *, partition_count: int, importing: bool) -> OutgoingRecord:
    """The record that an event becomes."""
    (record,) = outgoing_records(
        [encode(event)], partition_count=partition_count, importing=importing
    )
    return record


def wait_for_decision(
    reader: LogReader,
    prefix: str,
    event: Mapping[str, object],
    since: Mark,
    look: LookAtLags,
    timeout_s: float,
) -> SealedEntry | None:
    """Wait until the inputs of the event's partition are decided, and return the entry that decides
    on it; None if that takes too long.

    Where an input has several entries (a renewal precedes it) the last is meant.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        lags = look().lags
        if all(
            lag.records == 0
            for lag in lags
            if lag.partition == since.partition and lag.what in ("usage", "account")
        ):
            return _decision(reader, prefix, event, since)
        if time.monotonic() >= deadline_s:
            return None
        time.sleep(POLL_S)


def _decision(
    reader: LogReader, prefix: str, event: Mapping[str, object], since: Mark
) -> SealedEntry | None:
    topic = Topics(prefix).ledger
    records = reader.read(
        topic, since.partition, since.ledger_end, reader.end_offset(topic, since.partition)
    )
    decisions = [sealed for sealed in entries_in(records) if _is_about(sealed.entry, event)]
    return decisions[-1] if decisions else None


def _is_about(entry: LedgerEntry, event: Mapping[str, object]) -> bool:
    about = entry.event
    if entry.input is None or about is None:
        return False
    return (entry.account, about.source, about.id) == (
        event["subject"],
        event["source"],
        event["id"],
    )
