"""One account as it is now: from the counters, rolled over in the reader's hands. What every answer about an account begins with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from kafka.errors import KafkaError

from usageledger.counters import scripts
from usageledger.counters.connection import AsyncClient
from usageledger.counters.keys import PartitionKeys
from usageledger.counters.reading import as_of
from usageledger.counters.replies import REDIS_FAILURES, head_of, view_error
from usageledger.domain.account import AccountState
from usageledger.domain.balance import untouched_free
from usageledger.domain.catalog import AdoptedCatalogs
from usageledger.domain.encoding import decode_account, decode_head
from usageledger.domain.head import Head
from usageledger.domain.renewal import state_at
from usageledger.gateway.problems import Problem
from usageledger.log.partitioning import partition_of
from usageledger.log.published_catalogs import PublishedCatalogs
from usageledger.log.reading import LogUnreadable


class AccountNow(NamedTuple):
    """An account at a moment.

    ``state`` is rolled to ``at``; of an account that the ledger does not know it is an untouched Free. ``verified_at``: when the counters
    were last known to be all that was decided, None if that was lately. ``ledger_next``: the offset behind the last entry that is in them.
    """

    account: str
    state: AccountState
    is_known: bool
    at: datetime
    verified_at: datetime | None
    catalogs: AdoptedCatalogs
    ledger_next: int


class Accounts:
    """Reads accounts of one ledger. ``is_importing`` says whether now is the ledger's own time, as while history is brought in."""

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
        self._is_importing = is_importing
        self._now = now
        self.partition_count = partition_count

    def partition(self, account: str) -> int:
        """The partition that an account lives in."""
        return partition_of(account.encode(), self.partition_count)

    async def read(self, account: str) -> AccountNow:
        """The account now. Raises ViewError, and Problem where Kafka has to be asked for a catalog and does not answer."""
        keys = PartitionKeys(self._prefix, self.partition(account))
        try:
            reply = await scripts.run(
                self._redis, "read_account", [keys.head, keys.accounts, keys.holds(account), keys.hold_ends(account)], [account]
            )
        except REDIS_FAILURES as error:
            raise view_error(error) from error
        token, value, verified_at_ms, blob, *_ = reply
        stored = head_of(token, value, verified_at_ms)
        head = Head(ledger="") if stored is None else decode_head(stored.value)
        catalogs = await self.catalogs(head)
        now = self._now()
        at = head.clock if stored is not None and self._is_importing() else max(now, head.clock)
        verified_at = None if stored is None else as_of(stored, now)
        if blob is None:
            return AccountNow(account, untouched_free(at, catalogs), False, at, verified_at, catalogs, head.next_offset)
        state = state_at(decode_account(blob), account, at, catalogs)
        return AccountNow(account, state, True, at, verified_at, catalogs, head.next_offset)

    async def catalogs(self, head: Head) -> AdoptedCatalogs:
        """Those that a partition has adopted; before it has adopted any, those that are published. Raises Problem."""
        known = self._catalogs.known(head.catalog_next)
        if known:
            return known
        try:
            found = await asyncio.to_thread(self._catalogs.before, head.catalog_next) if head.catalog_next else None
            found = found or await asyncio.to_thread(self._catalogs.published)
        except (KafkaError, LogUnreadable, OSError) as error:
            raise Problem("log_unavailable", f"the catalogs cannot be read ({error}): ask again in a moment") from error
        if not found:
            raise Problem("not_ready", "no catalog has been published: do so with `usageledger catalog publish FILE`")
        return found
