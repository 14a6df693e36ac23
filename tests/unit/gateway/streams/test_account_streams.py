"""Account streams: which messages a client gets, when, and why a stream is ended."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from prometheus_client import REGISTRY
from starlette.requests import Request

from tests.notation import SHIPPED
from tests.worlds.account_sources import MemoryAccounts
from tests.worlds.gateway_events import NOW_MS, Announced
from tests.worlds.gateway_world import NOW, GatewayWorld
from usageledger.accounts.queries import Clock
from usageledger.accounts.reader import Accounts
from usageledger.counters.calling import Call
from usageledger.counters.holding import Hold
from usageledger.counters.memory import MemoryView
from usageledger.counters.view import Position, StoredHead, ViewError
from usageledger.domain.account import AccountState, Period
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.encoding import encode
from usageledger.domain.head import Head
from usageledger.gateway.dependencies import credential_check
from usageledger.gateway.problems import Problem
from usageledger.gateway.routes.streams import _resume_point, stream_account
from usageledger.gateway.streams.account_streams import (
    CHECKED_EVERY_POLLS,
    STREAMS_BY_TOKEN_MAX,
    STREAMS_PER_ACCOUNT_MAX,
    WAITING_MAX,
    Client,
    Streams,
)
from usageledger.ledger.limit_address import LimitAddress
from usageledger.ledger.partitioning import partition_of
from usageledger.sdk.tokens import mint_account_token, split_key

T = TypeVar("T")

CREDIT = 1_000_000
DEADLINE_S = 10.0
PARTITIONS = 2
END = NOW + timedelta(days=20)


class Counters(MemoryAccounts):
    """Counters that a test writes. ``reads`` counts how often figures were made from them."""

    def __init__(self, world: GatewayWorld) -> None:
        self._views = tuple(MemoryView(lambda: _ms(world.now)) for _ in range(PARTITIONS))
        super().__init__(*self._views)
        self.verified_at_ms = _ms(world.now)
        self.is_away = False
        self.silent: set[int] = set()
        """Partitions whose server does not answer."""
        self.reads = 0

    def use(self, account: str, credits: int) -> None:
        """The account has used this many of Pro's 200 credits."""
        period = Period(
            number=0,
            start=NOW - timedelta(days=10),
            end=END,
            plan="pro",
            allotment=200 * CREDIT,
            used=credits * CREDIT,
        )
        state = AccountState(
            plan="pro", period=period, free_left=0, time_zone="UTC", anchor=NOW - timedelta(days=10)
        )
        for view in self.views:
            view.stored_accounts[account] = encode(state)

    def hold(self, account: str, credits: int) -> None:
        """The account has one open hold of this many credits."""
        hold = Hold("open", credits * CREDIT, _ms(END), "", b"")
        for view in self.views:
            view.holds[account, "hold"] = hold

    async def ask(self, partition: int, call: Call[T]) -> T:
        if partition in self.silent:
            await asyncio.Event().wait()
        if self.is_away:
            raise ViewError("redis: gone")
        self.views[partition].stored_head = StoredHead(
            Position(1, "h"),
            encode(Head(ledger="l", next_offset=1, clock=NOW)),
            self.verified_at_ms,
        )
        return await super().ask(partition, call)

    async def catalogs_up_to(self, before: int) -> AdoptedCatalogs:
        self.reads += 1
        return SHIPPED


class Listening:
    """A client, and the messages that it has received."""

    def __init__(
        self, streams: Streams, account: str = "acct", after: LimitAddress | None = None
    ) -> None:
        self.still_works = True
        self.client: Client = streams.open(account, lambda: self.still_works)
        self._messages: AsyncIterator[bytes] = streams.messages(self.client, after)

    async def next(self) -> tuple[str, Any]:
        """The next message: its id or its event name, and its data."""
        async with asyncio.timeout(DEADLINE_S):
            return _read(await anext(self._messages))

    async def has_ended(self) -> bool:
        async with asyncio.timeout(DEADLINE_S):
            return await anext(self._messages, b"") == b""


class StreamWorld(GatewayWorld):
    """A gateway whose streams show ``counters``."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.counters = Counters(self)
        accounts = Accounts(
            self.counters, partition_count=PARTITIONS, clock=Clock(lambda: self.now)
        )
        self.limits_trouble: str | None = None
        self.use(
            accounts=accounts,
            streams=Streams(
                accounts,
                self.stores.limits,
                self.stores.thread,
                lambda: self.now,
                lambda: self.limits_trouble,
            ),
        )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[StreamWorld]:
    made = StreamWorld(tmp_path)
    yield made
    made.close()


def account_in(partition: int) -> str:
    """An account that lives in this partition."""
    names = (f"acct_{number}" for number in itertools.count())
    return next(name for name in names if partition_of(name.encode(), PARTITIONS) == partition)


def take(world: StreamWorld, partition: int, records: Any) -> None:
    """Write limit events to the store, and announce them."""
    world.gateway.streams.announce(world.stores.limits.add({partition: records}, NOW_MS))


def test_figures_are_sent_at_once_and_then_only_when_they_change(world: StreamWorld) -> None:
    counters, streams = world.counters, world.gateway.streams

    async def scenario() -> None:
        counters.use("acct", 40)
        first, second = Listening(streams), Listening(streams)
        await streams.poll(["acct"])
        for listening in (first, second):
            kind, told = await listening.next()
            assert (kind, told["used"], told["remaining"], told["as_of"]) == (
                "meter",
                "40",
                "160",
                None,
            )
        await streams.poll(["acct"])
        assert counters.reads == 1
        third = Listening(streams)
        assert (await third.next())[1]["used"] == "40"
        counters.use("acct", 41)
        await streams.poll(["acct"])
        assert {(await listening.next())[1]["used"] for listening in (first, second, third)} == {
            "41"
        }
        assert counters.reads == 2

    asyncio.run(scenario())


def test_pages_that_are_opened_all_the_time_keep_nobody_from_new_figures(
    world: StreamWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five pages a second were opened, each of an account that nobody watched. Each restarted the
    wait for the next poll. So no meter moved, and streams whose token had ended went on.
    """
    counters, streams = world.counters, world.gateway.streams
    monkeypatch.setattr("usageledger.gateway.streams.account_streams.POLL_S", 0.01)

    async def scenario() -> None:
        polling = asyncio.create_task(streams.run())
        counters.use("acct", 40)
        listening, ended = Listening(streams), Listening(streams, "ended")
        assert (await listening.next())[1]["used"] == "40"
        counters.use("acct", 41)
        ended.still_works = False
        async with asyncio.timeout(DEADLINE_S):
            while listening.client.meter is None or ended.client.end is None:
                streams.close(streams.open("another", lambda: True))
                await asyncio.sleep(0)
        assert (await listening.next())[1]["used"] == "41"
        polling.cancel()

    asyncio.run(scenario())


def test_a_server_that_does_not_answer_keeps_only_its_own_partitions_waiting(
    world: StreamWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partitions were polled one after another, and one node of Redis was dead.

    Every poll waited for a timeout for each partition of that node. Meanwhile no other meter moved.
    """
    counters, streams = world.counters, world.gateway.streams
    monkeypatch.setattr("usageledger.gateway.streams.account_streams.POLL_S", 0.01)
    counters.silent = {0}

    async def scenario() -> None:
        polling = asyncio.create_task(streams.run())
        silent, answering = account_in(0), account_in(1)
        counters.use(answering, 40)
        _, listening = Listening(streams, silent), Listening(streams, answering)
        assert (await listening.next())[1]["used"] == "40"
        counters.use(answering, 41)
        assert (await listening.next())[1]["used"] == "41"
        polling.cancel()

    asyncio.run(scenario())


def test_a_hold_moves_the_figures(world: StreamWorld) -> None:
    counters, streams = world.counters, world.gateway.streams

    async def scenario() -> None:
        counters.use("acct", 40)
        listening = Listening(streams)
        await streams.poll(["acct"])
        assert (await listening.next())[1]["available"] == "160"
        counters.hold("acct", 14)
        await streams.poll(["acct"])
        _, told = await listening.next()
        assert (told["held"], told["holds"], told["remaining"], told["available"]) == (
            "14",
            {"open": 1, "credits": "14"},
            "160",
            "146",
        )

    asyncio.run(scenario())


def test_a_slow_client_gets_the_latest_figures_and_every_limit_event(world: StreamWorld) -> None:
    counters, streams = world.counters, world.gateway.streams
    topic = Announced()

    async def scenario() -> None:
        listening = Listening(streams)
        for used in (10, 20, 30):
            counters.use("acct", used)
            await streams.poll(["acct"])
            take(world, 0, topic.crossing("limit.threshold"))
        assert [(await listening.next())[0] for _ in range(3)] == ["0-0-0", "0-1-0", "0-2-0"]
        assert (await listening.next())[1]["used"] == "30"

    asyncio.run(scenario())


def test_a_client_with_too_many_waiting_limit_events_is_cut_off_and_can_resume(
    world: StreamWorld,
) -> None:
    streams = world.gateway.streams
    topic = Announced()

    async def scenario() -> None:
        slow, quick = Listening(streams), Listening(streams)
        for _ in range(WAITING_MAX + 1):
            take(world, 0, topic.crossing("limit.threshold"))
            assert (await quick.next())[0].startswith("0-")
        assert await slow.has_ended()
        again = Listening(streams, after=LimitAddress(0, 41, 0, 1))
        assert [(await again.next())[0] for _ in range(WAITING_MAX - 41)] == [
            f"0-{number}-0" for number in range(42, WAITING_MAX + 1)
        ]

    asyncio.run(scenario())


def test_what_comes_while_the_missed_events_are_read_is_neither_lost_nor_sent_twice(
    world: StreamWorld,
) -> None:
    streams = world.gateway.streams
    topic = Announced()
    take(world, 0, topic.crossing("limit.threshold", "limit.reached"))

    async def scenario() -> None:
        listening = Listening(streams, after=LimitAddress(0, 0, 0, 2))
        # The client has connected, and nothing has been read for it yet. So this event is among
        # those that it missed, and it receives this one as well.
        take(world, 0, topic.crossing("limit.cleared"))
        assert [(await listening.next())[0] for _ in range(2)] == ["0-0-1", "0-1-0"]
        take(world, 0, topic.crossing("limit.reached"))
        assert (await listening.next())[0] == "0-2-0"

    asyncio.run(scenario())


@pytest.mark.parametrize("has_past", [False, True])
def test_a_client_that_has_had_no_limit_event_misses_none_while_it_is_away(
    world: StreamWorld, has_past: bool
) -> None:
    """A meter's connection broke before the account's first limit event.

    It reconnected without an id, and never received the event that had blocked the account.
    """
    topic = Announced()
    caller = world.keys.caller(world.key("read"), NOW)
    if has_past:
        take(world, 0, topic.crossing("limit.reached", account="another"))

    async def scenario() -> None:
        async def opened(last_event_id: str | None) -> AsyncIterator[bytes]:
            response = await stream_account(
                "acct",
                world.gateway.accounts,
                world.gateway.streams,
                world.stores.limits,
                world.stores.thread,
                lambda: True,
                caller,
                last_event_id,
            )
            return cast(AsyncIterator[bytes], response.body_iterator)

        first = (await anext(await opened(None))).decode()
        assert "data:" not in first
        last_event_id = re.search(r"^id: (.+)$", first, re.MULTILINE)
        assert last_event_id is not None
        [reached] = topic.crossing("limit.reached")
        take(world, 0, [reached])
        again = await opened(last_event_id[1])
        async with asyncio.timeout(DEADLINE_S):
            await anext(again)
            assert _read(await anext(again))[0] == reached.event_id

    asyncio.run(scenario())


def test_more_missed_events_than_are_read_at_once_come_all(world: StreamWorld) -> None:
    streams = world.gateway.streams
    topic = Announced()
    take(world, 0, [record for _ in range(450) for record in topic.crossing("limit.threshold")])

    async def scenario() -> list[str]:
        listening = Listening(streams, after=LimitAddress(0, 9, 0, 1))
        return [(await listening.next())[0] for _ in range(440)]

    assert asyncio.run(scenario()) == [f"0-{number}-0" for number in range(10, 450)]


def test_only_the_accounts_own_events_are_sent(world: StreamWorld) -> None:
    streams = world.gateway.streams
    topic = Announced()

    async def scenario() -> None:
        listening = Listening(streams, "a")
        take(
            world,
            0,
            topic.crossing("limit.reached", account="b")
            + topic.crossing("limit.reached", account="a"),
        )
        event = world.stores.limits.block_of("a")
        assert event is not None
        assert await listening.next() == ("0-1-0", json.loads(event))

    asyncio.run(scenario())


def test_a_renewal_moves_the_figures_when_its_time_comes(world: StreamWorld) -> None:
    """Nothing is written: the period renews as the reader rolls the state forward."""
    counters, streams = world.counters, world.gateway.streams

    async def scenario() -> None:
        counters.use("acct", 150)
        listening = Listening(streams)
        await streams.poll(["acct"])
        assert (await listening.next())[1]["used"] == "150"
        world.now = END - timedelta(seconds=1)
        counters.verified_at_ms = _ms(world.now)
        await streams.poll(["acct"])
        world.now = END
        counters.verified_at_ms = _ms(world.now)
        await streams.poll(["acct"])
        _, told = await listening.next()
        assert (told["used"], told["remaining"], told["period"]["start"]) == (
            "0",
            "200",
            "2026-12-15T10:00:00Z",
        )
        assert counters.reads == 2

    asyncio.run(scenario())


def test_who_is_blocked_is_told_since_when_and_why(world: StreamWorld) -> None:
    counters, streams = world.counters, world.gateway.streams
    topic = Announced()

    async def scenario() -> None:
        counters.use("acct", 200)
        listening = Listening(streams)
        await streams.poll(["acct"])
        assert (await listening.next())[1]["blocked"]["since"] is None
        take(world, 0, topic.crossing("limit.reached"))
        await streams.poll(["acct"])
        assert (await listening.next())[0] == "0-0-0"
        assert (await listening.next())[1]["blocked"]["since"] == "2026-11-01T00:00:00Z"

    asyncio.run(scenario())


def test_a_new_gateway_knows_since_when_an_account_is_blocked(world: StreamWorld) -> None:
    counters, streams = world.counters, world.gateway.streams
    world.stores.limits.add({0: Announced().crossing("limit.reached")}, NOW_MS)

    async def scenario() -> None:
        counters.use("acct", 200)
        listening = Listening(streams)
        await streams.poll(["acct"])
        told = (await listening.next())[1]
        assert (told["blocked"]["since"], told["blocked"]["reason"]) == (
            "2026-11-01T00:00:00Z",
            "usage",
        )

    asyncio.run(scenario())


def test_figures_that_can_no_longer_be_read_are_said_to_be_old(world: StreamWorld) -> None:
    counters, streams = world.counters, world.gateway.streams

    async def scenario() -> None:
        counters.use("acct", 40)
        listening = Listening(streams)
        await streams.poll(["acct"])
        await listening.next()
        counters.is_away = True
        world.pass_time(timedelta(seconds=4))
        await streams.poll(["acct"])
        world.pass_time(timedelta(seconds=2))
        await streams.poll(["acct"])
        await streams.poll(["acct"])
        _, told = await listening.next()
        assert (told["used"], told["as_of"]) == ("40", "2026-11-25T10:00:00Z")
        counters.is_away = False
        counters.verified_at_ms = _ms(world.now)
        await streams.poll(["acct"])
        assert (await listening.next())[1]["as_of"] is None

    asyncio.run(scenario())


def test_a_stream_ends_with_its_token_and_says_so(world: StreamWorld) -> None:
    streams = world.gateway.streams

    async def scenario() -> None:
        listening, other = Listening(streams), Listening(streams)
        listening.still_works = False
        for _ in range(CHECKED_EVERY_POLLS):
            streams.cut_ended_clients()
        assert (await listening.next())[0] == "token_expired"
        assert await listening.has_ended()
        assert other.client.end is None

    asyncio.run(scenario())


def test_events_announced_before_the_end_of_a_stream_are_sent_first(world: StreamWorld) -> None:
    streams = world.gateway.streams

    async def scenario() -> None:
        listening = Listening(streams)
        take(world, 0, Announced().crossing("limit.reached"))
        streams.end_all()
        assert (await listening.next())[0] == "0-0-0"
        assert await listening.has_ended()

    asyncio.run(scenario())


def test_a_revoked_key_ends_its_streams(world: StreamWorld) -> None:
    key = world.key("read")
    token = mint_account_token(key, "acct", now=world.now)
    header = (b"authorization", f"Bearer {token}".encode())
    request = Request({"type": "http", "headers": [header]})
    sessions = world.stores.sessions
    works = credential_check(request, world.keys, sessions, lambda: world.now)
    assert works()
    world.keys.revoke(split_key(key)[0], world.now)
    assert not works()
    session = sessions.begin(world.key("read"), "http://gateway", world.now)
    cookie = (b"cookie", f"usageledger_session={session}".encode())
    request = Request({"type": "http", "headers": [cookie, (b"host", b"gateway")]})
    of_session = credential_check(request, world.keys, sessions, lambda: world.now)
    assert of_session()
    world.pass_time(timedelta(hours=13))
    assert not of_session()


def test_an_account_has_so_many_streams_and_no_more(world: StreamWorld) -> None:
    streams = world.gateway.streams
    clients = [streams.open("acct", lambda: True) for _ in range(STREAMS_PER_ACCOUNT_MAX)]
    with pytest.raises(Problem) as refused:
        streams.open("acct", lambda: True)
    assert refused.value.code == "too_many_streams"
    streams.open("another", lambda: True)
    assert REGISTRY.get_sample_value("usageledger_streams_open") == STREAMS_PER_ACCOUNT_MAX + 1
    streams.close(clients[0])
    streams.close(clients[0])
    streams.open("acct", lambda: True)


def test_nobody_listens_while_the_past_is_read(world: StreamWorld) -> None:
    """A gateway on a new data directory sent its streams all limit events since the beginning, as
    if they happened now.
    """
    streams = world.gateway.streams
    world.limits_trouble = "the past is still being read"
    with pytest.raises(Problem) as refused:
        streams.open("acct", lambda: True)
    assert (refused.value.code, refused.value.headers) == ("not_ready", {"Retry-After": "1"})
    world.limits_trouble = None
    streams.open("acct", lambda: True)


def test_the_tokens_of_an_account_have_few_streams_and_leave_the_apps_theirs(
    world: StreamWorld,
) -> None:
    """A browser holds the token, and one token held 100 of the gateway's 5,000 streams. Fifty
    accounts could use up all of them.
    """
    streams = world.gateway.streams
    clients = [
        streams.open("acct", lambda: True, has_token=True) for _ in range(STREAMS_BY_TOKEN_MAX)
    ]
    with pytest.raises(Problem) as refused:
        streams.open("acct", lambda: True, has_token=True)
    assert refused.value.code == "too_many_streams"
    streams.open("acct", lambda: True)
    streams.open("another", lambda: True, has_token=True)
    streams.close(clients[0])
    streams.open("acct", lambda: True, has_token=True)


@pytest.mark.parametrize(
    ("said", "address"),
    [
        (None, None),
        ("", None),
        ("0-1042-0", LimitAddress(0, 1042, 0, 1)),
        ("0-1042-3", LimitAddress(0, 1042, 3, 4)),
        ("0-none", LimitAddress(0, 0, -1, 0)),
        ("1-1042-0", None),
        ("1-none", None),
        ("garbage", None),
        ("0-1042", None),
        ("0-99999999999999999999-0", None),
        ("0--1-0", None),
        ("٠-1-0", None),
    ],
)
def test_a_stream_resumes_after_an_id_of_its_partition_and_from_now_on_otherwise(
    said: str | None, address: LimitAddress | None
) -> None:
    found, remark = _resume_point(said, 0)
    assert found == address
    assert ("from now on" in remark) == (address is None)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000)


def _read(message: bytes) -> tuple[str, Any]:
    fields = dict(line.split(": ", 1) for line in message.decode().strip().splitlines())
    return fields.get("id") or fields["event"], json.loads(fields["data"])
