"""The gateway as a service: its parts on the real Kafka and Redis, under uvicorn."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from prometheus_client import REGISTRY

from usageledger.accounts.queries import Clock
from usageledger.accounts.reader import Accounts, StoredAccounts
from usageledger.counters.connection import AsyncClient, connect
from usageledger.counters.replies import view_error
from usageledger.counters.troubles import REFUSING_WRITES
from usageledger.counters.write_probe import refusal_async
from usageledger.gateway.access.app_keys import Keys
from usageledger.gateway.access.rate_limits import RateLimits
from usageledger.gateway.app import create_app
from usageledger.gateway.connections.caps import (
    PER_ADDRESS,
    Caps,
    Networks,
    connections_allowed,
)
from usageledger.gateway.connections.certificate import Certificate
from usageledger.gateway.connections.server import BoundedServer, listening_socket
from usageledger.gateway.inspector import Inspector
from usageledger.gateway.metrics import show_counts
from usageledger.gateway.parts import Gateway
from usageledger.gateway.readiness import Check, Lack, Readiness
from usageledger.gateway.stores import Stores
from usageledger.gateway.streams.account_streams import Streams
from usageledger.gateway.streams.limit_follower import LimitFollower, limit_topic
from usageledger.gateway.streams.limit_store import LimitRecord
from usageledger.gateway.streams.limits_health import LimitsHealth
from usageledger.gateway.webhooks.addresses import PUBLIC, Destinations
from usageledger.gateway.webhooks.sending import WebhookSender
from usageledger.history.reading import HistoryReader
from usageledger.history.tables import HISTORY_FILE
from usageledger.log.diagnosis import LastProblem
from usageledger.log.event_publisher import EventPublisher, Outgoing, Publish, Sent
from usageledger.log.import_mode import ImportMode
from usageledger.log.partition_counts import (
    PartitionCountWatch,
    ledger_partition_count,
    watched_partition_counts,
)
from usageledger.log.published_catalogs import PublishedCatalogs
from usageledger.log.reading import log_reader
from usageledger.log.topics import Topics
from usageledger.operations.ledger_inspection import LedgerConnections
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.runtime.tasks import is_being_cancelled
from usageledger.runtime.telemetry import Report, Telemetry
from usageledger.sdk.tokens import split_key

STORE_FILE = "gateway.db"
ANSWER_WITHIN_S = 2.0
FINISH_WITHIN_S = 3
REPORT_AGAIN_AFTER_S = 5.0
PRUNE_ON_AFTER_S = 1.0
PRUNE_AGAIN_AFTER_S = 600.0

log = logging.getLogger(__name__)


class LedgerMissing(Exception):
    """There is no ledger to serve. The message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """Where the ledger is, where to listen, and which origins may ask.

    ``key`` is an app key that works from the start, with every scope. ``trusted_proxies`` are the
    networks of peers whose ``X-Forwarded-For`` is believed. ``certificate`` is the certificate's
    file, and that of its key if it is another.
    """

    kafka: KafkaConnection
    redis_url: str
    prefix: str
    data: Path
    host: str = "127.0.0.1"
    port: int = 8_137
    key: str | None = None
    allowed_origins: tuple[str, ...] = ()
    webhook_destinations: Destinations = PUBLIC
    trusted_proxies: Networks = ()
    connections_per_address: int = PER_ADDRESS
    certificate: tuple[Path, Path | None] | None = None


async def run_gateway(options: GatewayOptions, stop: asyncio.Event, telemetry: Telemetry) -> None:
    """Serve until ``stop`` is set. The telemetry gets the metrics, and whether all is ready.

    Raises LedgerMissing, CertificateError, KafkaError, ViewError, OSError if it cannot start.
    """
    certificate = options.certificate and Certificate(*options.certificate)
    caps = Caps(connections_allowed(), options.connections_per_address, options.trusted_proxies)
    with listening_socket(options.host, options.port) as listener:
        telemetry.use_registry(REGISTRY)
        async with open_gateway(options, telemetry.update) as gateway:
            app = create_app(gateway, allowed_origins=options.allowed_origins)
            config = uvicorn.Config(
                app,
                access_log=False,
                log_config=None,
                lifespan="off",
                ws="none",
                server_header=False,
                # Otherwise uvicorn believes whoever connects from this machine.
                proxy_headers=bool(options.trusted_proxies),
                forwarded_allow_ips=[str(network) for network in options.trusted_proxies],
                timeout_graceful_shutdown=FINISH_WITHIN_S,
            )
            server = BoundedServer(config, listener, caps, certificate)
            scheme = "http" if certificate is None else "https"
            log.info("answering at %s://%s:%d", scheme, options.host, options.port)
            ended, stopping = (
                asyncio.create_task(server.serve([listener])),
                asyncio.create_task(stop.wait()),
            )
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            gateway.streams.end_all()
            server.should_exit = True
            stopping.cancel()
            await ended


@asynccontextmanager
async def open_gateway(
    options: GatewayOptions, on_report: Callable[[Report], None]
) -> AsyncIterator[Gateway]:
    """Make the gateway's parts, and run its background tasks for as long as the context lasts.

    Raises as `run_gateway`.
    """
    topics = Topics(options.prefix)
    catalogs = PublishedCatalogs(options.kafka, options.prefix)
    partition_count = await asyncio.to_thread(_ledger_partition_count, options.kafka, topics)
    if partition_count == 0:
        raise LedgerMissing(f"there is no topic {topics.ledger}: `usageledger up` makes a ledger")
    import_mode = ImportMode(options.kafka, topics)
    await import_mode.ask()
    async with AsyncExitStack() as stack:
        redis = connect(options.redis_url, timeout_s=ANSWER_WITHIN_S)
        stack.push_async_callback(redis.aclose)
        stores = Stores(options.data / STORE_FILE)
        stack.callback(stores.close)
        if options.key is not None:
            _install_key(stores.keys, options.key)
        accounts = Accounts(
            StoredAccounts(redis, catalogs, prefix=options.prefix),
            partition_count=partition_count,
            clock=Clock(is_importing=import_mode.is_on),
        )
        history = HistoryReader(options.data / HISTORY_FILE)
        stack.callback(history.close)
        connect_to_ledger = partial(
            LedgerConnections, options.kafka, options.redis_url, options.prefix, catalogs
        )
        inspector = Inspector(connect_to_ledger)
        stack.callback(inspector.close)
        publisher = EventPublisher(options.kafka)
        stack.push_async_callback(publisher.close)
        watch = stack.enter_context(
            watched_partition_counts(options.kafka, topics, partition_count)
        )
        limits = _limit_parts(options, topics, accounts, stores)
        gateway = Gateway(
            topics=topics,
            now=_utc_now,
            stores=stores,
            accounts=accounts,
            history=history,
            inspector=inspector,
            publish=partial(_publish_unless_stopped, watch, publisher.publish),
            streams=limits.streams,
            limits_trouble=limits.health.trouble,
            wake_webhooks=limits.sender.wake_all,
            webhook_destinations=options.webhook_destinations,
            rate_limits=RateLimits(),
            readiness=_readiness(redis, limits.health, LastProblem(options.kafka), watch),
        )
        background = (import_mode.watch(), *limits.loops(), _prune_loop(stores))
        background += (_report_loop(gateway, on_report),)
        await stack.enter_async_context(_running(*background))
        yield gateway


def _ledger_partition_count(kafka: KafkaConnection, topics: Topics) -> int:
    with log_reader(kafka) as reader:
        return ledger_partition_count(reader, topics)


def _readiness(
    redis: AsyncClient,
    health: LimitsHealth,
    kafka_problem: LastProblem,
    watch: PartitionCountWatch,
) -> Readiness:
    return Readiness(
        {
            "redis": partial(_redis_trouble, redis, watch),
            "limit_events": partial(_limits_trouble, health, kafka_problem),
            "partition_counts": _as_check(lambda: watch.difference),
        }
    )


async def _publish_unless_stopped(
    watch: PartitionCountWatch, publish: Publish, records: Sequence[Outgoing]
) -> Sequence[Sent]:
    """Publish nothing for a ledger that decides nothing: the caller still has the events."""
    if watch.difference is not None:
        return [Sent(None, watch.difference)] * len(records)
    return await publish(records)


class _LimitParts(NamedTuple):
    health: LimitsHealth
    follower: LimitFollower
    streams: Streams
    sender: WebhookSender

    def loops(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """The loop of each part, which runs until cancelled."""
        return self.streams.run(), self.follower.run(), self.sender.run()


def _limit_parts(
    options: GatewayOptions, topics: Topics, accounts: Accounts, stores: Stores
) -> _LimitParts:
    """The follower of limit events, and the two parts that it announces them to."""
    health = LimitsHealth()
    streams = Streams(accounts, stores.limits, stores.thread, _utc_now, health.stream_trouble)
    sender = WebhookSender(
        stores.endpoints, stores.deliveries, stores.thread, options.webhook_destinations
    )

    def announce(events: Sequence[LimitRecord]) -> None:
        streams.announce(events)
        sender.wake()

    follower = LimitFollower(
        limit_topic(options.kafka, topics.limit),
        accounts.partition_count,
        stores.limits,
        stores.thread,
        health,
        on_events=announce,
        # A client left connected would receive nothing and assume that nothing happened.
        on_stopped=streams.end_all,
    )
    return _LimitParts(health, follower, streams, sender)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _install_key(keys: Keys, key: str) -> None:
    """Make the configured key work. If it was revoked, the gateway starts with its other keys."""
    if not keys.ensure(key, "from the start", _utc_now()):
        key_id, _ = split_key(key)
        log.warning(
            "the configured key %s does not work: it was revoked, or its secret was rotated away. "
            "Configure another one",
            key_id,
        )


@asynccontextmanager
async def _running(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these beside the requests, and cancel them at the end of the context.

    If one fails, the gateway ends. Without it, clients that listen would receive nothing and would
    not notice.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_until_cancelled(coroutine)) for coroutine in coroutines]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _until_cancelled(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a part, and fail if it is cancelled by anybody but us.

    A task group ignores a cancelled task, whoever has cancelled it.
    """
    try:
        await coroutine
    except asyncio.CancelledError as error:
        if not is_being_cancelled():
            raise RuntimeError(
                "a part of the gateway was cancelled, though the gateway is not ending"
            ) from error
        raise


async def _prune_loop(stores: Stores) -> None:
    """Delete what is too old, a little at a time, until cancelled."""
    while True:
        try:
            pruned = await stores.prune(_utc_now())
        except sqlite3.Error:
            log.exception("old rows of gateway.db could not be deleted, trying again")
            pruned = 0
        await asyncio.sleep(PRUNE_ON_AFTER_S if pruned else PRUNE_AGAIN_AFTER_S)


async def _report_loop(gateway: Gateway, on_report: Callable[[Report], None]) -> None:
    """Report to the telemetry until cancelled."""
    stores = gateway.stores
    while True:
        try:
            show_counts(await stores.thread.run(stores.counts))
        except sqlite3.Error:
            log.exception("gateway.db could not be counted, trying again")
        lacks = await gateway.readiness.look()
        unready, degraded = lacks.reasons(lacks.missing), lacks.reasons(lacks.degraded)
        on_report(Report(unready=unready, degraded=degraded))
        await asyncio.sleep(REPORT_AGAIN_AFTER_S)


async def _limits_trouble(health: LimitsHealth, kafka_problem: LastProblem) -> Lack | None:
    """Why limit events are missing. Kafka is looked at only if they are."""
    trouble = health.trouble()
    if trouble is None:
        return None
    problem = await asyncio.to_thread(kafka_problem)
    return Lack(problem or trouble)


async def _redis_trouble(redis: AsyncClient, watch: PartitionCountWatch) -> Lack | None:
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            refused = await refusal_async(redis, watch.topics.prefix, watch.count)
    except TimeoutError as error:
        refused = view_error(error)
    if refused is None:
        return None
    # Reads are still answered, so checks and meters are too.
    return Lack(str(refused), refused.cause, is_partial=refused.cause in REFUSING_WRITES)


def _as_check(trouble: Callable[[], str | None]) -> Check:
    async def check() -> Lack | None:
        why = trouble()
        return None if why is None else Lack(why)

    return check
