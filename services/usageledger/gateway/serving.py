"""The gateway as a service: its parts on the real Kafka and Redis, under uvicorn, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import uvicorn
from redis.exceptions import RedisError

from usageledger.counters.connection import AsyncClient, connect
from usageledger.gateway.access import Keys
from usageledger.gateway.app import create_app
from usageledger.gateway.asking import Gateway
from usageledger.gateway.history.reading import HistoryReader
from usageledger.gateway.history.tables import HISTORY_FILE
from usageledger.gateway.inspecting import Connections, Inspector
from usageledger.gateway.reading import Accounts
from usageledger.gateway.reporting import Reporter
from usageledger.gateway.store import open_store
from usageledger.log.import_mode import ImportMode
from usageledger.log.published_catalogs import PublishedCatalogs
from usageledger.log.topics import Topics

STORE_FILE = "gateway.db"
ANSWER_WITHIN_S = 2.0
FINISH_WITHIN_S = 3
BACKLOG = 2_048

logger = logging.getLogger(__name__)


class LedgerMissing(Exception):
    """There is no ledger to serve. The message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """Where the ledger is, where to listen, and what may ask. ``key``: an app key with every scope that is to work from the start."""

    kafka: str
    redis_url: str
    prefix: str
    data: Path
    host: str = "127.0.0.1"
    port: int = 8_137
    key: str | None = None
    allowed_origins: tuple[str, ...] = ()


async def run_gateway(options: GatewayOptions, stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set. Raises LedgerMissing, KafkaError, ViewError, OSError where it cannot begin."""
    with _listening(options.host, options.port) as listener:
        async with open_gateway(options) as gateway:
            app = create_app(gateway, allowed_origins=options.allowed_origins)
            config = uvicorn.Config(
                app, access_log=False, log_config=None, lifespan="off", server_header=False, timeout_graceful_shutdown=FINISH_WITHIN_S
            )
            server = _Server(config)
            logger.info("answering at http://%s:%d", options.host, options.port)
            ended, stopping = asyncio.create_task(server.serve([listener])), asyncio.create_task(stop.wait())
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            stopping.cancel()
            await ended


def _listening(host: str, port: int) -> socket.socket:
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG)
        # Connections have it from here. asyncio sets it only on sockets that name their protocol, which this one does not; without it an
        # answer's body waits 40 ms for the caller to acknowledge its head.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        raise OSError(
            f"nothing can listen at {host}:{port} ({error.strerror}): name another with --port or USAGELEDGER_GATEWAY_PORT"
        ) from None


@asynccontextmanager
async def open_gateway(options: GatewayOptions) -> AsyncIterator[Gateway]:
    """The gateway's parts, and what runs beside its requests, for as long as the context lasts."""
    catalogs = PublishedCatalogs(options.kafka, options.prefix)
    partition_count = await asyncio.to_thread(catalogs.partition_count)
    if partition_count == 0:
        raise LedgerMissing(f"there is no topic {Topics(options.prefix).ledger}: `usageledger up` makes a ledger")
    import_mode = ImportMode(options.kafka, Topics(options.prefix))
    await import_mode.ask()
    async with AsyncExitStack() as stack:
        redis = connect(options.redis_url, timeout_s=ANSWER_WITHIN_S)
        stack.push_async_callback(redis.aclose)
        store, turn = open_store(options.data / STORE_FILE), threading.Lock()
        stack.callback(store.close)
        keys = Keys(store, turn)
        if options.key is not None:
            keys.ensure(options.key, "from the start", datetime.now(UTC))
        accounts = Accounts(redis, catalogs, prefix=options.prefix, partition_count=partition_count, is_importing=import_mode.is_on)
        history = HistoryReader(options.data / HISTORY_FILE)
        stack.callback(history.close)
        inspector = Inspector(partial(Connections, options.kafka, options.redis_url, options.prefix), options.prefix, catalogs)
        stack.callback(inspector.close)
        reporter = Reporter(options.kafka)
        stack.push_async_callback(reporter.close)
        gateway = Gateway(
            store=store,
            store_turn=turn,
            keys=keys,
            accounts=accounts,
            history=history,
            inspector=inspector,
            topics=Topics(options.prefix),
            report=reporter.report,
        )
        gateway.readiness["redis"] = lambda: _redis_answers(redis)
        watching = asyncio.create_task(import_mode.watch())
        stack.callback(watching.cancel)
        yield gateway


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
