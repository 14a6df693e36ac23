"""Waiting until the processor and the limits consumer have nothing left to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from usageledger.counters.connection import connect_blocking
from usageledger.history.reading import HistoryAbsent, reach_of
from usageledger.log.reading import log_reader
from usageledger.log.topics import Topics
from usageledger.operations.kafka_probe import admin_client
from usageledger.operations.lags import LagReader, LedgerLags
from usageledger.operations.ledger_view import ledger_partitions

POLL_S = 0.2
CONFIRM_AFTER_S = 0.3
STALLED_AFTER_S = 120.0

LookAtLags = Callable[[], LedgerLags]


@contextmanager
def lag_reader(
    kafka: str, redis_url: str, prefix: str, *, timeout_ms: int = 30_000
) -> Iterator[LagReader]:
    """A lag reader with connections of its own.

    Raises OperatorError where there is no ledger, or no broker answers within ``timeout_ms``.
    """
    redis = connect_blocking(redis_url)
    try:
        connect_admin = partial(admin_client, kafka, timeout_ms=timeout_ms)
        with log_reader(kafka) as reader:
            ledger_partitions(reader, prefix)
            with closing(LagReader(reader, redis, connect_admin, prefix)) as lags:
                yield lags
    finally:
        redis.close()


def wait_until_idle(
    look: LookAtLags,
    timeout_s: float | None,
    on_look: Callable[[LedgerLags], None] | None = None,
    *,
    stalled_after_s: float = STALLED_AFTER_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> LedgerLags:
    """Look until nothing waits, twice in a row without anything having come in between.

    Returns the last look.

    Is that not idle, ``timeout_s`` have passed (None: however long it takes), or
    ``stalled_after_s`` without any lag having changed.
    """
    began_s = moved_s = clock()
    before: LedgerLags | None = None
    while True:
        lags = look()
        if on_look is not None:
            on_look(lags)
        if lags.is_idle and before is not None and before.is_idle and before.ends == lags.ends:
            return lags
        if before is None or before.lags != lags.lags:
            moved_s = clock()
        is_late = timeout_s is not None and clock() - began_s >= timeout_s
        if not lags.is_idle and (is_late or clock() - moved_s >= stalled_after_s):
            return lags
        before = lags
        sleep(CONFIRM_AFTER_S if lags.is_idle else POLL_S)


def service_lags(lags: LedgerLags) -> dict[str, int | None]:
    """The lag of each service of the stack, in records not yet handled; None for those that have
    none.
    """
    return {
        "kafka": None,
        "redis": None,
        "processor": lags.records("usage", "account", "catalog"),
        "limits": lags.records("limits"),
    }


def history_lag(lags: LedgerLags, prefix: str, history: Path) -> int | None:
    """How many records of the ledger are not in this ``history.db`` yet, None where that cannot be
    told.

    Nobody waits for it: the history decides nothing, and who shows what is in it says how far it
    reaches.
    """
    try:
        reached = reach_of(history)
    except HistoryAbsent:
        return None
    return lags.beyond(Topics(prefix).ledger, reached)
