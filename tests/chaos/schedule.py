"""The schedule of faults, with their order and pauses. It follows from the seed alone.

Faults are in lanes that run at the same time. In the lanes of servers and topics, each fault ends
before the next begins. So at most one broker is down, and acknowledged records stay safe. In the
other lanes, faults overlap.
"""

from __future__ import annotations

import random
from typing import Literal, NamedTuple

Lane = Literal["services", "apps", "network", "topics", "redis", "kafka"]

MEAN_GAP_S = 1.6
"""The mean time between two faults, over all lanes."""


class Kind(NamedTuple):
    """One kind of fault: how often it is drawn within its lane, and how long it holds."""

    lane: Lane
    weight: int
    hold_s: tuple[float, float] = (0.0, 0.0)
    within_s: float = 15.0
    """How soon events must flow again when this fault is alone."""


KINDS: dict[str, Kind] = {
    "processor killed": Kind("services", 5),
    "processor ended": Kind("services", 4, within_s=5.0),
    "processor frozen": Kind("services", 3, (3.0, 22.0)),
    "limits consumer killed": Kind("services", 2),
    "limits consumer ended": Kind("services", 2, within_s=5.0),
    "limits consumer frozen": Kind("services", 2, (3.0, 22.0)),
    "gateway killed": Kind("services", 2),
    "gateway ended": Kind("services", 2, within_s=5.0),
    "gateway frozen": Kind("services", 2, (3.0, 22.0)),
    "worker killed": Kind("apps", 6),
    "worker ended": Kind("apps", 3),
    "worker frozen": Kind("apps", 2, (1.0, 20.0)),
    "worker's disk full": Kind("apps", 4, (1.0, 8.0)),
    "HTTP worker killed": Kind("apps", 3),
    "billing killed": Kind("apps", 3),
    "billing frozen": Kind("apps", 1, (1.0, 15.0)),
    "stranger killed": Kind("apps", 1),
    "subscriber killed": Kind("apps", 4),
    "subscriber ended": Kind("apps", 2),
    "subscriber frozen": Kind("apps", 2, (3.0, 20.0)),
    "link to a broker cut": Kind("network", 5, (0.2, 10.0)),
    "link to a broker half-open": Kind("network", 4, (1.0, 14.0)),
    "link to a broker slow": Kind("network", 2, (1.0, 10.0)),
    "links to all brokers cut": Kind("network", 2, (0.5, 12.0)),
    "links to all brokers half-open": Kind("network", 2, (1.0, 14.0)),
    "link to the store cut": Kind("network", 3, (0.2, 5.0)),
    "link to the store half-open": Kind("network", 3, (0.5, 6.0)),
    "link to the store slow": Kind("network", 2, (1.0, 6.0)),
    "junk in the ledger": Kind("topics", 2),
    "junk in the limit topic": Kind("topics", 1),
    "batches in other codecs": Kind("topics", 2, (3.0, 15.0)),
    "store killed": Kind("redis", 4, (0.0, 6.0)),
    "store failed over, writes lost": Kind("redis", 5, (0.5, 2.0)),
    "store failed over in order": Kind("redis", 2),
    "store fallen back to an older file": Kind("redis", 3, (0.5, 2.0)),
    "store emptied": Kind("redis", 2),
    "store frozen": Kind("redis", 2, (0.5, 7.0)),
    "store's replica killed": Kind("redis", 1, (0.0, 3.0)),
    "broker killed": Kind("kafka", 5, (0.0, 6.0)),
    "broker ended": Kind("kafka", 3, (0.0, 2.0)),
    "broker frozen": Kind("kafka", 3, (2.0, 14.0)),
    "controller killed": Kind("kafka", 3, (0.0, 4.0)),
    "controller frozen": Kind("kafka", 2, (2.0, 12.0)),
    "broker cut off from the others": Kind("kafka", 3, (1.0, 12.0)),
    "broker half-open to the others": Kind("kafka", 2, (1.0, 12.0)),
    "rolling restart": Kind("kafka", 1),
    "leaders moved": Kind("kafka", 3),
}

SHARES: dict[Lane, float] = {
    "services": 0.25,
    "apps": 0.30,
    "network": 0.25,
    "topics": 0.06,
    "redis": 0.08,
    "kafka": 0.06,
}
EXCLUSIVE: frozenset[Lane] = frozenset({"topics", "redis", "kafka"})


class Planned(NamedTuple):
    """One fault of the schedule.

    ``pick`` in [0, 1) selects one of the possible targets. ``aside`` is for any other choice.
    """

    number: int
    kind: str
    after_s: float
    hold_s: float
    pick: float
    aside: float

    @property
    def lane(self) -> Lane:
        return KINDS[self.kind].lane


def schedule(seed: int, faults: int) -> dict[Lane, list[Planned]]:
    """The faults of each lane, in order. The same arguments give the same faults.

    ``after_s`` counts from the fault before it in its lane.
    """
    rng = random.Random(f"faults/{seed}")
    counts = _counts_by_lane(faults)
    lanes: dict[Lane, list[Planned]] = {}
    number = 0
    for lane, count in counts.items():
        gap_s = MEAN_GAP_S * faults / count if count else 0.0
        lanes[lane] = []
        for name in _kinds_in_turn(rng, lane, count):
            number += 1
            # In the exclusive lanes each fault takes long enough by itself.
            after_s = rng.uniform(0.5, 3.0) if lane in EXCLUSIVE else rng.expovariate(1 / gap_s)
            lanes[lane].append(_new_fault(rng, number, name, after_s))
    return lanes


def one_of_each(seed: int) -> list[Planned]:
    """Each kind once, to be injected alone, to measure how soon events flow again."""
    rng = random.Random(f"alone/{seed}")
    names = list(KINDS)
    rng.shuffle(names)
    return [_new_fault(rng, number + 1, name, 0.0) for number, name in enumerate(names)]


def _new_fault(rng: random.Random, number: int, name: str, after_s: float) -> Planned:
    return Planned(
        number, name, after_s, rng.uniform(*KINDS[name].hold_s), rng.random(), rng.random()
    )


def _counts_by_lane(faults: int) -> dict[Lane, int]:
    counts: dict[Lane, int] = {lane: int(faults * share) for lane, share in SHARES.items()}
    # Every lane has a fault in a short run too.
    for lane in ("kafka", "redis", "topics", "network", "services"):
        if sum(counts.values()) < faults and not counts[lane]:
            counts[lane] = 1
    counts["apps"] += faults - sum(counts.values())
    return counts


def _kinds_in_turn(rng: random.Random, lane: Lane, count: int) -> list[str]:
    """Kinds in shuffled rounds, not independent draws.

    So each occurs about as often as its weight says, in a short run too.
    """
    names: list[str] = []
    while len(names) < count:
        round_ = [
            name for name, kind in KINDS.items() if kind.lane == lane for _ in range(kind.weight)
        ]
        rng.shuffle(round_)
        names += round_
    return names[:count]
