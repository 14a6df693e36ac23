"""One account as it is now: from the counters, rolled over in the reader's hands.

What every answer about an account begins with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from kafka.errors import KafkaError

from usageledger.accounts.errors import CatalogsUnavailable, NoCatalog
from usageledger.accounts.reckoning import AccountNow as AccountNow
from usageledger.accounts.reckoning import (
    CatalogsUpTo,
    Clock,
    Question,
    Reckoning,
    answered_async,
    reading,
    reckoned,
)
from usageledger.counters.calling import CALLS_AT_ONCE_MAX, ask_async
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


class Accounts:
    """Reads accounts of one ledger.

    ``is_importing`` says whether now is the ledger's own time, as while history is brought in.
    """

    def __init__(
        self,
        redis: AsyncClient,
        catalogs: PublishedCatalogs,
        *,
        prefix: str,
        partition_count: int,
        is_importing: Callable[[], bool],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._redis = redis
        self._catalogs = catalogs
        self._prefix = prefix
        self.clock = Clock(now, is_importing)
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE_MAX)
        self.partition_count = partition_count

    def partition(self, account: str) -> int:
        """The partition that an account lives in."""
        return partition_of(account.encode(), self.partition_count)

    async def read(self, account: str) -> AccountNow:
        """The account now. Raises ViewError, and AccountError where no catalog can be had."""
        return await self.reckon(account, reading(account, self.clock))

    async def reckon(self, account: str, reckoning: Reckoning[T]) -> T:
        """Carry out a reckoning about an account.

        Raises ViewError, AccountError, and what the reckoning raises.
        """
        keys = PartitionKeys(self._prefix, self.partition(account))

        async def ask(question: Question) -> Any:
            if isinstance(question, CatalogsUpTo):
                return await self._catalogs_up_to(question.before)
            async with self._turns:
                return await ask_async(self._redis, keys, question)

        return await answered_async(reckoning, ask)

    async def heads(self) -> dict[int, Head]:
        """The head of every partition's counters; one that has none yet stands at the beginning.

        Raises ViewError.
        """
        async with self._turns:
            stored = await read_heads_async(self._redis, self._prefix, range(self.partition_count))
        return {
            partition: Head(ledger="") if head is None else decode_head(head.value)
            for partition, head in stored.items()
        }

    async def stored(self, partition: int, accounts: Sequence[str]) -> list[AccountReading]:
        """Several accounts of one partition as they are stored, of one moment: who compares them
        need not read them. Raises ViewError.
        """
        async with self._turns:
            return await ask_async(
                self._redis, PartitionKeys(self._prefix, partition), ReadAccounts(accounts)
            )

    async def now_of(self, account: str, found: AccountReading) -> AccountNow:
        """The account now, of what is stored. Raises ViewError, AccountError."""
        return await self.reckon(account, reckoned(account, found, self.clock))

    def verified_at(self, stored: StoredHead | None) -> datetime | None:
        """When the counters under a head were last known to be all that was decided, None if that
        was lately.
        """
        return None if stored is None else as_of(stored, self.clock.now())

    async def catalogs(self, head: Head) -> AdoptedCatalogs:
        """Those that a partition has adopted; before it has adopted any, those that are published.

        Raises AccountError.
        """
        return await self._catalogs_up_to(head.catalog_next)

    async def _catalogs_up_to(self, before: int) -> AdoptedCatalogs:
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
