"""A view whose owner waits for a store that refuses or does not answer, and stays the owner.

The ledger comes first, so nothing is lost meanwhile. Claiming again instead would add a record to
the log with each attempt, for as long as the store is full, slow or read-only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import TypeVar

from usageledger.counters.view import (
    Fetched,
    HeadMoved,
    PartitionView,
    Position,
    Snapshot,
    StoredHead,
    ViewChange,
    ViewError,
)
from usageledger.runtime.backoff import Backoff
from usageledger.runtime.tasks import is_being_cancelled

T = TypeVar("T")

log = logging.getLogger(__name__)


class Waiting:
    """Why a partition waits for its store: what the store said when it last failed."""

    def __init__(self, partition: int) -> None:
        self.because: str | None = None
        """None since the store has answered."""
        self._partition = partition

    def note(self, because: str | None) -> None:
        """Remember it, and log when it changes."""
        before, self.because = self.because, because
        if because is not None and because != before:
            log.warning("partition %d waits: %s", self._partition, because)
        elif because is None and before is not None:
            log.info("partition %d goes on: Redis has answered", self._partition)


class PatientView:
    """See ``counters.view.PartitionView``.

    A call is repeated, with back-off, until the store has answered it. To repeat one is safe: each
    compares the head or changes nothing. Raises HeadMoved, and ViewError where no later call can
    succeed.
    """

    def __init__(
        self, view: PartitionView, waiting: Waiting, *, again: Backoff, spread: Random
    ) -> None:
        self._view = view
        self._waiting = waiting
        self._again = again
        self._spread = spread
        # A call that waits to be repeated is still before the calls that were made after it.
        self._in_order = asyncio.Lock()

    async def head(self) -> StoredHead | None:
        return await self._until_answered(self._view.head)

    async def fetch(
        self,
        expected: Position | None,
        accounts: Sequence[str],
        identities: Sequence[tuple[int, bytes]],
    ) -> Fetched:
        return await self._until_answered(lambda: self._view.fetch(expected, accounts, identities))

    async def commit(self, expected: Position | None, change: ViewChange) -> None:
        try:
            await self._until_answered(lambda: self._view.commit(expected, change))
        except HeadMoved as moved:
            # An earlier attempt was carried out and its answer was lost. A position stands for
            # everything that was folded up to it, whoever has committed that.
            if moved.found != change.position:
                raise

    async def verify(self, expected: Position) -> None:
        await self._until_answered(lambda: self._view.verify(expected))

    async def due(self, expected: Position | None = None) -> Mapping[str, int]:
        return await self._until_answered(lambda: self._view.due(expected))

    async def snapshot(self) -> Snapshot:
        return await self._until_answered(self._view.snapshot)

    async def clear(self) -> None:
        await self._until_answered(self._view.clear)

    def beside(self) -> PatientView:
        return PatientView(
            self._view.beside(), self._waiting, again=self._again, spread=self._spread
        )

    async def take_over(self, beside: Position) -> None:
        """Not repeated: an owner that claims again goes on with the view beside it."""
        async with self._in_order:
            await self._view.take_over(beside)

    async def _until_answered(self, call: Callable[[], Awaitable[T]]) -> T:
        failures = 0
        async with self._in_order:
            while True:
                try:
                    answer = await call()
                except HeadMoved:
                    self._waiting.note(None)
                    raise
                except ViewError as error:
                    if not error.retriable:
                        raise
                    if is_being_cancelled():
                        # A client library can swallow a cancellation that arrives together with
                        # its answer.
                        raise asyncio.CancelledError from error
                    failures += 1
                    self._waiting.note(str(error))
                    await asyncio.sleep(self._again.delay_s(failures, self._spread.random()))
                else:
                    self._waiting.note(None)
                    return answer
