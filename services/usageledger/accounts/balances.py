"""The blocking reader: what an account has now, had at a time in the past, or will have."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from usageledger.accounts.errors import InvalidAccountName, NoCatalog, NoLedger
from usageledger.accounts.queries import (
    AccountBalance,
    CatalogsUpTo,
    Clock,
    LedgerUntil,
    PastState,
    Step,
    balance_at_query,
    balance_query,
    run,
)
from usageledger.counters.calling import ask
from usageledger.counters.connection import Client
from usageledger.counters.keys import PartitionKeys
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.evolve import evolve
from usageledger.domain.head import Head, advance
from usageledger.domain.quantity import check_name
from usageledger.ledger.partitioning import partition_of
from usageledger.ledger.records import Record
from usageledger.log.partition_counts import ledger_partition_count
from usageledger.log.published_catalogs import PublishedCatalogs
from usageledger.log.reading import LogReader, entries_in
from usageledger.log.topics import Topics


class AccountReader:
    """Reads balances of one ledger. Not thread-safe, as its ``reader`` is not."""

    def __init__(
        self, reader: LogReader, redis: Client, prefix: str, clock: Clock | None = None
    ) -> None:
        self._reader = reader
        self._redis = redis
        self._prefix = prefix
        self._clock = Clock() if clock is None else clock
        self._topics = Topics(prefix)
        self._catalogs = PublishedCatalogs(reader, prefix)

    def balance(self, account: str, *, at: datetime | None = None) -> AccountBalance:
        """The account's balance at a time; by default now, as the clock has it.

        Only the balance of now has open holds. Raises AccountError, ViewError, KafkaError,
        LogUnreadable.
        """
        partition = self.partition(account)
        keys = PartitionKeys(self._prefix, partition)

        def answer(step: Step | LedgerUntil) -> Any:
            if isinstance(step, CatalogsUpTo):
                return self._catalogs_up_to(step.before)
            if isinstance(step, LedgerUntil):
                return self._past_state(step.account, partition, step.at)
            return ask(self._redis, keys, step)

        if at is None:
            return run(balance_query(account, self._clock), answer)
        return run(balance_at_query(account, at, self._clock), answer)

    def partition(self, account: str) -> int:
        """The partition of an account. Raises InvalidAccountName, NoLedger, KafkaError."""
        try:
            check_name("the account", account)
        except ValueError as error:
            raise InvalidAccountName(str(error)) from None
        count = ledger_partition_count(self._reader, self._topics)
        if count == 0:
            raise NoLedger(
                f"there is no topic {self._topics.ledger}: is the prefix {self._prefix!r} right? "
                "`usageledger up` makes a ledger"
            )
        return partition_of(account.encode(), count)

    def _catalogs_up_to(self, before: int) -> AdoptedCatalogs:
        catalogs = self._catalogs.up_to(before)
        if not catalogs:
            raise NoCatalog
        return catalogs

    def _past_state(self, account: str, partition: int, at: datetime) -> PastState:
        """Fold what the ledger had decided by a time: the account, and the adopted catalogs."""
        topic = self._topics.ledger
        start = self._reader.start_offset(topic, partition)
        end = self._reader.end_offset(topic, partition)
        records = self._reader.read(topic, partition, start, end)
        key = account.encode()
        state, head = None, Head(ledger="")
        for sealed in entries_in(record for record in records if _concerns(record, key)):
            if sealed.entry.appended_at > at:
                break
            if sealed.entry.account == account:
                state = evolve(state, sealed.entry)
            elif not sealed.entry.account:
                head = advance(head, sealed.entry, sealed.hash)
        return PastState(state, head.catalog_next)


def _concerns(record: Record, key: bytes) -> bool:
    """Whether a record is an account's, or the partition's own: claims and catalogs have no key."""
    return record.key is None or record.key == key
