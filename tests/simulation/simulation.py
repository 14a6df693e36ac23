"""One simulated ledger: its accounts, workers, limits consumers and servers, and all their faults.

All of it follows from one seed. Storms, in which anything can fail, alternate with calms, in which
everything must settle.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from random import Random
from typing import Any

import pytest

from tests.simulation.inputs import TOPICS, FeedFaults, InputTopic
from tests.simulation.invariants import Broken, PartitionOracle
from tests.simulation.limits import JUNK, LimitsConsumer, LimitsGroup, LimitTopic
from tests.simulation.network import Network, Server, Weather
from tests.simulation.operator import Rebuild
from tests.simulation.scheduler import SimulatedLoop
from tests.simulation.servers import SimulatedLog, SimulatedView
from tests.simulation.work import Work
from tests.simulation.worker import Cluster, Worker
from usageledger.audit.replay import Difference, PartitionReplay
from usageledger.counters.view import Position, ViewChange, ViewError
from usageledger.domain.catalog_document import catalog_document, load_shipped_catalog
from usageledger.domain.chain import seal
from usageledger.domain.encoding import decode_head
from usageledger.domain.entry import LedgerEntry
from usageledger.domain.head import Head
from usageledger.domain.identity import window_of
from usageledger.domain.record_skip import (
    RecordSkip,
    SkippedPlace,
    encode_skip,
    place_of,
    places_skipped,
)
from usageledger.ledger import adoption
from usageledger.ledger.decoding import decode_catalog
from usageledger.ledger.partitioning import partition_of
from usageledger.ledger.records import KeyedValue, LedgerError, Record
from usageledger.ledger.timestamps import milliseconds
from usageledger.processor.feed import TopicPartition
from usageledger.processor.inputs import Source
from usageledger.processor.owner_settings import OwnerSettings

BEGIN = datetime(2025, 1, 28, 10, tzinfo=UTC)
SETTLE_S = 180.0
"""Once the faults have ended, everything settles within this time.

It covers the minute after which a worker considers itself stuck, time-outs that still run, a last
back-off, and the work itself.
"""

REFUSED_S = 20.0
CLAIMS_WHILE_REFUSED_MAX = 2
"""A claim that was still on its way supersedes the owner, who then claims again."""

STORM_ACTIONS = (60, 250)


@dataclass(slots=True)
class Outcome:
    """The result of one seed. ``failure`` names the invariant that broke, or is None."""

    seed: int
    steps: int = 0
    digest: str = ""
    invariant: str | None = None
    failure: str | None = None
    inputs: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)


def simulate(seed: int, steps: int) -> Outcome:
    """Run one seed for at least that number of steps.

    A step is one resumption of a process's event loop: a callback, or a task up to its next await.
    An arriving request or answer, or an action of the schedule, is one too.
    """
    outcome = Outcome(seed)
    gc.collect()
    gc.disable()  # a collection would finalize objects at times that do not follow from the seed
    logging.disable(logging.ERROR)
    try:
        with _small_sizes(Random(f"sizes {seed}")) as settings:
            Simulation(seed, steps, outcome, settings).run()
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)
    return outcome


@contextmanager
def _small_sizes(random: Random) -> Iterator[OwnerSettings]:
    """Sizes so small that anything can happen between two batches.

    Each catalog is decoded only once.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adoption, "decode_catalog", _decode_catalog_once)
        yield OwnerSettings(
            records_per_step=random.choice((1, 3, 10, 2_000)),
            due_per_step=random.choice((1, 2, 500)),
            look_back_records=random.choice((1, 5, 100)),
            records_per_commit=random.choice((1, 5, 5_000)),
            accounts_kept_max=random.choice((0, 20_000)),
        )


_decode_catalog_once = cache(decode_catalog)


class _PartitionWitness:
    """Passes each change to the partition's oracle, and adds it to the history."""

    def __init__(self, simulation: Simulation, partition: int) -> None:
        self._simulation = simulation
        self._partition = partition

    def ledger_appended(self, records: Sequence[Record]) -> None:
        for record in records:
            self._simulation.note(
                f"ledger {self._partition} {record.offset} {record.timestamp_ms}",
                record.value or b"",
            )
        self._simulation.oracles[self._partition].ledger_appended(records)

    def view_commits(
        self, position_before: Position | None, due_ms: Mapping[str, int], change: ViewChange
    ) -> None:
        self._simulation.note(f"view {self._partition} {change.position}")
        self._simulation.oracles[self._partition].view_commits(position_before, due_ms, change)


class Simulation:
    """One seed's world."""

    def __init__(self, seed: int, steps: int, outcome: Outcome, settings: OwnerSettings) -> None:
        self.random = random = Random(seed)
        self.steps = steps
        self.outcome = outcome
        self.loop = SimulatedLoop(random)
        self.faults = outcome.faults
        self.network = Network(self.loop, random, self.faults)
        self.network.answered = (LedgerError, ViewError)
        self.kafka, self.store = Server("kafka"), Server("store")
        self.limits_log, self.catalog_server = Server("limit events"), Server("catalog")
        self.servers = (self.kafka, self.store, self.limits_log, self.catalog_server)
        self.partition_count = random.choice((1, 2, 3))
        self.is_importing = random.random() < 0.4
        self.has_transactions = random.random() < 0.15
        self.live_since = -1e9
        self.history = hashlib.sha256()
        self._clock_ahead = timedelta(0)
        self._broker_skew = timedelta(0)
        self._clocks_are_good = random.random() < 0.5
        self._imported_at = BEGIN
        partitions = range(self.partition_count)
        self.topics = {
            TopicPartition(topic, p): InputTopic()
            for p in partitions
            for topic in (TOPICS.usage, TOPICS.account)
        }
        self.catalogs: list[Record] = []
        self.oracles = {p: self._oracle(p) for p in partitions}
        self.ledgers = {
            p: SimulatedLog(self._broker_ms, _PartitionWitness(self, p)) for p in partitions
        }
        self.views = {
            p: SimulatedView(self._broker_ms, _PartitionWitness(self, p)) for p in partitions
        }
        self.limits = {
            p: LimitTopic(partial(self.oracles.__getitem__, p), self.note) for p in partitions
        }
        self.limits_group = LimitsGroup()
        self.feed_faults = FeedFaults()
        self.cluster = Cluster(
            self.loop,
            self.network,
            self.kafka,
            self.store,
            self.catalog_server,
            self.ledgers,
            self.views,
            self.topics,
            self.catalogs,
            self.feed_faults,
            settings,
            self.now,
            self._is_importing_for,
        )
        self.workers: list[Worker] = []
        self.consumers: list[LimitsConsumer] = []
        self.rebuilds: list[Rebuild] = []
        self.accounts = [f"account-{n}" for n in range(random.choice((2, 5, 9)))] + ["a"]
        self.work = Work(
            random, self.accounts, self.event_time, self.let_pass, self.send, self.send_astray
        )
        self._names = 0

    # The clocks

    def now(self) -> datetime:
        """The time on a clock that is right."""
        return BEGIN + timedelta(seconds=self.loop.time()) + self._clock_ahead

    def event_time(self) -> datetime:
        """When the next event occurs: now, or at the import's own time."""
        return self._imported_at if self.is_importing else self.now()

    def _broker_ms(self) -> int:
        return milliseconds(self.now() + self._broker_skew)

    def _is_importing_for(self, late_s: float) -> bool:
        return self.is_importing or self.loop.time() < self.live_since + late_s

    # The topics

    def send(self, source: Source, key: bytes | None, value: bytes | None, at: datetime) -> None:
        """Append an input to the partition of its key."""
        partition = (
            partition_of(key, self.partition_count)
            if key
            else self.random.randrange(self.partition_count)
        )
        self._append(source, partition, key, value, at)

    def send_astray(
        self, source: Source, key: bytes | None, value: bytes | None, at: datetime
    ) -> None:
        """Append an input to any partition."""
        self._append(source, self.random.randrange(self.partition_count), key, value, at)

    def _append(
        self, source: Source, partition: int, key: bytes | None, value: bytes | None, at: datetime
    ) -> None:
        topic = self.topics[
            TopicPartition(TOPICS.usage if source is Source.USAGE else TOPICS.account, partition)
        ]
        offset = topic.end_offset
        if self.has_transactions and self.random.random() < 0.1:
            offset += self.random.choice((1, 2))
            self.faults["feed: offsets left out by a transaction"] += 1
        topic.records.append(
            Record(offset, milliseconds(at) if self.is_importing else self._broker_ms(), key, value)
        )
        self._imported_at += timedelta(seconds=self.random.choice((0, 0.001, 1, 30)))
        for worker in self.workers:
            worker.wake()

    def _read(self, partition: int, topic: str, offset: int) -> Record | None:
        if topic == "catalog":
            return self.catalogs[offset] if offset < len(self.catalogs) else None
        return self._topic(partition, topic).record_at_or_after(offset)

    def _skips_after(self, partition: int, offset: int) -> frozenset[SkippedPlace]:
        records = self.ledgers[partition].records
        return places_skipped(record.value for record in records if record.offset > offset)

    def _topic(self, partition: int, topic: str) -> InputTopic:
        return self.topics[
            TopicPartition(TOPICS.usage if topic == "usage" else TOPICS.account, partition)
        ]

    def _has_undecided_input(self, partition: int, at: datetime) -> bool:
        """Whether an input from before that time still waits, and no later input waits with it.

        A later one could have led to the entry of whatever was due.
        """
        if self.live_since > -1e9 or not (self.is_importing or self._clocks_are_good):
            return False
        head = self.oracles[partition].replay.book.head
        waiting = [
            self._topic(partition, source.value).record_at_or_after(head.next_of(source.value))
            for source in Source
        ]
        times = [record.timestamp_ms for record in waiting if record is not None]
        return bool(times) and max(times) < milliseconds(at)

    def note(self, what: str, value: bytes = b"") -> None:
        """Add to the history."""
        self.history.update(f"{self.loop.time():.6f} {what} ".encode())
        self.history.update(value)

    # The whole run

    def run(self) -> None:
        """Run to the end, or to the first invariant that breaks. The outcome names that one."""
        loop, outcome = self.loop, self.outcome
        main = loop.create_task(self._live())
        try:
            try:
                loop.run_until_complete(main)
            except RuntimeError as error:
                raise loop.failure or error from error
        except Broken as broken:
            outcome.invariant, outcome.failure = broken.invariant, str(broken)
        except Exception as error:  # noqa: BLE001 - any exception is the outcome of its seed
            outcome.invariant, outcome.failure = type(error).__name__, repr(error)
        outcome.steps = loop.steps
        self.note(f"steps {loop.steps}")
        outcome.digest = self.history.hexdigest()
        for oracle in self.oracles.values():
            outcome.inputs += oracle.replay.counts.inputs
            outcome.kinds += oracle.replay.counts.by_kind
            outcome.faults["entries of superseded owners"] += oracle.ignored
            outcome.faults["limits: repeats"] += oracle.limits.repeats
        self._end(main)

    def _end(self, main: asyncio.Task[None]) -> None:
        """Leave no process or task running."""
        loop = self.loop
        main.cancel()
        for consumer in self.consumers:
            consumer.kill()
        self._kill(*self.workers, *self.rebuilds)
        loop.failure = None
        for process in list(loop._processes):
            process.frozen_until = 0.0
        for task in asyncio.all_tasks(loop):
            task.cancel()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "call_exception_handler", lambda _: None)
            loop.run_until_complete(
                asyncio.gather(*asyncio.all_tasks(loop), return_exceptions=True)
            )
        loop.close()

    async def _live(self) -> None:
        if self.random.random() < 0.8:
            self.publish_catalog()
        while self.loop.steps < self.steps:
            await self._storm()
            await self._calm()
        await self._check_the_end()

    async def _storm(self) -> None:
        random = self.random
        self._draw_weather()
        actions = self._actions()
        weights = [weight * random.choice((0, 1, 1, 1, 3)) for _, weight in actions]
        if not sum(weights):
            return
        for _ in range(random.randrange(*STORM_ACTIONS)):
            ((action, _),) = random.choices(actions, weights)
            self.note(action.__name__)
            action()
            await asyncio.sleep(random.choice((0, 0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)))
            if random.random() < 0.04:
                await asyncio.sleep(random.choice((0.5, 1.1, 6, 13)))

    def _actions(self) -> list[tuple[Callable[[], None], float]]:
        work = self.work
        return [
            (work.use, 20),
            (work.burst, 10),
            (work.use_late, 4),
            (work.use_by_a_fast_clock, 2),
            (work.use_again, 8),
            (work.use_over_months, 1),
            (work.use_again_with_other_content, 2),
            (work.tell_again, 2),
            (work.void, 5),
            (work.void_first, 3),
            (work.subscribe, 5),
            (work.change_plan, 5),
            (work.cancel, 3),
            (work.open, 2),
            (work.grant, 5),
            (work.suspend, 2),
            (work.resume, 4),
            (work.set_thresholds, 1),
            (work.send_junk, 3),
            (work.send_much_junk, 1),
            (work.send_without_a_time, 1),
            (work.send_astray, 1),
            (self.let_time_pass, 4),
            (self.go_near_a_renewal, 8),
            (self.use_around_what_is_due, 5),
            (self.publish_catalog, 1),
            (self.go_live, 0.5),
            (self.start_worker, 8),
            (self.start_twin, 3),
            (self.kill_worker, 5),
            (self.freeze_worker, 6),
            (self.step_clock, 3),
            (self.fall_back, 8),
            (self.lose_view, 1.5),
            (self.lose_entries, 0.5),
            (self.claim_and_vanish, 1),
            (self.let_a_stranger_write, 2),
            (self.rebuild_view, 2),
            (self.kill_rebuild, 1),
            (self.freeze_rebuild, 1),
            (self.take_server_down, 2),
            (self.refuse_writes, 2),
            (self.start_consumer, 3),
            (self.kill_consumer, 2),
            (self.freeze_consumer, 3),
            (self.rebalance_consumers, 2),
        ]

    def _draw_weather(self) -> None:
        random = self.random
        for server in self.servers:
            bad = random.choice((0.0, 0.02, 0.05, 0.1)) * (3 if server is self.limits_log else 1)
            server.weather = Weather(*(bad * random.choice((0, 0, 1)) for _ in range(6)))
            server.weather.slow_s = random.choice((0.1, 3.0, 25.0))
        bad = random.choice((0.0, 0.05, 0.2))
        self._set_feed_faults(
            [bad * random.choice((0, 0, 0, 1)) for _ in range(3)],
            bad,
            random.choice((0.0, 0.0, 0.3, 4.0)),
        )
        self.limits_group.skips = random.choice((0.0, 0.1))
        if self.has_transactions:
            self.feed_faults.records_lost = 0.0

    def _set_feed_faults(
        self, chunks: Sequence[float], records_lost: float, fetch_s: float
    ) -> None:
        for wanted, rate in zip(fields(FeedFaults), [*chunks, records_lost, fetch_s], strict=True):
            setattr(self.feed_faults, wanted.name, rate)

    async def _calm(self) -> None:
        """End every fault and leave one worker and one consumer: everything settles.

        It settles once more when a view then falls back.
        """
        self._end_faults()
        self._leave_one_worker()
        self._leave_one_consumer()
        await self._settle()
        if self.random.random() < 0.5:
            self.fall_back()
            for _ in range(self.random.choice((0, 0, 4))):
                self.work.use()
                self.work.use_again()
            await asyncio.sleep(0)
            await self._settle()
        if self.random.random() < 0.5:
            await self._wait_for_a_store_that_refuses_writes()
        if self.random.random() < 0.5:
            await self._let_something_fall_due()
        if not self.is_importing:
            for oracle in self.oracles.values():
                oracle.check_nobody_is_blocked_after_the_period(self.now() - timedelta(seconds=3))

    async def _wait_for_a_store_that_refuses_writes(self) -> None:
        """Nothing else fails meanwhile, so an owner has no reason to claim again."""
        before = {partition: len(found.replay.claims) for partition, found in self.oracles.items()}
        self.store.refuses_writes_until = self.loop.time() + REFUSED_S
        self.faults["store: refused writes"] += 1
        for _ in range(self.random.choice((0, 1, 8))):
            self.work.use()
        await asyncio.sleep(REFUSED_S)
        for partition, oracle in self.oracles.items():
            claims = len(oracle.replay.claims) - before[partition]
            if claims > CLAIMS_WHILE_REFUSED_MAX:
                raise Broken("nobody claims in a loop", f"{claims} claims of partition {partition}")
        await self._settle()

    async def _let_something_fall_due(self) -> None:
        """Something falls due by the wall clock alone, while no input arrives."""
        due = [
            date[0]
            for oracle in self.oracles.values()
            if (date := oracle.replay.book.due.next()) is not None
        ]
        if due and not self.is_importing:
            self.let_pass(max(timedelta(0), min(due) - timedelta(seconds=1) - self.now()))
            await asyncio.sleep(5)
            await self._settle()

    def _end_faults(self) -> None:
        now = self.loop.time()
        for server in self.servers:
            server.weather, server.down_until = Weather(), min(server.down_until, now)
            server.refuses_writes_until = min(server.refuses_writes_until, now)
        self._set_feed_faults([0.0] * 3, 0.0, 0.0)
        self.limits_group.skips = 0.0
        self._broker_skew = timedelta(0)
        for worker in self.workers:
            worker.clock_skew = timedelta(0)
        for process in (
            *(worker.process for worker in self.workers),
            *(consumer.process for consumer in self.consumers),
            *(rebuild.process for rebuild in self.rebuilds),
        ):
            process.frozen_until = min(process.frozen_until, now)

    def _leave_one_worker(self) -> None:
        """Leave one worker, which owns every partition.

        Only a consumer group could decide between several, and there is none here.
        """
        self._forget_the_dead()
        able = [worker for worker in self.workers if len(worker.partitions) == self.partition_count]
        left = self.random.choice(able) if able and self.random.random() < 0.7 else None
        for worker in self.workers:
            if worker is not left:
                worker.kill()
        self.workers = [left] if left is not None else [self._worker(range(self.partition_count))]

    def _leave_one_consumer(self) -> None:
        left = (
            self.random.choice(self.consumers)
            if self.consumers and self.random.random() < 0.7
            else None
        )
        for consumer in self.consumers:
            if consumer is not left:
                consumer.kill()
        self.consumers = [left] if left is not None else [self._consumer()]
        self.consumers[0].partitions = frozenset(range(self.partition_count))
        self.consumers[0].generation += 1

    async def _settle(self) -> None:
        deadline = self.loop.time() + SETTLE_S
        while why := self._unsettled_reason():
            if self.loop.time() > deadline:
                raise Broken("everything settles", f"within {SETTLE_S:.0f} s, but {why}")
            self._restart_what_ended()
            await asyncio.sleep(0.5)

    def _restart_what_ended(self) -> None:
        if not self.workers[0].is_alive:
            self.workers = [self._worker(range(self.partition_count))]
        if self.consumers[0].has_ended:
            self.consumers = [self._consumer()]

    def _unsettled_reason(self) -> str | None:
        if not self.catalogs:
            self.publish_catalog()
        if any(rebuild.is_alive for rebuild in self.rebuilds):
            return "a rebuild is at work"
        for partition, oracle in self.oracles.items():
            head = oracle.replay.book.head
            for source in Source:
                if (
                    self._topic(partition, source.value).record_at_or_after(
                        head.next_of(source.value)
                    )
                    is not None
                ):
                    return (
                        f"partition {partition} has {source.value} to decide at "
                        f"{head.next_of(source.value)}"
                    )
            if head.catalog_next < len(self.catalogs):
                return f"partition {partition} has a catalog to adopt"
            view_position = self.views[partition].position
            if view_position is None or view_position.hash != head.hash:
                return f"the view of partition {partition} is at {view_position}"
            if oracle.limits.announced < len(oracle.limits.expected):
                return f"partition {partition} has limits to announce"
            due = oracle.replay.book.due.next()
            if (
                due is not None
                and not self.is_importing
                and due[0] < self.now() - timedelta(seconds=3)
            ):
                return f"{due[1]} is due since {due[0]}"
        return None

    async def _check_the_end(self) -> None:
        """A rebuilt view equals the live one; an audit of the whole log agrees; each input has been
        decided once.
        """
        for partition, view in self.views.items():
            if not await self._rebuild_and_compare(view):
                raise Broken("a view made anew is the live one", f"partition {partition}")
            self._audit(partition)

    async def _rebuild_and_compare(self, view: SimulatedView) -> bool:
        """Lose the view, and return whether a worker rebuilds the same one.

        If something falls due meanwhile, the two cannot be compared, and it starts over.
        """
        while True:
            live = _contents(view)
            self.workers[0].kill()
            view.lose()
            self.workers = [self._worker(range(self.partition_count))]
            await self._settle()
            if _contents(view)["hash"] == live["hash"]:
                return _contents(view) == live

    def _audit(self, partition: int) -> None:
        replay = PartitionReplay(
            partition,
            self.partition_count,
            partial(self._read, partition),
            partial(self._skips_after, partition),
        )
        try:
            decided = [
                sealed.entry for sealed in replay.verified_entries(self.ledgers[partition].records)
            ]
        except Difference as difference:
            raise Broken("the audit decides the same", str(difference)) from difference
        if replay.book.head.hash != self.oracles[partition].last_hash:
            raise Broken(
                "the audit decides the same", f"partition {partition} ends with another hash"
            )
        sent = {
            (source.value, record.offset)
            for source in Source
            for record in self._topic(partition, source.value).records
        }
        outcomes: dict[tuple[str, int], set[str]] = {}
        for entry in decided:
            if entry.input is not None and entry.input.topic != "catalog":
                outcome = entry.kind if entry.kind in ("refusal", "duplicate") else "accepted"
                addresses = {(entry.input.topic, offset) for offset in entry.input_offsets}
                # A transaction leaves offsets out, also within a run of malformed records.
                if len(addresses & sent) != entry.input_records:
                    raise Broken("accepted + refused + duplicates = sent", f"{entry}")
                for address in addresses & sent:
                    outcomes.setdefault(address, set()).add(outcome)
        if set(outcomes) != sent or any(len(found) != 1 for found in outcomes.values()):
            raise Broken("accepted + refused + duplicates = sent", f"partition {partition}")

    # The faults and the passing of time

    def let_time_pass(self) -> None:
        self.let_pass(timedelta(days=self.random.choice((0.01, 0.3, 1, 5, 20, 37, 75))))

    def go_near_a_renewal(self) -> None:
        """Let time pass to just before, exactly at, or just after an account's period ends."""
        at = self.event_time()
        ends = [
            state.period.end
            for oracle in self.oracles.values()
            for state in oracle.replay.book.accounts.values()
            if state is not None and state.period.end is not None and state.period.end > at
        ]
        if ends:
            end = self.random.choice(ends)
            seconds = self.random.choice((-60, -1, -0.5, -0.001, 0, 0.001, 0.5, 1, 2, 72 * 3600))
            self.let_pass(max(timedelta(0), end + timedelta(seconds=seconds) - at))

    def use_around_what_is_due(self) -> None:
        """Send uses right before and right after the moment at which something is due."""
        due = [
            date[0]
            for oracle in self.oracles.values()
            if (date := oracle.replay.book.due.next()) is not None
        ]
        for _ in range(3):
            self.work.use()
        if due:
            after = timedelta(seconds=self.random.choice((-0.001, 0, 0.001, 1)))
            self.let_pass(max(timedelta(0), self.random.choice(due) + after - self.event_time()))
        self.work.use()

    def let_pass(self, time: timedelta) -> None:
        """Let time pass, for accounts and clocks."""
        if self.is_importing:
            self._imported_at += time
        else:
            self._clock_ahead += time

    def publish_catalog(self) -> None:
        """Publish a new version, or an old one again, perhaps with other content, or junk."""
        offset, version = len(self.catalogs), f"version {len(self.catalogs)}"
        if offset and self.random.random() < 0.3:
            version = "version 0"
        document = _document(version, knows_more=offset > 0)
        value = b"junk" if offset and self.random.random() < 0.1 else document
        self.catalogs.append(Record(offset, self._broker_ms(), None, value))

    def go_live(self) -> None:
        if self.is_importing:
            self.is_importing, self.live_since = False, self.loop.time()
            self._clock_ahead += max(
                timedelta(0), self._imported_at + timedelta(hours=1) - self.now()
            )
            self.faults["import ended"] += 1

    def start_worker(self) -> None:
        self._forget_the_dead()
        if len(self.workers) < 4:
            some = [p for p in range(self.partition_count) if self.random.random() < 0.7]
            self.workers.append(self._worker(some or range(self.partition_count)))

    def start_twin(self) -> None:
        """Start a copy of a worker, with its name. It may go on from the original's claims."""
        self._forget_the_dead()
        if self.workers and len(self.workers) < 5:
            original = self.random.choice(self.workers)
            twin = self._worker(sorted(original.partitions), name=original.name)
            if self.random.random() < 0.6:
                twin.borrow_claims_of(original)
            self.workers.append(twin)
            self.faults["worker: forked"] += 1

    def kill_worker(self) -> None:
        if self.workers:
            self.workers.pop(self.random.randrange(len(self.workers))).kill()
            self.faults["worker: killed"] += 1

    def freeze_worker(self) -> None:
        if self.workers:
            self._freeze(
                self.random.choice(self.workers).process.name,
                self.random.choice(self.workers).process,
            )

    def freeze_consumer(self) -> None:
        if self.consumers:
            self._freeze("limits", self.random.choice(self.consumers).process)

    def _freeze(self, name: str, process: Any) -> None:
        process.frozen_until = self.loop.time() + self.random.choice((0.02, 0.3, 3, 12, 40))
        role = name if name in ("limits", "rebuild") else "worker"
        self.faults[f"{role}: frozen"] += 1

    def step_clock(self) -> None:
        """Step a worker's wall clock, or the broker's, forward or back."""
        if self._clocks_are_good:
            return
        step = timedelta(seconds=self.random.choice((-86_400, -3_600, -5, -1, 1, 5, 3_600, 86_400)))
        if self.random.random() < 0.3:
            self._broker_skew = step
        elif self.workers:
            self.random.choice(self.workers).clock_skew = step
        self.faults["clock: stepped"] += 1

    def fall_back(self) -> None:
        """The store fails over and loses its last changes, of one partition or of all."""
        views = list(self.views.values())
        depth = self.random.choice((1, 1, 1, 2, 3, 5, 20, 10_000))
        for view in self.random.choice((views, [self.random.choice(views)])):
            if view.moments:
                view.fall_back(
                    min(depth, self.random.randrange(1, view.moments + 1))
                    if depth == 10_000
                    else depth
                )
                self.faults["store: fell back"] += 1

    def lose_view(self) -> None:
        self.random.choice(list(self.views.values())).lose()
        self.faults["store: emptied"] += 1

    def lose_entries(self) -> None:
        """An unclean election while no process runs: the ledger loses its last batches.

        Claims are then appended at their offsets. Kafka promises nothing in this case. Entries that
        were already announced are spared, because no reader could undo them.
        """
        self._kill(*self.workers, *self.consumers, *self.rebuilds)
        self.workers, self.consumers, self.rebuilds = [], [], []
        self.network.cut()
        for partition, log in self.ledgers.items():
            end = self.random.choice(
                self.oracles[partition].unannounced_ends()[-8:] or [log.end_offset]
            )
            if end < log.end_offset:
                self.faults["kafka: entries lost"] += 1
                log.truncate_from(end)
                self.limits_group.committed[partition] = min(
                    end, self.limits_group.committed.get(partition, 0)
                )
                self.views[partition].forget_moments()
                announced = self.limits[partition].records
                self.oracles[partition] = oracle = self._oracle(partition)
                oracle.ledger_appended(log.records)
                for record in announced:
                    if record.value != JUNK:
                        oracle.limits.read(record.value or b"")

    def claim_and_vanish(self) -> None:
        """A worker claims and dies at once. Its claim alone supersedes the owner."""
        log = self.random.choice(list(self.ledgers.values()))
        if log.records:
            log.append_batch([KeyedValue(None, log.records[0].value or b"")])
            self.faults["worker: claimed and vanished"] += 1

    def let_a_stranger_write(self) -> None:
        """A stranger appends junk to the ledger or to the limit events.

        An entry of the stranger's that is at its own offset stops every reader. An operator skips
        it at once here, because only then can everything settle.
        """
        partition = self.random.randrange(self.partition_count)
        log, what = (
            self.ledgers[partition],
            self.random.choice(("junk", "nothing", "copy", "entry")),
        )
        if not log.records:
            return
        if self.random.random() < 0.4:
            self.limits[partition].append_junk()
            self.faults["stranger: wrote to the limit events"] += 1
            return
        self.faults[f"stranger: wrote {what} to the ledger"] += 1
        if what == "junk":
            log.append_batch([KeyedValue(b"stranger", self.random.randbytes(8))])
        elif what == "nothing":
            log.append_batch([KeyedValue(b"stranger", b"")])
        elif what == "copy":
            log.append_batch([KeyedValue(None, self.random.choice(log.records).value or b"")])
        else:
            head = Head(ledger="?", next_offset=log.end_offset, hash=64 * "0")
            draft = LedgerEntry(kind="usage", appended_at=self.now(), account=self.accounts[0])
            ((forged, _, value),), _ = seal([draft], head, partition)
            place = place_of("ledger", partition, forged.offset, value)
            skip = RecordSkip(place=place, reason="forged", operator="operator")
            log.append_batch([KeyedValue(None, value), KeyedValue(None, encode_skip(skip))])

    def rebuild_view(self) -> None:
        """An operator rebuilds a view beside the workers, and goes on from an earlier attempt."""
        self.rebuilds = [rebuild for rebuild in self.rebuilds if rebuild.is_alive]
        if not self.rebuilds:
            self._names += 1
            partition = self.random.randrange(self.partition_count)
            self.rebuilds.append(
                Rebuild(self.cluster, f"rebuild-{self._names}", partition, self.random)
            )
            self.faults["rebuild: started"] += 1

    def kill_rebuild(self) -> None:
        for rebuild in self.rebuilds:
            if rebuild.is_alive:
                rebuild.kill()
                self.faults["rebuild: cut short"] += 1

    def freeze_rebuild(self) -> None:
        for rebuild in self.rebuilds:
            if rebuild.is_alive:
                self._freeze("rebuild", rebuild.process)

    def _kill(self, *processes: Worker | LimitsConsumer | Rebuild) -> None:
        for process in processes:
            process.kill()

    def take_server_down(self) -> None:
        server = self.random.choice(self.servers)
        server.down_until = self.loop.time() + self.random.choice((0.1, 2, 20, 60))

    def refuse_writes(self) -> None:
        """The store is full or a read-only replica for a while."""
        seconds = self.random.choice((0.1, 2, 20))
        self.store.refuses_writes_until = self.loop.time() + seconds
        self.faults["store: refused writes"] += 1

    def start_consumer(self) -> None:
        self.consumers = [consumer for consumer in self.consumers if not consumer.has_ended]
        if len(self.consumers) < 3:
            self.consumers.append(self._consumer())

    def kill_consumer(self) -> None:
        if self.consumers:
            self.consumers.pop(self.random.randrange(len(self.consumers))).kill()
            self.faults["limits: killed"] += 1

    def rebalance_consumers(self) -> None:
        """Assign other partitions to a consumer.

        Another consumer may still believe that they are its own.
        """
        if self.consumers:
            consumer = self.random.choice(self.consumers)
            consumer.partitions = frozenset(
                p for p in range(self.partition_count) if self.random.random() < 0.7
            )
            consumer.generation += 1
            self.faults["limits: rebalanced"] += 1

    def _worker(self, partitions: Sequence[int], name: str | None = None) -> Worker:
        self._names += 1
        self.faults["worker: started"] += 1
        return Worker(self.cluster, name or f"worker-{self._names}", partitions, self.random)

    def _consumer(self) -> LimitsConsumer:
        self._names += 1
        name = f"limits-{self._names}"
        servers = (self.kafka, self.limits_log)
        return LimitsConsumer(
            self.loop,
            self.network,
            servers,
            name,
            self.ledgers,
            self.limits,
            self.limits_group,
            self.random,
        )

    def _oracle(self, partition: int) -> PartitionOracle:
        return PartitionOracle(
            partition,
            self.partition_count,
            partial(self._read, partition),
            partial(self._has_undecided_input, partition),
            partial(self._skips_after, partition),
        )

    def _forget_the_dead(self) -> None:
        self.workers = [worker for worker in self.workers if worker.is_alive]


def _contents(view: SimulatedView) -> Mapping[str, Any]:
    """The view's contents as look-ups find them.

    If an id was used again after it had expired, only its latest record counts.
    """
    assert view.stored_head is not None
    since = window_of(decode_head(view.stored_head.value).clock) - 1
    found = {
        identity: value
        for w in sorted(view.identities)
        if w >= since
        for identity, value in view.identities[w].items()
    }
    return {
        "accounts": view.stored_accounts,
        "due": view.due_ms,
        "identities": found,
        "hash": view.stored_head.position.hash,
    }


@cache
def _document(version: str, *, knows_more: bool) -> bytes:
    """The shipped plans with a short rate card. A later version has one more model."""
    shipped: dict[str, Any] = catalog_document(load_shipped_catalog())
    features = [
        feature
        for feature in shipped["features"]
        if feature["id"] in ("genai_video", "prompt_to_video", "chat_message")
    ]
    if knows_more:
        features = json.loads(json.dumps(features))
        models = next(feature["models"] for feature in features if feature["id"] == "genai_video")
        models.append(
            {"id": "veo_4", "name": "Veo 4", "rate": {"credits": "40", "unit": "generation"}}
        )
    document = {**shipped, "version": version, "features": features, "thresholds": ["0.5", "0.8"]}
    event = {
        "specversion": "1.0",
        "type": "catalog.published",
        "id": version,
        "source": "/catalog",
        "data": document,
    }
    return json.dumps(event).encode()
