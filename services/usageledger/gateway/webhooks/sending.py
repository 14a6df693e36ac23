"""Sends due deliveries, with a worker for each endpoint: no endpoint delays another.

An attempt is stored after it was made. A gateway that is killed in between makes it again, under
the same ``webhook-id``. So each delivery is made at least once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import random
import ssl
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx

from usageledger.gateway.metrics import WEBHOOK_ATTEMPTS, WEBHOOK_SECONDS
from usageledger.gateway.store import StoreThread
from usageledger.gateway.webhooks.addresses import (
    Destinations,
    NotAllowed,
    addresses_of,
    check_url,
    port_of,
)
from usageledger.gateway.webhooks.deliveries import Delivery, DeliveryStore
from usageledger.gateway.webhooks.endpoints import Endpoint, EndpointStore
from usageledger.gateway.webhooks.schedule import AT_ONCE, Attempt, after_attempt, pace_after
from usageledger.gateway.webhooks.signing import signed_headers
from usageledger.gateway.webhooks.special_addresses import is_special
from usageledger.ledger.timestamps import milliseconds

ANSWER_WITHIN_S = 15.0
"""As the specification suggests."""
BODY_WITHIN_S = 2.0
ANSWER_BYTES_MAX = 16_384
_DIGITS_MAX = 7
ACCOUNTS_LOOKED_AT = 64
LOOK_AGAIN_AFTER_S = 60.0
AFTER_A_FAILURE_S = 1.0

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Worker:
    """The worker of one endpoint.

    It resolves names in a thread of its own, so a resolver that hangs delays this endpoint alone.
    """

    task: asyncio.Task[None] | None = None
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    resolver: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, "webhook-names")
    )
    failures_in_row: int = 0
    rests_until_s: float = 0.0


class WebhookSender:
    """Delivers to all endpoints. Call `wake` when there may be something new."""

    def __init__(
        self,
        endpoints: EndpointStore,
        deliveries: DeliveryStore,
        thread: StoreThread,
        destinations: Destinations,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._endpoints = endpoints
        self._deliveries = deliveries
        self._thread = thread
        self._destinations = destinations
        self._now = now
        self._workers: dict[str, _Worker] = {}
        self._woken = asyncio.Event()
        self._tls: ssl.SSLContext | None = None

    def wake(self) -> None:
        """Look for due deliveries at once: there may be new ones."""
        for worker in self._workers.values():
            worker.woken.set()

    def wake_all(self) -> None:
        """As `wake`, and read the endpoints again: one may be new, deleted or changed."""
        self._woken.set()
        self.wake()

    async def run(self) -> None:
        """Deliver until cancelled."""
        self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        try:
            while True:
                self._woken.clear()
                try:
                    self._keep_workers(await self._thread.run(self._endpoints.all, self._now()))
                except Exception:
                    log.exception("webhook endpoints cannot be read, trying again")
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_AFTER_S):
                        await self._woken.wait()
        finally:
            for worker in self._workers.values():
                self._end(worker)

    def _keep_workers(self, endpoints: Iterable[Endpoint]) -> None:
        enabled = {endpoint.id for endpoint in endpoints if endpoint.disabled_because is None}
        for gone in self._workers.keys() - enabled:
            self._end(self._workers.pop(gone))
        for endpoint_id in enabled:
            worker = self._workers.setdefault(endpoint_id, _Worker())
            if worker.task is None or worker.task.done():
                worker.task = asyncio.create_task(self._serve(endpoint_id, worker))
            worker.woken.set()

    def _end(self, worker: _Worker) -> None:
        if worker.task is not None:
            worker.task.cancel()
        worker.resolver.shutdown(wait=False, cancel_futures=True)

    async def _serve(self, endpoint_id: str, worker: _Worker) -> None:
        """Deliver to one endpoint until cancelled.

        It has its own connections, so none is shared with another host at the same address.
        """
        running: dict[asyncio.Task[None], Delivery] = {}
        limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
        assert self._tls is not None, "made before the first worker"
        async with httpx.AsyncClient(
            verify=self._tls, trust_env=False, follow_redirects=False, limits=limits
        ) as client:
            try:
                while True:
                    worker.woken.clear()
                    try:
                        wait_s = await self._start_due(endpoint_id, worker, client, running)
                    except Exception:
                        log.exception(
                            "deliveries to webhook endpoint %s cannot be read, trying again",
                            endpoint_id,
                        )
                        wait_s = AFTER_A_FAILURE_S
                    await self._rest(worker, running, wait_s)
            finally:
                for task in running:
                    task.cancel()

    async def _start_due(
        self,
        endpoint_id: str,
        worker: _Worker,
        client: httpx.AsyncClient,
        running: dict[asyncio.Task[None], Delivery],
    ) -> float:
        """Start due deliveries; return for how many seconds there is nothing more to start.

        An account has one delivery under way at a time.
        """
        rest_s = worker.rests_until_s - asyncio.get_running_loop().time()
        if rest_s > 0:
            return rest_s
        found = await self._thread.run(self._read, endpoint_id, self._now())
        if found is None:
            return LOOK_AGAIN_AFTER_S
        endpoint, due, next_s = found
        under_way = {delivery.id for delivery in running.values()}
        accounts = {delivery.account for delivery in running.values()}
        for delivery in due:
            if len(running) >= pace_after(worker.failures_in_row).at_once:
                break
            if delivery.id not in under_way and delivery.account not in accounts:
                accounts.add(delivery.account)
                running[asyncio.create_task(self._deliver(endpoint, delivery, worker, client))] = (
                    delivery
                )
        return next_s

    def _read(
        self, endpoint_id: str, now: datetime
    ) -> tuple[Endpoint, list[Delivery], float] | None:
        """An endpoint, its due deliveries, and in how many seconds the next one becomes due.

        None if it is disabled or deleted.
        """
        endpoint = self._endpoints.find(endpoint_id, now)
        if endpoint is None or endpoint.disabled_because is not None:
            return None
        now_ms = milliseconds(now)
        due, next_ms = (
            self._deliveries.due(endpoint_id, now_ms, ACCOUNTS_LOOKED_AT),
            self._deliveries.next_due_ms(endpoint_id, now_ms),
        )
        return (
            endpoint,
            due,
            LOOK_AGAIN_AFTER_S
            if next_ms is None
            else min(LOOK_AGAIN_AFTER_S, (next_ms - now_ms) / 1_000),
        )

    async def _rest(
        self, worker: _Worker, running: dict[asyncio.Task[None], Delivery], wait_s: float
    ) -> None:
        """Wait until an attempt ends, the worker is woken, or ``wait_s`` have passed."""
        woken = asyncio.create_task(worker.woken.wait())
        try:
            await asyncio.wait(
                {woken, *running}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            woken.cancel()
        for task in [task for task in running if task.done()]:
            del running[task]
            if not task.cancelled() and task.exception() is not None:
                log.error(
                    "a webhook attempt could not be stored, and is made again",
                    exc_info=task.exception(),
                )
                # Its delivery is still due, so a pause keeps this from looping.
                await asyncio.sleep(AFTER_A_FAILURE_S)

    async def _deliver(
        self, endpoint: Endpoint, delivery: Delivery, worker: _Worker, client: httpx.AsyncClient
    ) -> None:
        with WEBHOOK_SECONDS.time():
            attempt = await self._attempt(endpoint, delivery, worker, client)
        worker.failures_in_row = 0 if attempt.is_success else worker.failures_in_row + 1
        worker.rests_until_s = (
            asyncio.get_running_loop().time() + pace_after(worker.failures_in_row).pause_s
        )
        now = self._now()
        chance = random.random()
        outcome = after_attempt(
            attempt, delivery.tries + 1, milliseconds(now), chance, is_test=delivery.is_test
        )
        await self._thread.run(self._deliveries.note, delivery, attempt, outcome, now)
        WEBHOOK_ATTEMPTS.labels("delivered" if attempt.is_success else "failed").inc()
        if outcome.state == "dead":
            log.warning(
                "delivery %s to webhook endpoint %s is dead: %s",
                delivery.id,
                endpoint.id,
                attempt.error or attempt.status,
            )
        if attempt.is_gone:
            log.warning("webhook endpoint %s is disabled: it answered 410 Gone", endpoint.id)
            self.wake_all()

    async def _attempt(
        self, endpoint: Endpoint, delivery: Delivery, worker: _Worker, client: httpx.AsyncClient
    ) -> Attempt:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await self._ask(endpoint, delivery, worker, client)
        except TimeoutError:
            return Attempt(None, f"no answer within {ANSWER_WITHIN_S:.0f} s")
        except httpx.RemoteProtocolError:
            # The error quotes the answer, and what answers may be private.
            return Attempt(None, "the answer is not HTTP")
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError, ValueError) as error:
            return Attempt(
                None, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            )

    async def _ask(
        self, endpoint: Endpoint, delivery: Delivery, worker: _Worker, client: httpx.AsyncClient
    ) -> Attempt:
        parts = check_url(endpoint.url, self._destinations)
        host, port = str(parts.hostname), port_of(parts)
        loop = asyncio.get_running_loop()
        addresses = await loop.run_in_executor(
            worker.resolver, addresses_of, host, port, self._destinations.reach
        )
        headers = {
            "host": parts.netloc,
            **signed_headers(delivery.id, delivery.body, endpoint.secrets, self._now()),
        }
        for number, address in enumerate(addresses, start=1):
            url = httpx.URL(endpoint.url).copy_with(host=address)
            request = client.build_request(
                "POST",
                url,
                content=delivery.body,
                headers=headers,
                timeout=ANSWER_WITHIN_S,
                extensions={"sni_hostname": host},
            )
            try:
                response = await client.send(request, stream=True)
            except httpx.ConnectError:
                if number == len(addresses):
                    raise
                continue
            try:
                return await _attempt_of(response, is_quoted=_is_public(address))
            finally:
                await response.aclose()
        raise NotAllowed(f"{host} has no address")


def _is_public(address: str) -> bool:
    return not is_special(ipaddress.ip_address(address.partition("%")[0]))


async def _attempt_of(response: httpx.Response, *, is_quoted: bool) -> Attempt:
    """The attempt that an answer makes. The status alone decides.

    A little of the body is read, so that the connection can be reused and an error can be quoted.
    A body from a private address is not: whoever lists deliveries may not reach that address.
    """
    body = b""
    with suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(BODY_WITHIN_S):
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > ANSWER_BYTES_MAX:
                    break
    retry_after = response.headers.get("retry-after", "")
    retry_after_s = (
        int(retry_after)
        if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < _DIGITS_MAX
        else None
    )
    attempt = Attempt(response.status_code, "", retry_after_s)
    if attempt.is_success:
        return attempt
    text = " ".join(body[:200].decode("utf-8", "replace").split()) if is_quoted else ""
    return attempt._replace(
        error=f"status {response.status_code}"
        + (f": {json.dumps(text, ensure_ascii=False)}" if text else "")
    )
