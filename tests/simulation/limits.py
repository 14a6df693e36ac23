"""A limits consumer as a process.

The announcer blocks in its calls. It therefore runs in a greenlet, and other processes run while it
waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from tests.simulation.invariants import Broken, PartitionOracle
from tests.simulation.network import Disconnected, Link, Network, Server
from tests.simulation.scheduler import Process, SimulatedLoop
from tests.simulation.servers import SimulatedLog
from usageledger.domain.record_skip import SkippedPlace, places_skipped
from usageledger.ledger.limit_events import LimitMessage
from usageledger.ledger.records import Record
from usageledger.limits.announcer import (
    Announcer,
    Assignment,
    LimitsError,
    PartitionsStopped,
    Unavailable,
)
from usageledger.log.bounded_codecs import Unreadable

T = TypeVar("T")

ASK_TIMEOUT_S = 15.0
APPEND_TIMEOUT_S = 10.0
PAUSE_S = 0.02

JUNK = b"junk"


class LimitTopic:
    """One partition of the limit events."""

    def __init__(
        self, oracle: Callable[[], PartitionOracle], note: Callable[[str, bytes], None]
    ) -> None:
        self.records: list[Record] = []
        self._oracle = oracle
        self._note = note

    def append_batch(self, values: Sequence[bytes]) -> None:
        """Append a batch, whole."""
        for value in values:
            self.records.append(Record(len(self.records), 0, None, value))
            self._note("limit event", value)
            self._oracle().limits.read(value)

    def append_junk(self) -> None:
        """A stranger appends bytes that are no limit event."""
        self.records.append(Record(len(self.records), 0, None, JUNK))


@dataclass(slots=True)
class LimitsGroup:
    """The offsets that the consumers' group has committed, for lag tools.

    ``skips``: the probability that a poll resets the position to beyond a record.
    """

    committed: dict[int, int] = field(default_factory=dict)
    skips: float = 0.0


class LimitsConsumer:
    """Runs an `Announcer` until it is killed or it fails."""

    def __init__(
        self,
        loop: SimulatedLoop,
        network: Network,
        servers: tuple[Server, Server],
        name: str,
        ledgers: Mapping[int, SimulatedLog],
        limits: Mapping[int, LimitTopic],
        group: LimitsGroup,
        random: Random,
    ) -> None:
        self.process = Process(name)
        self.partitions = frozenset(ledgers)
        self.generation = 0
        self.has_ended = False
        self._loop = loop
        self._network = network
        self._ledger_server, self._limits_server = servers
        self._context = loop.context_of(self.process)
        self._waiting = 0
        self._hub: Any = None
        self._greenlet = greenlet(self._run)
        self.announcer = Announcer(
            _Feed(self, ledgers, group, random), _LimitLog(self, limits, random), loop.time
        )
        loop.call_soon(self._resume, 0, context=self._context)

    def kill(self) -> None:
        """End it wherever it is. Messages that it has sent still arrive."""
        self.process.is_alive = False
        self._waiting = -1
        if self._greenlet and not self._greenlet.dead:
            self._greenlet.throw(GreenletExit)
        self._end()

    def ask(self, link: Link, question: Callable[[], T], timeout_s: float) -> T:
        """Block until the server answers. Raises Unavailable."""
        answer = self._network.send(link, question)
        if self.wait(timeout_s, answer):
            try:
                return answer.result()
            except Disconnected as error:
                raise Unavailable(str(error)) from error
        raise Unavailable("no answer in time")

    def wait(self, seconds: float, answer: asyncio.Future[Any] | None = None) -> bool:
        """Block for ``seconds``, or until the answer is there. Return whether it is."""
        self._waiting += 1
        resume = partial(self._resume, self._waiting)
        timer = self._loop.call_later(seconds, resume, context=self._context)
        if answer is not None:
            answer.add_done_callback(lambda _: resume(), context=self._context)
        self._hub.switch()
        timer.cancel()
        return answer is not None and answer.done()

    def count(self, fault: str) -> None:
        self._network.faults[fault] += 1

    def link(self) -> Link:
        """A connection to the server of the ledger."""
        return Link(self._ledger_server, self.process)

    def limits_link(self, *, is_strict: bool = False) -> Link:
        """A connection to the server of the limit events."""
        return Link(self._limits_server, self.process, is_strict=is_strict)

    def _resume(self, waiting: int) -> None:
        if waiting == self._waiting:
            self._waiting += 1
            self._hub = getcurrent()
            self._greenlet.switch()

    def _run(self) -> None:
        try:
            while True:
                self.announcer.step()
                self.wait(PAUSE_S)
        except PartitionsStopped as error:
            raise Broken("no partition stops", f"limits: {error}") from error
        except LimitsError:
            self.count("limits: ended by itself")
        except GreenletExit:
            return
        finally:
            self._end()

    def _end(self) -> None:
        self.has_ended = True
        self.process.ready.clear()
        self._loop.forget(self.process)


class _Feed:
    """See `LedgerFeed`."""

    def __init__(
        self,
        consumer: LimitsConsumer,
        ledgers: Mapping[int, SimulatedLog],
        group: LimitsGroup,
        random: Random,
    ) -> None:
        self._consumer = consumer
        self._ledgers = ledgers
        self._random = random
        self._positions: dict[int, int] = {}
        self._paused: set[int] = set()
        self._link = consumer.link()
        self._skipped: set[tuple[int, int]] = set()
        self.group = group

    def assignment(self) -> Assignment:
        return Assignment(self._consumer.generation, self._consumer.partitions)

    def seek(self, partition: int, offset: int) -> None:
        self._positions[partition] = offset
        self._paused.discard(partition)

    def pause(self, partition: int) -> None:
        self._paused.add(partition)

    def poll(self, timeout_ms: int) -> dict[int, list[Record]]:
        polled = self._consumer.ask(self._link, self._read, ASK_TIMEOUT_S)
        if not polled:
            self._consumer.wait(self._random.random() * timeout_ms / 1000)
        for partition, records in polled.items():
            self._positions[partition] = records[-1].offset + 1
            if (
                self._random.random() < self.group.skips
                and (partition, records[0].offset) not in self._skipped
            ):
                self._skipped.add((partition, records[0].offset))
                self._consumer.count("limits: record skipped")
                polled[partition] = records[1:]
        return {partition: records for partition, records in polled.items() if records}

    def unreadable(self) -> Mapping[int, Unreadable]:
        return {}

    def bounds(self, partition: int) -> tuple[int, int]:
        log = self._ledgers[partition]
        return self._consumer.ask(
            self._consumer.link(), lambda: (log.start_offset, log.end_offset), ASK_TIMEOUT_S
        )

    def skips_after(self, partition: int, offset: int) -> frozenset[SkippedPlace]:
        log = self._ledgers[partition]
        return self._consumer.ask(
            self._consumer.link(),
            lambda: places_skipped(each.value for each in log.records if each.offset > offset),
            ASK_TIMEOUT_S,
        )

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        self._consumer.ask(
            self._consumer.link(), lambda: self.group.committed.update(next_offsets), ASK_TIMEOUT_S
        )

    def committed_offset(self, partition: int) -> int:
        return self._consumer.ask(
            self._consumer.link(), lambda: self.group.committed.get(partition, 0), ASK_TIMEOUT_S
        )

    def _read(self) -> dict[int, list[Record]]:
        limit = self._random.choice((1, 3, 50))
        polled = {}
        for partition, position in self._positions.items():
            if partition not in self._paused and partition in self._consumer.partitions:
                records = self._ledgers[partition].records[position : position + limit]
                if records:
                    polled[partition] = list(records)
        return polled


class _LimitLog:
    """See `LimitLog`."""

    def __init__(
        self, consumer: LimitsConsumer, limits: Mapping[int, LimitTopic], random: Random
    ) -> None:
        self._consumer = consumer
        self._limits = limits
        self._random = random
        self._link: Link | None = None

    def newest_first(self, partition: int) -> Iterator[Record]:
        records = self._limits[partition].records
        end = self._consumer.ask(self._consumer.limits_link(), lambda: len(records), ASK_TIMEOUT_S)
        for offset in reversed(range(end)):
            yield self._consumer.ask(
                self._consumer.limits_link(), partial(records.__getitem__, offset), ASK_TIMEOUT_S
            )

    def append(self, messages: Mapping[int, Sequence[LimitMessage]]) -> dict[int, Exception]:
        failures: dict[int, Exception] = {}
        for partition, some in messages.items():
            size = self._random.choice((1, 2, 100))
            for start in range(0, len(some), size):
                values = [message.value for message in some[start : start + size]]
                link = self._link = self._link or self._consumer.limits_link(is_strict=True)
                try:
                    self._consumer.ask(
                        link,
                        partial(self._limits[partition].append_batch, values),
                        APPEND_TIMEOUT_S,
                    )
                except Unavailable as error:
                    self._link = None
                    failures[partition] = error
                    break
        return failures
