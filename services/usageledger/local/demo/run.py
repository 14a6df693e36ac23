"""Runs the demo from a fresh stack to the verdict."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from usageledger.audit.verify import verify
from usageledger.counters.connection import connect_blocking
from usageledger.counters.reading import read_account
from usageledger.domain.catalog_document import load_shipped_catalog
from usageledger.domain.encoding import decode_account
from usageledger.ledger.partitioning import partition_of
from usageledger.local.addresses import Addresses
from usageledger.local.demo.customer import Studio, Tally
from usageledger.local.demo.result import DemoResult
from usageledger.local.demo.screen import Screen
from usageledger.local.demo.workload import ACCOUNTS, Use, account_name, subscriptions, trace, uses
from usageledger.local.errors import StackError
from usageledger.local.gateway_files import gateway_key
from usageledger.local.servers import Backend
from usageledger.local.stack import Stack
from usageledger.log.reading import log_reader
from usageledger.log.topics import Topics
from usageledger.operations.catalogs import publish_shipped
from usageledger.operations.idleness import wait_until_idle
from usageledger.operations.lags import lag_reader

SPEED = 140.0
"""Seconds of the trace for each second of the demo: its hour takes 25 s."""

WATCHED = 4
"""The account whose meter is shown: on Pro, and busy enough to run out."""

IDLE_TIMEOUT_S = 120.0
LOOK_INTERVAL_S = 0.5
KILL_AT, EMPTY_AT = 0.2, 0.8
"""The shares of the trace after which a disaster's two faults happen."""


def run_demo(
    screen: Screen,
    *,
    data: Path | None = None,
    backend: Backend = "packages",
    speed: float = SPEED,
    disaster: bool = False,
) -> DemoResult:
    """Bring a stack up, play the trace, wait until all is decided, audit, compare every meter.

    Without ``data``, the stack has a temporary directory, which is removed after a success. Raises
    StackError if the stack does not come up, or does not decide everything in time.
    """
    with _directory(data) as directory:
        stack = Stack(
            directory, backend=backend, prepare=_publish, prefix=f"demo-{int(time.time())}"
        )
        addresses = stack.start(screen)
        try:
            screen.show_addresses(stack.status(), addresses)
            screen.show_pages(addresses.gateway, account_name(WATCHED), gateway_key(addresses.data))
            result = _play_and_audit(screen, stack, addresses, speed, disaster)
            screen.wait_for_viewer()
            return result
        finally:
            screen.say("stopping")
            stack.stop()


def _play_and_audit(
    screen: Screen, stack: Stack, addresses: Addresses, speed: float, disaster: bool
) -> DemoResult:
    studio = Studio(addresses.kafka, addresses.prefix, addresses.data / "spool")
    studio.open_accounts(subscriptions())
    plan = list(uses(trace(), load_shipped_catalog()))
    faults = list(_faults(screen, stack, addresses, len(plan))) if disaster else []
    with _live_figures(screen, addresses, studio.tally):
        studio.play(plan, speed, lambda use: _cause_if_due(faults, use))
        with lag_reader(addresses.kafka, addresses.redis_url, addresses.prefix) as lags:
            final = wait_until_idle(lags.look, IDLE_TIMEOUT_S)
    if not final.is_idle:
        raise StackError(
            f"not all usage was decided within {IDLE_TIMEOUT_S:.0f} s: {final.waiting[0]}; see "
            f"{addresses.data / 'logs'}"
        )
    report = verify(addresses.kafka, addresses.redis_url, addresses.prefix)
    result = DemoResult(
        tally=studio.tally, report=report, meters_wrong=list(_wrong_meters(addresses, studio.tally))
    )
    screen.show_verdict(result)
    return result


def _publish(addresses: Addresses) -> None:
    publish_shipped(addresses.kafka, addresses.prefix, datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class _Fault:
    at: int
    cause: Callable[[], None]


def _faults(screen: Screen, stack: Stack, addresses: Addresses, count: int) -> Iterator[_Fault]:
    """First the processor is killed without warning, then Redis loses everything."""

    def kill_processor() -> None:
        pid = next(
            service["pid"]
            for service in stack.status()["services"]
            if service["name"] == "processor"
        )
        screen.show_fault(f"kill -9 {pid}: the processor dies between two events")
        os.kill(pid, signal.SIGKILL)

    def empty_redis() -> None:
        screen.show_fault("FLUSHALL: Redis forgets every counter")
        redis = connect_blocking(addresses.redis_url)
        try:
            redis.flushall()
        finally:
            redis.close()

    yield _Fault(int(count * KILL_AT), kill_processor)
    yield _Fault(int(count * EMPTY_AT), empty_redis)


def _cause_if_due(faults: list[_Fault], use: Use) -> None:
    if faults and int(use.id.removeprefix("gen_")) >= faults[0].at:
        faults.pop(0).cause()


def _wrong_meters(addresses: Addresses, tally: Tally) -> Iterator[str]:
    """The accounts whose meter differs from the studio's own count.

    An account that left Free in the demo has also used something in its previous period.
    """
    redis = connect_blocking(addresses.redis_url)
    try:
        with log_reader(addresses.kafka) as reader:
            partition_count = reader.partition_count(Topics(addresses.prefix).ledger)
        for number in range(ACCOUNTS):
            account = account_name(number)
            blob = read_account(
                redis, addresses.prefix, partition_of(account.encode(), partition_count), account
            ).account
            state = None if blob is None else decode_account(blob)
            used = (
                0
                if state is None
                else state.period.used + (state.previous.used if state.previous is not None else 0)
            )
            if used != tally.generated[account]:
                yield account
    finally:
        redis.close()


@contextmanager
def _live_figures(screen: Screen, addresses: Addresses, tally: Tally) -> Iterator[None]:
    """Show the figures about twice a second until the end."""
    is_over = threading.Event()

    def watch() -> None:
        with lag_reader(addresses.kafka, addresses.redis_url, addresses.prefix) as lags:
            while not is_over.wait(LOOK_INTERVAL_S):
                screen.show_figures(tally, lags.look().records("usage", "account"))

    watcher = threading.Thread(target=watch, name="demo-watch", daemon=True)
    with screen.live():
        watcher.start()
        try:
            yield
        finally:
            is_over.set()
            watcher.join(10.0)


@contextmanager
def _directory(data: Path | None) -> Iterator[Path]:
    if data is not None:
        yield data
        return
    directory = Path(tempfile.mkdtemp(prefix="usageledger-demo-"))
    try:
        yield directory
    except Exception as error:
        raise StackError(f"{error} (the demo's files are kept in {directory})") from error
    shutil.rmtree(directory, ignore_errors=True)
