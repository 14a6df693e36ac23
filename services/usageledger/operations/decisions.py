"""Waiting for the ledger's decision on an event that a command has sent."""

from __future__ import annotations

import time
from dataclasses import dataclass

from usageledger.domain.chain import SealedEntry
from usageledger.domain.entry import LedgerEntry
from usageledger.log.reading import LogReader, entries_in
from usageledger.log.topics import Topics
from usageledger.operations.lags import LookAtLags
from usageledger.operations.ledger_entries import ledger_partitions

POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SentEvent:
    """An event that Kafka has acknowledged. ``time`` is when it occurred, as RFC 3339."""

    type: str
    source: str
    id: str
    time: str
    account: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Where an account's ledger partition ended before an event was sent.

    The decision on that event comes after the mark.
    """

    partition: int
    ledger_end: int


def mark(reader: LogReader, prefix: str, account: str) -> Mark:
    """Where the account's partition ends now.

    Raises OperatorError where there is no such ledger.
    """
    (partition,) = ledger_partitions(reader, prefix, account)
    return Mark(partition, reader.end_offset(Topics(prefix).ledger, partition))


def wait_for_decision(
    reader: LogReader,
    prefix: str,
    event: SentEvent,
    since: Mark,
    look: LookAtLags,
    timeout_s: float,
) -> SealedEntry | None:
    """Wait until the event's partition has no undecided input; return the event's entry.

    None if that takes longer than ``timeout_s``. An input can have several entries, such as a
    renewal before its own: the last one is returned.
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


def _decision(reader: LogReader, prefix: str, event: SentEvent, since: Mark) -> SealedEntry | None:
    topic = Topics(prefix).ledger
    end = reader.end_offset(topic, since.partition)
    records = reader.read(topic, since.partition, since.ledger_end, end)
    decisions = [sealed for sealed in entries_in(records) if _decides(sealed.entry, event)]
    return decisions[-1] if decisions else None


def _decides(entry: LedgerEntry, event: SentEvent) -> bool:
    about = entry.event
    if entry.input is None or about is None:
        return False
    return (entry.account, about.source, about.id) == (event.account, event.source, event.id)
