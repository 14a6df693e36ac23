"""Making a partition's view anew from the ledger, beside the one that readers see.

The processor may run meanwhile or be stopped.

The view beside is built without a claim, because a fold of the log needs none. Only the end is an
owner's work: a claim, the fold of the entries before it, and the switch. So the partition's owner,
running or stopped, notices it like any other claim, and claims again. Whatever that owner decided
in between, the new view is then an older fold of the same log, as after a failover of Redis.
Catching up mends that.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from usageledger.counters.view import PartitionView, Position
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.claim import Claim, claim_of, knows_rules_of
from usageledger.domain.head import Head
from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.records import LedgerError, LedgerPartition, Record
from usageledger.processor.catalog_log import CatalogLog
from usageledger.processor.catch_up import (
    PartitionStopped,
    attempt_to_go_on_with,
    build_anew,
    fold_beside,
    head_of,
)
from usageledger.processor.claiming import claim_partition, current_rules, ledger_id_of
from usageledger.processor.owner_settings import DEFAULT_SETTINGS, OwnerSettings

NEARLY_RECORDS = 1_000
"""With fewer records than this left to fold, the rebuild claims the partition.

From the claim to the switch the partition decides nothing.
"""

ROUNDS_MAX = 20

logger = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]
"""Called with the number of ledger records that are folded, and the number of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A finished rebuild, whose view is at ``position``.

    ``begun_at`` is 0, or the offset that an earlier attempt had reached.
    """

    partition: int
    begun_at: int
    position: Position


class ViewRebuild:
    """Rebuilds one partition's view.

    ``read_catalogs`` brings ``catalogs`` up to the end of the catalog topic.
    """

    def __init__(
        self,
        partition: int,
        partition_count: int,
        *,
        ledger: LedgerPartition,
        view: PartitionView,
        catalogs: CatalogLog,
        read_catalogs: Callable[[], Awaitable[None]],
        operator: str,
        on_progress: OnProgress,
        settings: OwnerSettings = DEFAULT_SETTINGS,
    ) -> None:
        self._partition = partition
        self._partition_count = partition_count
        self._ledger = ledger
        self._view = view
        self._catalogs = catalogs
        self._read_catalogs = read_catalogs
        self._operator = operator
        self._on_progress = on_progress
        self._settings = settings
        self._furthest = 0

    async def run(self, *, anew: bool = False) -> Rebuilt:
        """Rebuild and switch; ``anew`` discards the view that an earlier attempt left.

        Raises PartitionStopped, LedgerError, ViewError.
        """
        ledger_id = await ledger_id_of(self._ledger, self._partition)
        if ledger_id is None:
            raise PartitionStopped(
                f"partition {self._partition} of the ledger is empty: there is nothing to rebuild "
                "from"
            )
        head = await head_of(self._view)
        if head is not None and head.ledger != ledger_id:
            raise PartitionStopped(
                f"the Redis view of partition {self._partition} belongs to another ledger "
                f"({head.ledger}, not {ledger_id}), which may be"
                " alive: give this ledger a Redis or a prefix of its own"
            )
        rules = await current_rules(head, self._ledger)
        if anew:
            await self._view.beside().clear()
        begun_at = await self._build_nearly(ledger_id, rules)
        claim, claimed_at = await claim_partition(
            self._ledger,
            self._partition,
            self._partition_count,
            self._operator,
            lambda: ledger_id,
            rules,
        )
        await self._read_catalogs()
        counted = _Counted(self._ledger, self._report)
        book = self._book(claim.ledger, rules)
        position = await build_anew(
            book,
            ledger=counted,
            view=self._view,
            catalogs=self._catalogs,
            claimed_at=claimed_at,
            settings=self._settings,
        )
        await self._wake_owner_of_old_view(claimed_at, rules)
        return Rebuilt(partition=self._partition, begun_at=begun_at, position=position)

    async def _wake_owner_of_old_view(self, claimed_at: int, rules: Head | Claim | None) -> None:
        """Claim again if another owner may have claimed before the switch.

        That owner may have stopped at the old view's damage. A new claim makes it look again.
        """
        try:
            if await self._ledger.end_offset() > claimed_at + 1:
                await claim_partition(
                    self._ledger,
                    self._partition,
                    self._partition_count,
                    self._operator,
                    _no_new_ledger,
                    rules,
                )
        except LedgerError as error:
            logger.warning(
                "partition %d is rebuilt; if its owner has stopped, start the processor again: %s",
                self._partition,
                error,
            )

    async def _build_nearly(self, ledger_id: str, rules: Head | Claim | None) -> int:
        """Fold until little is left, however much is appended meanwhile.

        Return the offset that an earlier attempt had reached; 0 without one.
        """
        begun_at: int | None = None
        for _ in range(ROUNDS_MAX):
            end = await self._ledger.end_offset()
            await self._read_catalogs()
            if begun_at is None:
                stored = await attempt_to_go_on_with(
                    self._book(ledger_id, rules),
                    ledger=self._ledger,
                    view=self._view,
                    until=end - 1,
                    settings=self._settings,
                )
                begun_at = self._furthest = 0 if stored is None else stored.position.next_offset
            counted = _Counted(self._ledger, self._report)
            await fold_beside(
                self._book(ledger_id, rules),
                ledger=counted,
                view=self._view,
                catalogs=self._catalogs,
                until=end - 1,
                settings=self._settings,
            )
            if await self._ledger.end_offset() - end < NEARLY_RECORDS:
                break
        return begun_at or 0

    def _report(self, done: int, of: int) -> None:
        """Report progress, but not for records that are read again to check an earlier attempt."""
        if done > self._furthest:
            self._furthest = done
            self._on_progress(done, of)

    def _book(self, ledger_id: str, rules: Head | Claim | None) -> PartitionBook:
        known = (
            rules
            if rules is not None and knows_rules_of(rules)
            else claim_of(self._partition, ledger_id, self._operator)
        )
        head = Head(ledger=ledger_id, decide=known.decide, tzdata=known.tzdata)
        return PartitionBook(self._partition, self._partition_count, head, AdoptedCatalogs())


def _no_new_ledger() -> str:
    raise AssertionError("a ledger that a view was built from is not empty")


class _Counted:
    """A ledger partition that reports how far it has been read."""

    def __init__(self, ledger: LedgerPartition, on_progress: OnProgress) -> None:
        self._ledger = ledger
        self._on_progress = on_progress
        self.claim, self.append = ledger.claim, ledger.append
        self.start_offset, self.end_offset = ledger.start_offset, ledger.end_offset

    async def read(self, start: int, stop: int) -> AsyncIterator[Sequence[Record]]:
        async for records in self._ledger.read(start, stop):
            self._on_progress(records[-1].offset + 1, stop)
            yield records
