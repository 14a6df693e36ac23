"""Account streams: what is sent to the clients that listen to an account, and who listens.

One task looks at the counters of all accounts that have clients, four times a second; bytes that
have not changed are not even read. Figures are made once for all clients of an account, and the
latest win: a client that is slow misses those in between. Limit events it must not miss: one that
lets too many of them wait is cut off, and goes on after the last one that it has seen when it comes
back.
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
"""In so many polls every client's key or token is looked at again, a part of them in each."""
WAITING_MAX = 100
STREAMS_MAX = 5_000
STREAMS_PER_ACCOUNT_MAX = 100
STREAMS_BY_TOKEN_MAX = 10
"""Of an account with its tokens, which are in the hands of whoever uses it."""
OLD_AFTER = timedelta(seconds=5)
REPLAY_AT_ONCE = 200

logger = logging.getLogger(__name__)


class Waiting(NamedTuple):
    """A limit event that is to be sent."""

    place: LimitAddress
    message: bytes


@dataclass(eq=False, slots=True)
class Client:
    """One open stream.

    ``is_let_in`` says whether its key or token still works, ``has_token`` whether it came with an
    account token.
    """

    account: str
    is_let_in: Callable[[], bool] = lambda: True
    has_token: bool = False
    meter: bytes | None = None
    waiting: deque[Waiting] = field(default_factory=deque)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    end: bytes | None = None
    """The last words of a stream that is to end."""

    def show(self, message: bytes) -> None:
        """Send these figures next, in the place of those that wait."""
        self.meter = message
        self.woken.set()

    def tell(self, waiting: Waiting) -> None:
        """Send a limit event, or cut the client off if it lets too many wait."""
        if len(self.waiting) >= WAITING_MAX:
            self.cut("too_slow", b"")
            self.waiting.clear()
        elif self.end is None:
            self.waiting.append(waiting)
            self.woken.set()

    def cut(self, why: str, words: bytes) -> None:
        """End the stream after what waits."""
        if self.end is None:
            STREAMS_CUT.labels(why).inc()
            self.end = words
            self.woken.set()


class _Moment(NamedTuple):
    """A partition at a moment: the time of its accounts, and of when its counters are, None if of
    now.
    """

    clock: datetime
    as_of: datetime | None


@dataclass(eq=False, slots=True)
class Watched:
    """An account that has clients, and what was last seen of it."""

    clients: set[Client] = field(default_factory=set)
    stored: AccountReading | None = None
    as_of: datetime | None = None
    changes_at: datetime | None = None
    """When its figures change by themselves."""
    seen_at: datetime | None = None
    message: bytes | None = None
    is_old: bool = False
    is_block_known: bool = False
    block: Block | None = None

    def is_changed(self, stored: AccountReading, moment: _Moment) -> bool:
        """Whether its figures may be others than those that were sent."""
        is_due = self.changes_at is not None and moment.clock >= self.changes_at
        return (
            self.stored is None
            or self.stored[1:] != stored[1:]
            or self.as_of != moment.as_of
            or is_due
            or self.is_old
        )


class Streams:
    """The clients of one gateway.

    All but `run` is called by its event loop between two of its awaits.
    """

    def __init__(
        self,
        accounts: Accounts,
        limits: LimitStore,
        thread: StoreThread,
        now: Callable[[], datetime],
    ) -> None:
        self._accounts = accounts
        self._limits = limits
        self._thread = thread
        self._now = now
        self._watched: dict[str, Watched] = {}
        self._count = 0
        self._polls = 0
        self.untold: Callable[[], str | None] = lambda: None
        """Why limit events are not told as they happen, None if they are."""
        self._new: set[str] = set()
        self._looked_at: set[int] = set()
        """The partitions that are being looked at."""
        self._woken = asyncio.Event()

    def open(
        self, account: str, is_let_in: Callable[[], bool], *, has_token: bool = False
    ) -> Client:
        """A client that listens from now on. Close it. Raises Problem."""
        untold = self.untold()
        if untold is not None:
            raise Problem(
                "not_ready", f"{untold}: connect again in a moment", headers={"Retry-After": "1"}
            )
        watched = self._watched.get(account)
        if self._count >= STREAMS_MAX:
            raise Problem(
                "too_many_streams",
                f"this gateway has {STREAMS_MAX} open streams: come again later, or start another "
                "gateway",
            )
        if watched is not None and len(watched.clients) >= STREAMS_PER_ACCOUNT_MAX:
            raise Problem(
                "too_many_streams",
                f"at most {STREAMS_PER_ACCOUNT_MAX} streams of an account are open at once: close "
                "some",
            )
        if (
            has_token
            and watched is not None
            and sum(client.has_token for client in watched.clients) >= STREAMS_BY_TOKEN_MAX
        ):
            raise Problem(
                "too_many_streams",
                f"at most {STREAMS_BY_TOKEN_MAX} streams of an account are open at once by token: "
                "close some",
            )
        if watched is None:
            watched = self._watched[account] = Watched()
        client = Client(account, is_let_in, has_token)
        watched.clients.add(client)
        self._count += 1
        STREAMS.set(self._count)
        if watched.message is not None:
            client.show(watched.message)
        else:
            self._new.add(account)
            self._woken.set()
        return client

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

    def hand_over(self, events: Sequence[LimitRecord]) -> None:
        """Tell the clients of these events' accounts."""
        for event in events:
            watched = self._watched.get(event.account)
            if watched is None:
                continue
            message = limit_message(event.place, event.type, event.value)
            for client in list(watched.clients):
                client.tell(Waiting(event.place, message))
            if event.type in ("limit.reached", "limit.cleared"):
                watched.block = block_in(event.value) if event.type == "limit.reached" else None
                watched.is_block_known = True
                # Looked at again in the next poll: who is blocked since when is part of the
                # figures.
                watched.stored = None

    def end_all(self) -> None:
        """End every stream, as the gateway is to stop: clients come again, and go on where they
        were.
        """
        for client in self._clients():
            client.cut("stopping", b"")

    async def messages(self, client: Client, after: LimitAddress | None) -> AsyncIterator[bytes]:
        """What is sent to a client, until it or the gateway ends.

        ``after``: the last limit event that it has seen.
        """
        last = after
        try:
            async for waiting in self._missed(client.account, after):
                last = waiting.place
                yield waiting.message
            while True:
                await client.woken.wait()
                client.woken.clear()
                while client.waiting:
                    waiting = client.waiting.popleft()
                    # What was written while the missed ones were read is among both.
                    if (
                        last is None
                        or last.partition != waiting.place.partition
                        or waiting.place.is_beyond(last)
                    ):
                        last = waiting.place
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
        """Look at the counters until it is cancelled: at what is new at once, and at all that is
        watched when its time has come, however much is new.
        """
        loop = asyncio.get_running_loop()
        poll_at_s = loop.time() + POLL_S
        async with asyncio.TaskGroup() as looking:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(poll_at_s):
                        await self._woken.wait()
                self._woken.clear()
                new, self._new = self._new, set()
                if loop.time() < poll_at_s:
                    self._begin(looking, new)
                else:
                    self._begin(looking, self._watched)
                    self.check_some()
                    poll_at_s = loop.time() + POLL_S

    async def _missed(self, account: str, after: LimitAddress | None) -> AsyncIterator[Waiting]:
        while after is not None:
            found = await self._thread.run(self._limits.after, account, after, REPLAY_AT_ONCE)
            for place, type_, value in found:
                after = place
                yield Waiting(place, limit_message(place, type_, value))
            if len(found) < REPLAY_AT_ONCE:
                return

    async def look(self, accounts: Iterable[str]) -> None:
        """Look at the counters of these accounts, and send their clients what is new."""
        async with asyncio.TaskGroup() as looking:
            self._begin(looking, accounts)

    def _begin(self, looking: asyncio.TaskGroup, accounts: Iterable[str]) -> None:
        """Look at each partition for itself: a server that does not answer keeps only its own
        partitions waiting.

        One that is still being looked at is left to the next poll, so calls to such a server do not
        pile up.
        """
        by_partition: dict[int, list[str]] = {}
        for account in accounts:
            by_partition.setdefault(self._accounts.partition(account), []).append(account)
        for partition, some in by_partition.items():
            if partition not in self._looked_at:
                self._looked_at.add(partition)
                looking.create_task(self._look_at(partition, some))

    async def _look_at(self, partition: int, accounts: Sequence[str]) -> None:
        try:
            for start in range(0, len(accounts), ACCOUNTS_PER_CALL):
                await self._look(partition, accounts[start : start + ACCOUNTS_PER_CALL])
        finally:
            self._looked_at.discard(partition)

    async def _look(self, partition: int, accounts: Sequence[str]) -> None:
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
                    watched.seen_at = self._now()
                    if watched.is_changed(stored, moment):
                        await self._see(account, watched, stored, moment)
        except (ViewError, AccountError) as error:
            logger.warning(
                "the accounts of partition %d cannot be read for their streams: %s",
                partition,
                error,
            )
            self._tell_old(accounts)
        except Exception:
            # What is wrong with one account must not end the streams of the others.
            logger.exception(
                "the accounts of partition %d cannot be shown to their streams", partition
            )
            self._tell_old(accounts)

    async def _see(
        self, account: str, watched: Watched, stored: AccountReading, moment: _Moment
    ) -> None:
        """Send an account's figures."""
        found = await self._accounts.balance_from(account, stored)
        if found.balance.is_blocked and not watched.is_block_known:
            event = await self._thread.run(self._limits.block_of, account)
            # An event that has come meanwhile knows better.
            if not watched.is_block_known:
                watched.block, watched.is_block_known = (
                    None if event is None else block_in(event),
                    True,
                )
        watched.stored, watched.as_of, watched.is_old = stored, moment.as_of, False
        watched.changes_at = found.balance.changes_at
        self._show(watched, meter_message(found, watched.block))

    def _tell_old(self, accounts: Sequence[str]) -> None:
        """Counters that cannot be read any more: say of when the figures are that the clients
        have.
        """
        for account in accounts:
            watched = self._watched.get(account)
            if (
                watched is None
                or watched.message is None
                or watched.seen_at is None
                or watched.is_old
            ):
                continue
            if self._now() - watched.seen_at > OLD_AFTER:
                watched.is_old = True
                self._show(watched, _as_of(watched.message, watched.seen_at))

    def _show(self, watched: Watched, message: bytes) -> None:
        watched.message = message
        for client in watched.clients:
            client.show(message)

    def check_some(self) -> None:
        """Look whether the keys and tokens of a part of the clients still work; of all of them in
        CHECKED_EVERY_POLLS calls.
        """
        self._polls += 1
        for number, client in enumerate(self._clients()):
            if (
                number % CHECKED_EVERY_POLLS == self._polls % CHECKED_EVERY_POLLS
                and not client.is_let_in()
            ):
                client.cut("token_expired", TOKEN_EXPIRED)

    def _clients(self) -> list[Client]:
        return [client for watched in self._watched.values() for client in watched.clients]


def block_in(event: bytes) -> Block:
    """When and why an account was blocked, of its `limit.reached`."""
    told = json.loads(event)
    return Block(datetime.fromisoformat(told["time"]), told["data"]["reason"])


def limit_message(place: LimitAddress, type_: str, value: bytes) -> bytes:
    """A limit event as a stream sends it."""
    return ServerSentEvent(value.decode(), event=type_, id=place.id, sep="\n").encode()


def meter_message(found: AccountBalance, block: Block | None) -> bytes:
    """An account's figures as a stream sends them.

    Without an id, so that a client resumes after the limit event before them.
    """
    return ServerSentEvent(
        figures(found, block).model_dump_json(), event="meter", sep="\n"
    ).encode()


def _as_of(message: bytes, moment: datetime) -> bytes:
    """The same figures, said to be of a moment."""
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
