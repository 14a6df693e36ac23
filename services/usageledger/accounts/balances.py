"""What an account has, or had, or will have: from the counters, or from the ledger where the time
asked for lies behind them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from usageledger.accounts.errors import InvalidAccountName, NoCatalog, NoLedger
from usageledger.counters.connection import Client
from usageledger.counters.reading import as_of, read_account
from usageledger.domain.account import AccountState
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.balance import Balance, balance_at
from usageledger.domain.credits import format_credits
from usageledger.domain.encoding import decode_account, decode_head
from usageledger.domain.evolve import evolve
from usageledger.domain.head import Head, advance
from usageledger.domain.quantity import check_name
from usageledger.ledger.adoption import adopted_catalogs
from usageledger.ledger.partitioning import partition_of
from usageledger.ledger.records import Record
from usageledger.log.reading import LogReader, entries_in
from usageledger.log.topics import Topics


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """A balance at a moment.

    ``verified_at``: when the counters were last known to be all that was decided, None if that was
    lately.

    ``held``: what its open holds have reserved, in credits. They are of this moment: None where
    another was asked for.
    """

    balance: Balance
    at: datetime
    verified_at: datetime | None
    held: str | None = None
    open_holds: int | None = None


class AccountReader:
    """Reads balances of one ledger."""

    def __init__(self, reader: LogReader, redis: Client, prefix: str) -> None:
        self._reader = reader
        self._redis = redis
        self._prefix = prefix
        self._topics = Topics(prefix)

    def partition(self, account: str) -> int:
        """Where the account lives. Raises InvalidAccountName, and NoLedger where there is none."""
        try:
            check_name("the account", account)
        except ValueError as error:
            raise InvalidAccountName(str(error)) from None
        count = self._reader.partition_count(self._topics.ledger)
        if count == 0:
            raise NoLedger(
                f"there is no topic {self._topics.ledger}: is the prefix {self._prefix!r} right? "
                "`usageledger up` makes a ledger"
            )
        return partition_of(account.encode(), count)

    def balance(
        self, account: str, *, at: datetime | None, now: datetime, importing: bool
    ) -> AccountBalance:
        """The balance at a time; by default now, or by the ledger's own clock while history is
        imported.

        Raises AccountError, ViewError, LogUnreadable.
        """
        partition = self.partition(account)
        reading = read_account(self._redis, self._prefix, partition, account)
        if reading.head is None:
            head, state, verified_at = Head(ledger=""), None, None
        else:
            head = decode_head(reading.head.value)
            state = None if reading.account is None else decode_account(reading.account)
            verified_at = as_of(reading.head, now)
        holds = (
            (None, None) if at is not None else (format_credits(reading.held), reading.open_holds)
        )
        if at is None:
            at = head.clock if importing and reading.head is not None else max(now, head.clock)
        if at < head.clock:
            state, catalogs = self._as_it_was(account, partition, at)
        else:
            catalogs = self._catalogs(head.catalog_next)
        return AccountBalance(
            balance_at(account, state, at, catalogs or self._published()), at, verified_at, *holds
        )

    def _as_it_was(
        self, account: str, partition: int, at: datetime
    ) -> tuple[AccountState | None, AdoptedCatalogs]:
        """The fold of what the ledger had decided by that time, and the catalogs that it had
        adopted.
        """
        end = self._reader.end_offset(self._topics.ledger, partition)
        records = self._reader.read(
            self._topics.ledger,
            partition,
            self._reader.start_offset(self._topics.ledger, partition),
            end,
        )
        state, head = None, Head(ledger="")
        key = account.encode()
        for sealed in entries_in(record for record in records if _concerns(record, key)):
            if sealed.entry.appended_at > at:
                break
            if sealed.entry.account == account:
                state = evolve(state, sealed.entry)
            elif not sealed.entry.account:
                head = advance(head, sealed.entry, sealed.hash)
        return state, self._catalogs(head.catalog_next)

    def _catalogs(self, before: int) -> AdoptedCatalogs:
        """The catalogs of the topic below an offset."""
        topic = self._topics.catalog
        if before == 0:
            return AdoptedCatalogs()
        return adopted_catalogs(
            self._reader.read(topic, 0, self._reader.start_offset(topic, 0), before)
        )

    def _published(self) -> AdoptedCatalogs:
        """All catalogs of the topic: by these an account starts that the ledger has not met yet."""
        catalogs = self._catalogs(self._reader.end_offset(self._topics.catalog, 0))
        if not catalogs:
            raise NoCatalog
        return catalogs


def _concerns(record: Record, key: bytes) -> bool:
    """Entries carry their account as key; claims and adopted catalogs have none."""
    return record.key is None or record.key == key
