"""Looks into the ledger's Kafka for the console, in a thread, within a bound.

kafka-python's clients block, so they have a thread of their own, which answers one question at a
time. Questions that many clients may ask at once share their answer for a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from kafka.errors import KafkaError

from usageledger.counters.view import ViewError
from usageledger.gateway.problems import Problem
from usageledger.gateway.shared_answer import SharedAnswer
from usageledger.ledger.records import Record
from usageledger.ledger.refused_input import RefusedInput
from usageledger.log.reading import LogUnreadable
from usageledger.operations.ledger_inspection import (
    LedgerConnections,
    LedgerProgress,
    PublishedAndAdopted,
)

ANSWER_WITHIN_S = 5.0

_T = TypeVar("_T")


class Inspector:
    """Looks into one ledger.

    Every method raises Problem `log_unavailable` if no answer comes in time; ``progress`` raises
    ViewError too.
    """

    def __init__(
        self,
        connect: Callable[[], LedgerConnections],
        *,
        answer_within_s: float = ANSWER_WITHIN_S,
    ) -> None:
        self._connect = connect
        self._answer_within_s = answer_within_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inspector")
        self._connections: LedgerConnections | None = None  # used by the thread alone
        self._progress = SharedAnswer(lambda: self._ask(lambda asked: asked.progress()))
        self._catalogs = SharedAnswer(lambda: self._ask(lambda asked: asked.catalogs()))

    async def progress(self) -> LedgerProgress:
        """How far the services are, and what each partition is doing, a second ago at most."""
        async with _within(self._answer_within_s):
            return await self._progress.get()

    async def catalogs(self) -> PublishedAndAdopted:
        """The published and the adopted catalogs, a second ago at most."""
        async with _within(self._answer_within_s):
            return await self._catalogs.get()

    async def refused_records(self, refused: Sequence[RefusedInput]) -> list[list[Record]]:
        """The refused records of each refusal; none where they are gone."""
        async with _within(self._answer_within_s):
            return await self._ask(lambda connections: connections.refused_records(refused))

    def close(self) -> None:
        """Close the connections. A question that is being answered ends by its own bound."""
        self._thread.submit(self._disconnect)
        self._thread.shutdown(wait=False)

    async def _ask(self, question: Callable[[LedgerConnections], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._answer, question
        )

    def _answer(self, question: Callable[[LedgerConnections], _T]) -> _T:
        if self._connections is None:
            self._connections = self._connect()
        try:
            return question(self._connections)
        except ViewError:
            raise
        except BaseException:
            # A Kafka client that has failed may remember what is no longer true.
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.close()


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except (KafkaError, LogUnreadable, OSError) as error:  # a TimeoutError is an OSError
        why = (
            f"no answer within {seconds:.0f} s"
            if isinstance(error, TimeoutError)
            else f"{type(error).__name__}: {error}"
        )
        raise Problem(
            "log_unavailable",
            f"Kafka cannot be asked ({why}): try again in a moment",
            headers={"Retry-After": "1"},
        ) from error
