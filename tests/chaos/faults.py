"""The kinds of faults, and the lanes in which they run."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import redis

from tests.chaos import intruder
from tests.chaos.brokers import Broker
from tests.chaos.proxy import Mode
from tests.chaos.schedule import EXCLUSIVE, Lane, Planned
from tests.chaos.stage import PARTITIONS, Actor, Role, Stage
from tests.chaos.stores import HEALTHY_TIMEOUT_S, Pair, fail_over_losing_writes
from usageledger.log.topics import Topics
from usageledger.operations.waiting import is_true_within

ACTOR_TIMEOUT_S = 60.0
TERMINATE_TIMEOUT_S = 12.0
SLOW_S = (0.05, 0.4)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Suffered:
    """A fault that was injected. ``problem`` says why it failed, if it did."""

    number: int
    kind: str
    target: str
    began: float
    ended: float
    problem: str = ""


@dataclass(slots=True)
class Record:
    """The faults so far."""

    say: Callable[[str], None]
    suffered: list[Suffered] = field(default_factory=list)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Suffered) -> None:
        with self._turn:
            self.suffered.append(fault)
        problem = f" ({fault.problem})" if fault.problem else ""
        self.say(
            f"fault {fault.number:>4}: {fault.kind}: {fault.target}, "
            f"{fault.ended - fault.began:.1f} s{problem}"
        )


def do(stage: Stage, planned: Planned, record: Record) -> None:
    """Inject one fault, from its beginning to its end, and record it."""
    began = time.time()
    target, problem = "", ""
    try:
        target = ACTS[planned.kind](stage, planned)
    except Exception as error:  # noqa: BLE001 - a fault that fails is reported, and the run goes on
        problem = f"failed: {error!r}"
    record.add(Suffered(planned.number, planned.kind, target, began, time.time(), problem))


class Lanes:
    """Runs all lanes at the same time."""

    def __init__(self, stage: Stage, record: Record, lanes: dict[Lane, list[Planned]]) -> None:
        self._stage, self._record = stage, record
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=item, name=item[0], daemon=True)
            for item in lanes.items()
        ]

    def run(self, timeout_s: float) -> None:
        """Inject all faults, or as many as there is time for."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._is_over.set()
        for thread in self._threads:
            thread.join(ACTOR_TIMEOUT_S + HEALTHY_TIMEOUT_S)

    def _run(self, lane: Lane, faults: Sequence[Planned]) -> None:
        doing: list[threading.Thread] = []
        for planned in faults:
            if self._is_over.wait(planned.after_s):
                break
            if lane in EXCLUSIVE:
                do(self._stage, planned, self._record)
            else:
                doing.append(
                    threading.Thread(
                        target=do, args=(self._stage, planned, self._record), daemon=True
                    )
                )
                doing[-1].start()
        for thread in doing:
            thread.join(ACTOR_TIMEOUT_S)


def _pick(planned: Planned, candidates: Sequence[T]) -> T:
    return candidates[int(planned.pick * len(candidates))]


def _hold(planned: Planned) -> None:
    time.sleep(planned.hold_s)


def _to_actor(role: Role, act: Callable[[Actor, Planned], None]) -> Callable[[Stage, Planned], str]:
    def act_on_target(stage: Stage, planned: Planned) -> str:
        actor = _pick(planned, stage.of_role(role))
        if not actor.turn.acquire(timeout=ACTOR_TIMEOUT_S):
            raise TimeoutError(f"{actor.name} was busy with other faults")
        try:
            is_true_within(lambda: actor.child.pid is not None, 10.0)
            act(actor, planned)
        finally:
            actor.turn.release()
        return actor.name

    return act_on_target


def _kill(actor: Actor, planned: Planned) -> None:
    actor.was_hit = True
    actor.signal(signal.SIGKILL)


def _end(actor: Actor, planned: Planned) -> None:
    pid = actor.child.pid
    actor.was_hit = True
    actor.signal(signal.SIGTERM)
    if not is_true_within(lambda: actor.child.pid != pid, TERMINATE_TIMEOUT_S):
        actor.signal(signal.SIGKILL)
        raise TimeoutError(
            f"it did not end within {TERMINATE_TIMEOUT_S:.0f} s of SIGTERM and was killed"
        )


def _freeze(actor: Actor, planned: Planned) -> None:
    actor.signal(signal.SIGSTOP)
    try:
        _hold(planned)
    finally:
        actor.signal(signal.SIGCONT)


def _fill_disk(actor: Actor, planned: Planned) -> None:
    actor.signal(signal.SIGUSR1)
    try:
        _hold(planned)
    finally:
        actor.signal(signal.SIGUSR2)


def _disturb_links(mode: Mode, *, all_brokers: bool = False) -> Callable[[Stage, Planned], str]:
    def act_on_target(stage: Stage, planned: Planned) -> str:
        party = _pick(planned, stage.parties)
        brokers = [broker.child.name for broker in stage.brokers.brokers]
        chosen = brokers if all_brokers else [brokers[int(planned.aside * len(brokers))]]
        return _disturb(stage, planned, [f"{party}>{broker}" for broker in chosen], mode)

    return act_on_target


def _disturb_store_link(mode: Mode) -> Callable[[Stage, Planned], str]:
    def act_on_target(stage: Stage, planned: Planned) -> str:
        return _disturb(stage, planned, [_pick(planned, stage.store.nodes).name], mode)

    return act_on_target


def _disturb_broker_link(mode: Mode) -> Callable[[Stage, Planned], str]:
    def act_on_target(stage: Stage, planned: Planned) -> str:
        _await_sync(stage)
        return _disturb(
            stage, planned, [f"brokers>{_pick(planned, stage.brokers.brokers).child.name}"], mode
        )

    return act_on_target


def _disturb(stage: Stage, planned: Planned, links: Sequence[str], mode: Mode) -> str:
    delay_s = SLOW_S[0] + planned.aside * (SLOW_S[1] - SLOW_S[0]) if mode == "slow" else 0.0
    for link in links:
        stage.proxies.set_mode(link, mode, delay_s)
    try:
        _hold(planned)
    finally:
        for link in links:
            stage.proxies.set_mode(link, "open")
    return ", ".join(links)


def _await_sync(stage: Stage) -> None:
    """Wait until every partition has all its replicas again.

    Kafka keeps all acknowledged records only if no broker is disturbed before that.
    """
    if not stage.brokers.wait_in_sync(stage.replicated_topics):
        raise TimeoutError("the replicas did not come into sync")


def _to_broker(
    act: Callable[[Stage, Broker, Planned], None], *, controller: bool = False
) -> Callable[[Stage, Planned], str]:
    def act_on_target(stage: Stage, planned: Planned) -> str:
        _await_sync(stage)
        broker = stage.brokers.controller() if controller else _pick(planned, stage.brokers.brokers)
        act(stage, broker, planned)
        return broker.child.name

    return act_on_target


def _kill_broker(stage: Stage, broker: Broker, planned: Planned) -> None:
    assert broker.child.pid is not None
    os.kill(broker.child.pid, signal.SIGKILL)
    broker.child.stop(5.0)
    _hold(planned)
    broker.child.spawn()
    stage.brokers.wait_ready(broker)


def _end_broker(stage: Stage, broker: Broker, planned: Planned) -> None:
    broker.child.stop(30.0)
    _hold(planned)
    broker.child.spawn()
    stage.brokers.wait_ready(broker)


def _freeze_broker(stage: Stage, broker: Broker, planned: Planned) -> None:
    assert broker.child.pid is not None
    os.kill(broker.child.pid, signal.SIGSTOP)
    try:
        _hold(planned)
    finally:
        os.kill(broker.child.pid, signal.SIGCONT)
    stage.brokers.wait_ready(broker)


def _restart_all_brokers(stage: Stage, planned: Planned) -> str:
    for broker in stage.brokers.brokers:
        _await_sync(stage)
        _end_broker(stage, broker, planned)
    return "all brokers"


def _move_leaders(stage: Stage, planned: Planned) -> str:
    _await_sync(stage)
    stage.brokers.move_leaders(stage.topics.partitioned, int(planned.aside * 3))
    return "all partitions"


def _to_store(act: Callable[[Stage, Pair, Planned], None]) -> Callable[[Stage, Planned], str]:
    def act_on_target(stage: Stage, planned: Planned) -> str:
        if not is_true_within(stage.store.is_healthy, HEALTHY_TIMEOUT_S, every_s=0.3):
            raise TimeoutError("the store did not recover from the fault before")
        pair = _pick(planned, stage.store.pairs())
        try:
            act(stage, pair, planned)
        finally:
            for node in stage.store.nodes:
                node.signal(signal.SIGCONT)
                if node.child.pid is None:
                    node.start()
        return pair.master.name

    return act_on_target


def _kill_store(stage: Stage, pair: Pair, planned: Planned) -> None:
    pair.master.kill()
    _hold(planned)


def _fail_over_losing_writes(stage: Stage, pair: Pair, planned: Planned) -> None:
    fail_over_losing_writes(stage.store, pair, planned.hold_s)


def _fail_store_over(stage: Stage, pair: Pair, planned: Planned) -> None:
    stage.store.fail_over(pair)


def _take_store_back(stage: Stage, pair: Pair, planned: Planned) -> None:
    """Take back both master and replica: a replica alone would be promoted with all the data."""
    copy = pair.master.copy_data()
    _hold(planned)
    if pair.replica is not None:
        pair.replica.kill()
    pair.master.kill()
    pair.master.take_back_to(copy)
    pair.master.start()


def _empty_store(stage: Stage, pair: Pair, planned: Planned) -> None:
    with suppress(redis.RedisError), pair.master.client() as client:
        client.flushall()


def _freeze_store(stage: Stage, pair: Pair, planned: Planned) -> None:
    pair.master.signal(signal.SIGSTOP)
    _hold(planned)


def _kill_replica(stage: Stage, pair: Pair, planned: Planned) -> None:
    if pair.replica is not None:
        pair.replica.kill()
    _hold(planned)


def _write_junk(topic_of: Callable[[Topics], str]) -> Callable[[Stage, Planned], str]:
    def act_on_target(stage: Stage, planned: Planned) -> str:
        topic, partition = topic_of(stage.topics), _pick(planned, range(PARTITIONS))
        written = intruder.write_junk(stage, topic, partition, random.Random(planned.aside))
        return f"{written} records in {topic}/{partition}"

    return act_on_target


def _store_in_other_codecs(stage: Stage, planned: Planned) -> str:
    before = intruder.codec_settings(stage)
    chosen = intruder.set_codecs(stage, int(planned.pick * len(intruder.CODECS)))
    try:
        _hold(planned)
    finally:
        intruder.reset_codecs(stage, before)
    return ", ".join(f"{topic} in {codec}" for topic, codec in chosen.items())


ACTS: dict[str, Callable[[Stage, Planned], str]] = {
    "processor killed": _to_actor("processor", _kill),
    "processor ended": _to_actor("processor", _end),
    "processor frozen": _to_actor("processor", _freeze),
    "limits consumer killed": _to_actor("limits", _kill),
    "limits consumer ended": _to_actor("limits", _end),
    "limits consumer frozen": _to_actor("limits", _freeze),
    "gateway killed": _to_actor("gateway", _kill),
    "gateway ended": _to_actor("gateway", _end),
    "gateway frozen": _to_actor("gateway", _freeze),
    "worker killed": _to_actor("worker", _kill),
    "worker ended": _to_actor("worker", _end),
    "worker frozen": _to_actor("worker", _freeze),
    "worker's disk full": _to_actor("worker", _fill_disk),
    "HTTP worker killed": _to_actor("http_worker", _kill),
    "billing killed": _to_actor("billing", _kill),
    "billing frozen": _to_actor("billing", _freeze),
    "stranger killed": _to_actor("stranger", _kill),
    "subscriber killed": _to_actor("listener", _kill),
    "subscriber ended": _to_actor("listener", _end),
    "subscriber frozen": _to_actor("listener", _freeze),
    "link to a broker cut": _disturb_links("cut"),
    "link to a broker half-open": _disturb_links("half_open"),
    "link to a broker slow": _disturb_links("slow"),
    "links to all brokers cut": _disturb_links("cut", all_brokers=True),
    "links to all brokers half-open": _disturb_links("half_open", all_brokers=True),
    "link to the store cut": _disturb_store_link("cut"),
    "link to the store half-open": _disturb_store_link("half_open"),
    "link to the store slow": _disturb_store_link("slow"),
    "junk in the ledger": _write_junk(lambda topics: topics.ledger),
    "junk in the limit topic": _write_junk(lambda topics: topics.limit),
    "batches in other codecs": _store_in_other_codecs,
    "store killed": _to_store(_kill_store),
    "store failed over, writes lost": _to_store(_fail_over_losing_writes),
    "store failed over in order": _to_store(_fail_store_over),
    "store fallen back to an older file": _to_store(_take_store_back),
    "store emptied": _to_store(_empty_store),
    "store frozen": _to_store(_freeze_store),
    "store's replica killed": _to_store(_kill_replica),
    "broker killed": _to_broker(_kill_broker),
    "broker ended": _to_broker(_end_broker),
    "broker frozen": _to_broker(_freeze_broker),
    "controller killed": _to_broker(_kill_broker, controller=True),
    "controller frozen": _to_broker(_freeze_broker, controller=True),
    "broker cut off from the others": _disturb_broker_link("cut"),
    "broker half-open to the others": _disturb_broker_link("half_open"),
    "rolling restart": _restart_all_brokers,
    "leaders moved": _move_leaders,
}
