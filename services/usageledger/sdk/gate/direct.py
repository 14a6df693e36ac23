"""Asking Redis itself, without a gateway: one script call for a check, two for a hold."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

from usageledger.accounts.queries import (
    CatalogsUpTo,
    Clock,
    NoRate,
    Query,
    Step,
    check_query,
    hold_query,
    quote_query,
    release_query,
    run,
    run_async,
)
from usageledger.counters.calling import CALLS_AT_ONCE_MAX, ask, ask_async
from usageledger.counters.connection import Client, connect, connect_blocking
from usageledger.counters.holding import Holder
from usageledger.counters.keys import PartitionKeys
from usageledger.counters.replies import REDIS_FAILURES, view_error
from usageledger.counters.view import ViewError
from usageledger.domain.checking import Use
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.gate.answers import (
    CheckAnswer,
    GateMisconfigured,
    GateUnavailable,
    HoldAnswer,
    QuoteAnswer,
    ReleaseAnswer,
    UnknownUse,
    check_answer,
    hold_answer,
    quote_answer,
    release_answer,
)
from usageledger.sdk.gate.ledger_facts import LedgerFacts

T = TypeVar("T")


class DirectTransport:
    """See `Transport`. Threads, and processes forked from this one, may share it."""

    def __init__(
        self,
        kafka: KafkaConnection,
        redis_url: str,
        prefix: str,
        clock: Clock,
        timeout_s: float,
        holder: Holder,
    ) -> None:
        self._facts = LedgerFacts(kafka, prefix, timeout_s)
        self._connect = partial(connect_blocking, redis_url, timeout_s=timeout_s, is_patient=False)
        self._redis: Client | None = None
        self._clock = clock
        self._holder = holder
        self._timeout_s = timeout_s
        self._slots = threading.BoundedSemaphore(CALLS_AT_ONCE_MAX)

    def prepare(self) -> None:
        self._facts.be_patient()
        self._run("", quote_query([], self._clock))

    def check(self, account: str, use: Use) -> CheckAnswer:
        return check_answer(self._run(account, check_query(account, use, self._clock)))

    def quote(self, uses: Sequence[Use]) -> QuoteAnswer:
        return quote_answer(self._run("", quote_query(uses, self._clock)))

    def hold(self, account: str, hold_id: str, use: Use, life_s: int) -> HoldAnswer:
        query = hold_query(account, hold_id, use, life_s * 1_000, self._clock, self._holder)
        return hold_answer(self._run(account, query), hold_id)

    def release(self, account: str, hold_id: str) -> ReleaseAnswer:
        query = release_query(account, hold_id, (self._holder,))
        return release_answer(account, hold_id, self._run(account, query))

    def close(self) -> None:
        if self._redis is not None:
            self._redis.close()

    def _keys(self, account: str) -> PartitionKeys:
        if self._facts.notice_fork():
            self._slots = threading.BoundedSemaphore(CALLS_AT_ONCE_MAX)
        if not self._facts.is_known:
            self._facts.learn()
        return self._facts.keys(account)

    def _client(self) -> Client:
        """The client. One for a cluster asks for the nodes when it is created, which can fail."""
        if self._redis is None:
            try:
                self._redis = self._connect()
            except REDIS_FAILURES as error:
                raise _as_gate_error(view_error(error)) from error
        return self._redis

    def _run(self, account: str, query: Query[T]) -> T:
        keys = self._keys(account)
        redis = self._client()

        def answer(step: Step) -> Any:
            if isinstance(step, CatalogsUpTo):
                return self._facts.known_catalogs(step.before) or self._facts.catalogs(step.before)
            if not self._slots.acquire(timeout=self._timeout_s):
                raise GateUnavailable(
                    f"{CALLS_AT_ONCE_MAX} calls are waiting for answers, and none came within "
                    f"{self._timeout_s:g} s"
                )
            try:
                return ask(redis, keys, step)
            finally:
                self._slots.release()

        try:
            return run(query, answer)
        except (ViewError, NoRate) as error:
            raise _as_gate_error(error) from error


class AsyncDirectTransport:
    """See `AsyncTransport`. It belongs to one event loop."""

    def __init__(
        self,
        kafka: KafkaConnection,
        redis_url: str,
        prefix: str,
        clock: Clock,
        timeout_s: float,
        holder: Holder,
    ) -> None:
        self._facts = LedgerFacts(kafka, prefix, timeout_s)
        self._redis = connect(redis_url, timeout_s=timeout_s)
        self._clock = clock
        self._holder = holder
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(CALLS_AT_ONCE_MAX)

    async def prepare(self) -> None:
        self._facts.be_patient()
        await self._run("", quote_query([], self._clock))

    async def check(self, account: str, use: Use) -> CheckAnswer:
        return check_answer(await self._run(account, check_query(account, use, self._clock)))

    async def quote(self, uses: Sequence[Use]) -> QuoteAnswer:
        return quote_answer(await self._run("", quote_query(uses, self._clock)))

    async def hold(self, account: str, hold_id: str, use: Use, life_s: int) -> HoldAnswer:
        query = hold_query(account, hold_id, use, life_s * 1_000, self._clock, self._holder)
        return hold_answer(await self._run(account, query), hold_id)

    async def release(self, account: str, hold_id: str) -> ReleaseAnswer:
        query = release_query(account, hold_id, (self._holder,))
        return release_answer(account, hold_id, await self._run(account, query))

    async def close(self) -> None:
        await self._redis.aclose()

    async def _keys(self, account: str) -> PartitionKeys:
        if not self._facts.is_known:
            await asyncio.to_thread(self._facts.learn)
        return self._facts.keys(account)

    async def _run(self, account: str, query: Query[T]) -> T:
        keys = await self._keys(account)

        async def answer(step: Step) -> Any:
            if isinstance(step, CatalogsUpTo):
                known = self._facts.known_catalogs(step.before)
                return known or await asyncio.to_thread(self._facts.catalogs, step.before)
            async with asyncio.timeout(self._timeout_s), self._slots:
                return await ask_async(self._redis, keys, step)

        try:
            return await run_async(query, answer)
        except (ViewError, NoRate) as error:
            raise _as_gate_error(error) from error
        except TimeoutError as error:
            raise _as_gate_error(view_error(error)) from None


def _as_gate_error(error: ViewError | NoRate) -> Exception:
    if isinstance(error, NoRate):
        return UnknownUse(str(error), error.reason)
    return (
        GateUnavailable(str(error))
        if error.retriable
        else GateMisconfigured(f"{error}: `usageledger doctor` says how to mend it")
    )
