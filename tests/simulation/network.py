"""A network on which requests and answers are delayed, lost or refused at random.

It is between a process and Kafka or the store. A link keeps the order of its requests, as a
connection does. A request that was sent arrives even if its sender dies.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from tests.simulation.scheduler import Process, SimulatedLoop

T = TypeVar("T")


class Disconnected(Exception):
    """The connection broke. The server may have done what the request said, or not."""


@dataclass(slots=True)
class Weather:
    """The probability of each fault of a request.

    ``slow_s``: how long a slow request or answer may take.
    """

    request_lost: float = 0.0
    request_failed: float = 0.0
    answer_lost: float = 0.0
    answer_failed: float = 0.0
    slow_request: float = 0.0
    slow_answer: float = 0.0
    slow_s: float = 0.0


CALM = Weather()


@dataclass(slots=True, eq=False)
class Server:
    """Kafka, or the store."""

    name: str
    down_until: float = 0.0
    refuses_writes_until: float = 0.0
    weather: Weather = field(default_factory=Weather)


@dataclass(slots=True, eq=False)
class Link:
    """One connection.

    If ``is_strict``, the requests after a lost one are lost too, as with Kafka's idempotent
    producers.
    """

    server: Server
    process: Process
    is_strict: bool = False
    is_broken: bool = False
    free_at: float = 0.0


class Network:
    """Carries requests. Its faults are counted in ``faults``."""

    def __init__(self, loop: SimulatedLoop, random: Random, faults: Counter[str]) -> None:
        self.faults = faults
        self.answered: tuple[type[Exception], ...] = ()
        """The errors that a server may answer with. Any other exception fails the simulation."""
        self._loop = loop
        self._random = random
        self._outside = loop.context_of(loop.outside)
        self._cuts = 0

    def now(self) -> float:
        """The time on the clock that says until when a server has a fault."""
        return self._loop.time()

    def cut(self) -> None:
        """Lose every message that is on its way."""
        self._cuts += 1

    def send(
        self, link: Link, work: Callable[[], T], *, may_be_slow: bool = True
    ) -> asyncio.Future[T]:
        """Ask a server to do ``work``. The future may never be done."""
        if not link.process.is_alive:
            raise asyncio.CancelledError
        future: asyncio.Future[T] = self._loop.create_future()
        random, weather = self._random, link.server.weather
        delay = random.random() * 0.004
        if may_be_slow and weather.slow_request and random.random() < weather.slow_request:
            self.faults[f"{link.server.name}: slow request"] += 1
            delay = random.random() * weather.slow_s
        link.free_at = max(link.free_at, self._loop.time() + delay)
        self._loop.call_at(
            link.free_at, self._arrive, self._cuts, link, work, future, context=self._outside
        )
        return future

    def _arrive(
        self, cuts: int, link: Link, work: Callable[[], T], future: asyncio.Future[T]
    ) -> None:
        server, chance = link.server, self._random.random
        if cuts != self._cuts:
            return
        if link.is_broken:
            self._fail(link, future)
            return
        if server.down_until > self._loop.time():
            self.faults[f"{server.name}: down"] += 1
            link.is_broken = link.is_strict
            if chance() < 0.7:
                self._fail(link, future)
            return
        weather = server.weather
        fate = chance()
        if fate < weather.request_lost + weather.request_failed:
            link.is_broken = link.is_strict
            if fate < weather.request_lost:
                self.faults[f"{server.name}: request lost"] += 1
            else:
                self.faults[f"{server.name}: request failed"] += 1
                self._fail(link, future)
            return
        fate -= weather.request_lost + weather.request_failed
        try:
            result = work()
        except self.answered as error:
            self._answer(future, future.set_exception, error)
            return
        if fate < weather.answer_lost:
            self.faults[f"{server.name}: answer lost"] += 1
        elif fate < weather.answer_lost + weather.answer_failed:
            self.faults[f"{server.name}: answer failed"] += 1
            self._fail(link, future)
        else:
            late = weather.slow_answer and chance() < weather.slow_answer
            if late:
                self.faults[f"{server.name}: slow answer"] += 1
            self._answer(
                future,
                future.set_result,
                result,
                delay_s=chance() * weather.slow_s if late else 0.0,
            )

    def _fail(self, link: Link, future: asyncio.Future[T]) -> None:
        self._answer(future, future.set_exception, Disconnected(f"{link.server.name} is not there"))

    def _answer(
        self,
        future: asyncio.Future[T],
        settle: Callable[..., None],
        value: object,
        *,
        delay_s: float = 0.0,
    ) -> None:
        def arrive() -> None:
            if not future.done():
                settle(value)
                future.exception()  # asyncio would complain of an error that nobody waits for

        self._loop.call_later(
            delay_s + self._random.random() * 0.004, arrive, context=self._outside
        )
