"""The asyncio reader: accounts as they are now, from views in Redis and catalogs in Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

from kafka.errors import KafkaError

from usageledger.accounts.errors import CatalogsUnavailable, NoCatalog
from usageledger.accounts.queries import (
    AccountBalance,
    CatalogsUpTo,
    Clock,
    Query,
    Step,
    balance_from,
    balance_query,
    run_async,
)
from usageledger.counters.calling import CALLS_AT_ONCE_MAX, Call, ask_async
from usageledger.counters.connection import AsyncClient
from usageledger.counters.keys import PartitionKeys
from usageledger.counters.reading import AccountReading, ReadAccounts, as_of, read_heads_async
from usageledger.counters.view import StoredHead
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.encoding import decode_head
from usageledger.domain.head import Head
from usageledger.ledger.partitioning import partition_of
from usageledger.log.published_catalogs import PublishedCatalogs
from usageledger.log.reading import LogUnreadable

T = TypeVar("T")


class AccountSource(Protocol):
    """The source that an asyncio reader reads from. `StoredAccounts` is the real one."""

    async def ask(self, partition: int, call: Call[T]) -> T:
        """Make a call to a partition's view. Raises ViewError."""
        ...

    async def heads(self, partitions: Iterable[int]) -> dict[int, StoredHead | None]:
        """The heads of several partitions' views, None for a view without one. Raises ViewError."""
        ...

    async def catalogs_up_to(self, before: int) -> AdoptedCatalogs:
        """The answer to `CatalogsUpTo`. Raises AccountError."""
        ...


class StoredAccounts:
    """See `AccountSource`: the views in Redis, and the catalogs in Kafka."""

    def __init__(self, redis: AsyncClient, catalogs: PublishedCatalogs, *, prefix: str) -> None:
        self._redis = redis
        self._catalogs = catalogs
        self._prefix = prefix
        self._slots = asyncio.Semaphore(CALLS_AT_ONCE_MAX)

    async def ask(self, partition: int, call: Call[T]) -> T:
        async with self._slots:
            return await ask_async(self._redis, PartitionKeys(self._prefix, partition), call)

    async def heads(self, partitions: Iterable[int]) -> dict[int, StoredHead | None]:
        async with self._slots:
            return await read_heads_async(self._redis, self._prefix, partitions)

    async def catalogs_up_to(self, before: int) -> AdoptedCatalogs:
        known = self._catalogs.known(before)
        if known:
            return known
        try:
            found = await asyncio.to_thread(self._catalogs.up_to, before)
        except (KafkaError, LogUnreadable, OSError) as error:
            raise CatalogsUnavailable(
                f"the catalogs cannot be read ({error}): ask again in a moment"
            ) from error
        if not found:
            raise NoCatalog
        return found


class Accounts:
    """Reads accounts of one ledger. ``clock`` says what time it is for them."""

    def __init__(self, source: AccountSource, *, partition_count: int, clock: Clock) -> None:
        self._source = source
        self.partition_count = partition_count
        self.clock = clock

    def partition(self, account: str) -> int:
        """The partition of an account."""
        return partition_of(account.encode(), self.partition_count)

    async def balance(self, account: str) -> AccountBalance:
        """The account's balance now. Raises ViewError, and AccountError if no catalog is there."""
        return await self.run(account, balance_query(account, self.clock))

    async def balance_from(self, account: str, reading: AccountReading) -> AccountBalance:
        """The account's balance now, from what `read` returned. Raises ViewError, AccountError."""
        return await self.run(account, balance_from(account, reading, self.clock))

    async def run(self, account: str, query: Query[T]) -> T:
        """Carry out a query about an account.

        Raises ViewError, AccountError, and what the query raises.
        """
        partition = self.partition(account)

        async def answer(step: Step) -> Any:
            if isinstance(step, CatalogsUpTo):
                return await self._source.catalogs_up_to(step.before)
            return await self._source.ask(partition, step)

        return await run_async(query, answer)

    async def read(self, partition: int, accounts: Sequence[str]) -> list[AccountReading]:
        """Read several accounts of one partition at one moment, encoded as they are stored.

        A caller that compares them with an earlier reading need not decode them. Raises ViewError.
        """
        return await self._source.ask(partition, ReadAccounts(accounts))

    async def heads(self) -> dict[int, Head]:
        """The head of every partition's view; an empty one for a partition without a view.

        Raises ViewError.
        """
        stored = await self._source.heads(range(self.partition_count))
        return {
            partition: Head(ledger="") if head is None else decode_head(head.value)
            for partition, head in stored.items()
        }

    async def catalogs(self, head: Head) -> AdoptedCatalogs:
        """The catalogs that a partition has adopted; all published ones if it has adopted none.

        Raises AccountError.
        """
        return await self._source.catalogs_up_to(head.catalog_next)

    def verified_at(self, stored: StoredHead | None) -> datetime | None:
        """When a view was last known to be complete; None if that was within the last seconds."""
        return None if stored is None else as_of(stored, self.clock.now())
