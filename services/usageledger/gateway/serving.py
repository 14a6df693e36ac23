"""The gateway as a service: its parts on the real Kafka and Redis, under uvicorn, until it is told
to stop.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from redis.exceptions import RedisError

from usageledger.accounts.queries import Clock
from usageledger.accounts.reader import Accounts, StoredAccounts
from usageledger.counters.connection import AsyncClient, connect
from usageledger.gateway.access.app_keys import Keys
from usageledger.gateway.app import create_app
from usageledger.gateway.dependencies import Gateway
from usageledger.gateway.event_publisher import Reporter
from usageledger.gateway.idempotency import forget_old
from usageledger.gateway.inspector import Connections, Inspector
from usageledger.gateway.store import open_store, transaction
from usageledger.gateway.streams.limit_follower import LimitFollower, limit_topic
from usageledger.gateway.streams.limit_store import LimitRecord
from usageledger.gateway.webhooks.addresses import Reach
from usageledger.gateway.webhooks.sending import WebhookSender
from usageledger.history.reading import HistoryReader
from usageledger.history.tables import HISTORY_FILE
from usageledger.ledger.timestamps import milliseconds
from usageledger.log.import_mode import ImportMode
from usageledger.log.published_catalogs import PublishedCatalogs
from usageledger.log.topics import Topics
from usageledger.runtime.tasks import is_being_cancelled
from usageledger.sdk.tokens import split_key

STORE_FILE = "gateway.db"
ANSWER_WITHIN_S = 2.0
FINISH_WITHIN_S = 3
BACKLOG = 2_048
CONNECTIONS = 16_384
PRUNE_ON_AFTER_S = 1.0
PRUNE_AGAIN_AFTER_S = 600.0

logger = logging.getLogger(__name__)


class LedgerMissing(Exception):
    """There is no ledger to serve. The message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """Where the ledger is, where to listen, and what may ask.

    ``key``: an app key with every scope that is to work from the start.
    """

    kafka: str
    redis_url: str
    prefix: str
    data: Path
    host: str = "127.0.0.1"
    port: int = 8_137
    key: str | None = None
    allowed_origins: tuple[str, ...] = ()
    webhook_reach: Reach = "public"


async def run_gateway(options: GatewayOptions, stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set.

    Raises LedgerMissing, KafkaError, ViewError, OSError where it cannot begin.
    """
    with _listening(options.host, options.port) as listener:
        async with open_gateway(options) as gateway:
            app = create_app(gateway, allowed_origins=options.allowed_origins)
            config = uvicorn.Config(
                app,
                access_log=False,
                log_config=None,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=FINISH_WITHIN_S,
            )
            server = _Server(config)
            logger.info("answering at http://%s:%d", options.host, options.port)
            ended, stopping = (
                asyncio.create_task(server.serve([listener])),
                asyncio.create_task(stop.wait()),
            )
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            gateway.streams.end_all()
            server.should_exit = True
            stopping.cancel()
            await ended


def _listening(host: str, port: int) -> socket.socket:
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
        )
        # Connections have it from here. asyncio sets it only on sockets that name their protocol,
        # which this one does not; without it an answer's body waits 40 ms for the caller to
        # acknowledge its head.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        raise OSError(
            f"nothing can listen at {host}:{port} ({error.strerror}): name another with --port or "
            "USAGELEDGER_GATEWAY_PORT"
        ) from None


@asynccontextmanager
async def open_gateway(options: GatewayOptions) -> AsyncIterator[Gateway]:
    """The gateway's parts, and what runs beside its requests, for as long as the context lasts."""
    catalogs = PublishedCatalogs(options.kafka, options.prefix)
    partition_count = await asyncio.to_thread(catalogs.partition_count)
    if partition_count == 0:
        raise LedgerMissing(
            f"there is no topic {Topics(options.prefix).ledger}: `usageledger up` makes a ledger"
        )
    import_mode = ImportMode(options.kafka, Topics(options.prefix))
    await import_mode.ask()
    allow_many_connections()
    async with AsyncExitStack() as stack:
        redis = connect(options.redis_url, timeout_s=ANSWER_WITHIN_S)
        stack.push_async_callback(redis.aclose)
        store, turn = open_store(options.data / STORE_FILE), threading.Lock()
        stack.callback(store.close)
        keys = Keys(store, turn)
        if options.key is not None:
            _let_in(keys, options.key)
        accounts = Accounts(
            StoredAccounts(redis, catalogs, prefix=options.prefix),
            partition_count=partition_count,
            clock=Clock(is_importing=import_mode.is_on),
        )
        history = HistoryReader(options.data / HISTORY_FILE)
        stack.callback(history.close)
        inspector = Inspector(
            partial(Connections, options.kafka, options.redis_url, options.prefix),
            options.prefix,
            catalogs,
        )
        stack.callback(inspector.close)
        reporter = Reporter(options.kafka)
        stack.push_async_callback(reporter.close)
        gateway = Gateway(
            store=store,
            store_turn=turn,
            keys=keys,
            accounts=accounts,
            history=history,
            topics=Topics(options.prefix),
            report=reporter.report,
            inspector=inspector,
            webhook_reach=options.webhook_reach,
        )
        stack.callback(gateway.store_thread.close)
        gateway.readiness["redis"] = lambda: _redis_answers(redis)
        follower, sender = _announcing(gateway, options)
        beside = (
            import_mode.watch(),
            gateway.streams.run(),
            follower.run(),
            sender.run(),
            _prune_now_and_then(gateway),
        )
        await stack.enter_async_context(_running(*beside))
        yield gateway


def _let_in(keys: Keys, key: str) -> None:
    """See to it that the configured key works.

    One that was ended keeps the gateway from nothing: there are others.
    """
    if not keys.ensure(key, "from the start", datetime.now(UTC)):
        key_id, _ = split_key(key)
        logger.warning(
            "the configured key %s does not work: it was revoked, or its secret was rotated away. "
            "Configure another one",
            key_id,
        )


def _announcing(gateway: Gateway, options: GatewayOptions) -> tuple[LimitFollower, WebhookSender]:
    """Who follows limit events and who delivers them."""
    sender = WebhookSender(
        gateway.webhook_endpoints,
        gateway.webhook_deliveries,
        gateway.store_thread,
        options.webhook_reach,
    )

    def hand_on(events: Sequence[LimitRecord]) -> None:
        gateway.streams.hand_over(events)
        sender.wake()

    # Who went on listening would hear nothing and take it for calm.
    follower = LimitFollower(
        limit_topic(options.kafka, gateway.topics.limit),
        gateway.accounts.partition_count,
        gateway.limits,
        gateway.store_thread,
        hand_on,
        gateway.streams.end_all,
    )
    gateway.limits_trouble = follower.trouble
    gateway.streams.untold = follower.untold
    gateway.webhooks_changed = sender.wake_all

    async def trouble() -> str | None:
        return follower.trouble()

    gateway.readiness["limit_events"] = trouble
    return follower, sender


@asynccontextmanager
async def _running(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """What runs beside the requests, ended with the context.

    If a part fails, so does the whole: a gateway that goes on without one tells its listeners
    nothing, and they would not know.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_to_its_end(coroutine)) for coroutine in coroutines]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _to_its_end(coroutine: Coroutine[Any, Any, None]) -> None:
    """A group takes a task that was cancelled for one that was told to end; by whom, it does not
    ask.
    """
    try:
        await coroutine
    except asyncio.CancelledError as error:
        if not is_being_cancelled():
            raise RuntimeError(
                "a part of the gateway was cancelled, and nobody had told it to end"
            ) from error
        raise


async def _prune_now_and_then(gateway: Gateway) -> None:
    """Let go of what is too old, a little at a time."""
    while True:
        now = gateway.now()
        now_ms = milliseconds(now)
        try:
            pruned = await gateway.store_thread.run(gateway.limits.prune, now_ms)
            pruned += await gateway.store_thread.run(gateway.webhook_deliveries.prune, now_ms)
            await gateway.store_thread.run(_forget_requests, gateway, now)
        except sqlite3.Error:
            logger.exception("what is too old could not be let go of, trying again")
            pruned = 0
        await asyncio.sleep(PRUNE_ON_AFTER_S if pruned else PRUNE_AGAIN_AFTER_S)


def _forget_requests(gateway: Gateway, now: datetime) -> None:
    with transaction(gateway.store, gateway.store_turn) as store:
        forget_old(store, now)


def allow_many_connections() -> None:
    """A stream is a connection, and a process is given a thousand or so to begin with: take as many
    as it may have.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS if hard == resource.RLIM_INFINITY else min(CONNECTIONS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Server(uvicorn.Server):
    """Signals are the process's part."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _redis_answers(redis: AsyncClient) -> str | None:
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await redis.ping()
    except (RedisError, OSError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    return None
