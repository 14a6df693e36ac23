"""Account streams: the clients that listen to accounts, and what is sent to them.

One task polls the counters of all accounts that have clients, four times a second. Bytes that have
not changed are not decoded. Figures are made once for all clients of an account. A slow client gets
only the latest figures, but every limit event: if too many wait, it is disconnected. When it
connects again it resumes after the last event that it has seen.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sse_starlette.event import ServerSentEvent

from usageledger.accounts.errors import AccountError
from usageledger.accounts.queries import AccountBalance
from usageledger.accounts.reader import Accounts
from usageledger.counters.reading import AccountReading
from usageledger.counters.view import ViewError
from usageledger.domain.encoding import decode_head
from usageledger.domain.head import Head
from usageledger.gateway.figures import Block, figures
from usageledger.gateway.metrics import STREAMS, STREAMS_CUT
from usageledger.gateway.problems import Problem
from usageledger.gateway.store import StoreThread
from usageledger.gateway.streams.limit_store import LimitRecord, LimitStore
from usageledger.ledger.limit_address import LimitAddress

POLL_S = 0.25
ACCOUNTS_PER_CALL = 500
CHECKED_EVERY_POLLS = 20
"""Each client's credential is checked once in 20 polls, a twentieth of the clients per poll."""
WAITING_MAX = 100
STREAMS_MAX = 5_000
STREAMS_PER_ACCOUNT_MAX = 100
STREAMS_BY_TOKEN_MAX = 10
"""Per account, opened with account tokens: those are in the hands of the account's users."""
OLD_AFTER = timedelta(seconds=5)
REPLAY_AT_ONCE = 200

log = logging.getLogger(__name__)


class Waiting(NamedTuple):
    """A limit event that is to be sent."""

    address: LimitAddress
    message: bytes


@dataclass(eq=False, slots=True)
class Client:
    """One open stream.

    ``still_works`` says whether its key, token or session still works. ``has_token``: it came with
    an account token.
    """

    account: str
    still_works: Callable[[], bool] = lambda: True
    has_token: bool = False
    meter: bytes | None = None
    waiting: deque[Waiting] = field(default_factory=deque)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    end: bytes | None = None
    """The last message of a stream that is to end; empty if it ends without one."""

    def show(self, message: bytes) -> None:
        """Send these figures next, instead of any that wait."""
        self.meter = message
        self.woken.set()

    def queue(self, waiting: Waiting) -> None:
        """Send a limit event, or disconnect the client if too many wait."""
        if len(self.waiting) >= WAITING_MAX:
            self.cut("too_slow", b"")
            self.waiting.clear()
        elif self.end is None:
            self.waiting.append(waiting)
            self.woken.set()

    def cut(self, why: str, words: bytes) -> None:
        """End the stream after everything that waits, with a last message."""
        if self.end is None:
            STREAMS_CUT.labels(why).inc()
            self.end = words
            self.woken.set()


class _Moment(NamedTuple):
    """The time of a partition's accounts, and that of its counters, None if they are current."""

    clock: datetime
    as_of: datetime | None


class _Basis(NamedTuple):
    """The input from which the figures that were sent last were made.

    ``changes_at`` is when they change by themselves, None if never.
    """

    stored: AccountReading
    as_of: datetime | None
    changes_at: datetime | None

    def is_outdated(self, stored: AccountReading, moment: _Moment) -> bool:
        """Whether figures made now can differ. The head alone makes no difference."""
        is_due = self.changes_at is not None and moment.clock >= self.changes_at
        return self.stored[1:] != stored[1:] or self.as_of != moment.as_of or is_due


@dataclass(eq=False, slots=True)
class WatchedAccount:
    """An account that has clients.

    ``message`` has the figures that were sent last; a new client gets them at once. ``basis`` is
    the input that they were made from, None if they have to be made anew. ``read_at`` is when the
    counters were last read. ``is_old``: the clients know that their figures are old.
    """

    clients: set[Client] = field(default_factory=set)
    message: bytes | None = None
    basis: _Basis | None = None
    read_at: datetime | None = None
    is_old: bool = False
    is_block_known: bool = False
    block: Block | None = None


class Streams:
    """The clients of one gateway. Belongs to one event loop.

    ``limits_trouble`` says why no client may listen to limit events, None if clients may.
    """

    def __init__(
        self,
        accounts: Accounts,
        limits: LimitStore,
        thread: StoreThread,
        now: Callable[[], datetime],
        limits_trouble: Callable[[], str | None],
    ) -> None:
        self._accounts = accounts
        self._limits = limits
        self._thread = thread
        self._now = now
        self._watched: dict[str, WatchedAccount] = {}
        self._count = 0
        self._polls = 0
        self._limits_trouble = limits_trouble
        self._new: set[str] = set()
        """Accounts with a client that has no figures yet."""
        self._polling: set[int] = set()
        """The partitions that are being read."""
        self._woken = asyncio.Event()

    def open(
        self, account: str, still_works: Callable[[], bool], *, has_token: bool = False
    ) -> Client:
        """A client that listens from now on; `close` it. Raises Problem."""
        trouble = self._limits_trouble()
        if trouble is not None:
            raise Problem(
                "not_ready", f"{trouble}: connect again in a moment", headers={"Retry-After": "1"}
            )
        watched = self._watched.get(account)
        self._require_room(watched, has_token=has_token)
        if watched is None:
            watched = self._watched[account] = WatchedAccount()
        client = Client(account, still_works, has_token)
        watched.clients.add(client)
        self._count += 1
        STREAMS.set(self._count)
        if watched.message is not None:
            client.show(watched.message)
        else:
            self._new.add(account)
            self._woken.set()
        return client

    def _require_room(self, watched: WatchedAccount | None, *, has_token: bool) -> None:
        clients = set() if watched is None else watched.clients
        if self._count >= STREAMS_MAX:
            refusal = (
                f"this gateway has {STREAMS_MAX} open streams: connect later, or start another "
                "gateway"
            )
        elif len(clients) >= STREAMS_PER_ACCOUNT_MAX:
            refusal = f"an account has at most {STREAMS_PER_ACCOUNT_MAX} open streams: close some"
        elif has_token and sum(each.has_token for each in clients) >= STREAMS_BY_TOKEN_MAX:
            refusal = (
                f"an account has at most {STREAMS_BY_TOKEN_MAX} streams opened with tokens: close "
                "some"
            )
        else:
            return
        raise Problem("too_many_streams", refusal)

    def close(self, client: Client) -> None:
        """Forget a client."""
        watched = self._watched.get(client.account)
        if watched is None or client not in watched.clients:
            return
        watched.clients.discard(client)
        self._count -= 1
        STREAMS.set(self._count)
        if not watched.clients:
            del self._watched[client.account]

    def announce(self, events: Sequence[LimitRecord]) -> None:
        """Send limit events to the clients of their accounts."""
        for event in events:
            watched = self._watched.get(event.account)
            if watched is None:
                continue
            message = limit_message(event.address, event.type, event.value)
            for client in list(watched.clients):
                client.queue(Waiting(event.address, message))
            if event.type in ("limit.reached", "limit.cleared"):
                watched.block = block_in(event.value) if event.type == "limit.reached" else None
                watched.is_block_known = True
                # The figures say since when the account is blocked, so the next poll makes them
                # anew.
                watched.basis = None

    def end_all(self) -> None:
        """End every stream. Clients connect again and resume where they were."""
        for client in self._clients():
            client.cut("stopping", b"")

    async def messages(self, client: Client, after: LimitAddress | None) -> AsyncIterator[bytes]:
        """The messages to send to a client, until it or the gateway ends the stream.

        ``after`` is the last limit event that the client has seen; None to replay nothing.
        """
        last = after
        try:
            async for waiting in self._missed(client.account, after):
                last = waiting.address
                yield waiting.message
            while True:
                await client.woken.wait()
                client.woken.clear()
                while client.waiting:
                    waiting = client.waiting.popleft()
                    # An event that was written while the missed ones were read is in both.
                    if (
                        last is None
                        or last.partition != waiting.address.partition
                        or waiting.address.is_beyond(last)
                    ):
                        last = waiting.address
                        yield waiting.message
                meter, client.meter = client.meter, None
                if meter is not None:
                    yield meter
                if client.end is not None and not client.waiting:
                    if client.end:
                        yield client.end
                    return
        finally:
            self.close(client)

    async def run(self) -> None:
        """Poll until cancelled: new accounts at once, and all watched accounts every POLL_S."""
        loop = asyncio.get_running_loop()
        poll_at_s = loop.time() + POLL_S
        async with asyncio.TaskGroup() as polls:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(poll_at_s):
                        await self._woken.wait()
                self._woken.clear()
                new, self._new = self._new, set()
                if loop.time() < poll_at_s:
                    self._start_polls(polls, new)
                else:
                    self._start_polls(polls, self._watched)
                    self.cut_ended_clients()
                    poll_at_s = loop.time() + POLL_S

    async def _missed(self, account: str, after: LimitAddress | None) -> AsyncIterator[Waiting]:
        while after is not None:
            found = await self._thread.run(self._limits.after, account, after, REPLAY_AT_ONCE)
            for address, type_, value in found:
                after = address
                yield Waiting(address, limit_message(address, type_, value))
            if len(found) < REPLAY_AT_ONCE:
                return

    async def poll(self, accounts: Iterable[str]) -> None:
        """Read the counters of these accounts, and send their clients figures that have changed."""
        async with asyncio.TaskGroup() as polls:
            self._start_polls(polls, accounts)

    def _start_polls(self, polls: asyncio.TaskGroup, accounts: Iterable[str]) -> None:
        """Read each partition in a task of its own: a silent server delays only its partitions.

        A partition that is still being read is left to the next poll, so that calls to a silent
        server do not accumulate.
        """
        by_partition: dict[int, list[str]] = {}
        for account in accounts:
            by_partition.setdefault(self._accounts.partition(account), []).append(account)
        for partition, some in by_partition.items():
            if partition not in self._polling:
                self._polling.add(partition)
                polls.create_task(self._poll_partition(partition, some))

    async def _poll_partition(self, partition: int, accounts: Sequence[str]) -> None:
        try:
            for start in range(0, len(accounts), ACCOUNTS_PER_CALL):
                await self._poll_batch(partition, accounts[start : start + ACCOUNTS_PER_CALL])
        finally:
            self._polling.discard(partition)

    async def _poll_batch(self, partition: int, accounts: Sequence[str]) -> None:
        try:
            found = await self._accounts.read(partition, accounts)
            head = found[0].head
            at = self._accounts.clock.at(
                Head(ledger="") if head is None else decode_head(head.value)
            )
            moment = _Moment(at, self._accounts.verified_at(head))
            for account, stored in zip(accounts, found, strict=True):
                watched = self._watched.get(account)
                if watched is not None:
                    watched.read_at = self._now()
                    if (
                        watched.is_old
                        or watched.basis is None
                        or watched.basis.is_outdated(stored, moment)
                    ):
                        await self._send_figures(account, watched, stored, moment)
        except (ViewError, AccountError) as error:
            log.warning(
                "the accounts of partition %d cannot be read for their streams: %s",
                partition,
                error,
            )
            self._send_old_figures(accounts)
        except Exception:
            # A fault in one account must not end the streams of the others.
            log.exception(
                "the figures of accounts of partition %d could not be sent to their streams",
                partition,
            )
            self._send_old_figures(accounts)

    async def _send_figures(
        self, account: str, watched: WatchedAccount, stored: AccountReading, moment: _Moment
    ) -> None:
        """Send an account's figures."""
        found = await self._accounts.balance_from(account, stored)
        if found.balance.is_blocked and not watched.is_block_known:
            event = await self._thread.run(self._limits.block_of, account)
            # An event that has arrived meanwhile is newer than the stored one.
            if not watched.is_block_known:
                watched.block = None if event is None else block_in(event)
                watched.is_block_known = True
        watched.basis = _Basis(stored, moment.as_of, found.balance.changes_at)
        watched.is_old = False
        self._send(watched, meter_message(found, watched.block))

    def _send_old_figures(self, accounts: Sequence[str]) -> None:
        """Tell the clients of accounts that cannot be read from when their figures are."""
        for account in accounts:
            watched = self._watched.get(account)
            if (
                watched is None
                or watched.message is None
                or watched.read_at is None
                or watched.is_old
            ):
                continue
            if self._now() - watched.read_at > OLD_AFTER:
                watched.is_old = True
                self._send(watched, _dated_message(watched.message, watched.read_at))

    def _send(self, watched: WatchedAccount, message: bytes) -> None:
        watched.message = message
        for client in watched.clients:
            client.show(message)

    def cut_ended_clients(self) -> None:
        """Disconnect clients whose credential has ended.

        A call checks a part of the clients; CHECKED_EVERY_POLLS calls check all of them.
        """
        self._polls += 1
        for number, client in enumerate(self._clients()):
            if (
                number % CHECKED_EVERY_POLLS == self._polls % CHECKED_EVERY_POLLS
                and not client.still_works()
            ):
                client.cut("token_expired", TOKEN_EXPIRED)

    def _clients(self) -> list[Client]:
        return [client for watched in self._watched.values() for client in watched.clients]


def block_in(event: bytes) -> Block:
    """When and why an account was blocked, from its `limit.reached`."""
    data = json.loads(event)
    return Block(datetime.fromisoformat(data["time"]), data["data"]["reason"])


def limit_message(address: LimitAddress, type_: str, value: bytes) -> bytes:
    """A limit event as a stream sends it."""
    return ServerSentEvent(value.decode(), event=type_, id=address.id, sep="\n").encode()


def meter_message(found: AccountBalance, block: Block | None) -> bytes:
    """An account's figures as a stream sends them.

    It has no id, so that a client resumes after the last limit event.
    """
    return ServerSentEvent(
        figures(found, block).model_dump_json(), event="meter", sep="\n"
    ).encode()


def _dated_message(message: bytes, moment: datetime) -> bytes:
    """The same figures, with ``as_of`` set to a moment unless they have an earlier one."""
    data = message.partition(b"\ndata: ")[2].strip()
    figures_then = json.loads(data)
    if figures_then["as_of"] is None:
        figures_then["as_of"] = moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return ServerSentEvent(
        json.dumps(figures_then, separators=(",", ":"), ensure_ascii=False), event="meter", sep="\n"
    ).encode()


TOKEN_EXPIRED = ServerSentEvent(
    '{"detail":"the token has ended: mint another one and connect again"}',
    event="token_expired",
    sep="\n",
).encode()
