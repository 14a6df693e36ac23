"""Measures look-up and commit of a chunk, as a ratio to a pipelined HSET of the same bytes.

    python -m tests.benchmarks.view_commit [--rounds 20]

A chunk is 5,000 new events of 500 accounts: 500 account states of 300 bytes and 5,000 identities of
16 + 80 bytes. The baseline writes the same fields with the same client, one HSET a field in a
pipeline. It looks nothing up, compares no head and is not atomic. The rounds alternate, so other
work on the machine affects both. Absolute times drift by a factor of two on a shared machine: trust
the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import redis

from tests.valkey_server import ValkeyServer, running_valkey
from usageledger.counters.connection import AsyncClient, connect
from usageledger.counters.redis_view import RedisView
from usageledger.counters.view import Position, ViewChange

EVENTS, ACCOUNTS = 5_000, 500
STATE_BYTES, REMEMBERED_BYTES = 300, 80


@dataclass(slots=True)
class Costs:
    """Microseconds per event, one figure for each round.

    They are the caller's waiting time, its own processor time, and the server's processor time.
    """

    waited: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    servers: list[float] = field(default_factory=list)

    def medians(self) -> tuple[float, float, float]:
        return median(self.waited), median(self.ours), median(self.servers)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description="cost of look-up and commit in a view, per event"
    )
    arguments.add_argument("--rounds", type=int, default=20)
    rounds = arguments.parse_args().rounds
    with tempfile.TemporaryDirectory() as directory, running_valkey(Path(directory)) as server:
        costs = asyncio.run(measure(server, rounds))
    report(costs, rounds)


async def measure(server: ValkeyServer, rounds: int) -> dict[str, Costs]:
    costs = {"plain HSET": Costs(), "fetch": Costs(), "commit": Costs(), "fetch + commit": Costs()}
    async with connect(server.url) as client, connect(server.url) as plain:
        view = RedisView(client, "bench", 0)
        at: Position | None = None
        for n in range(-2, rounds):
            change = chunk(n + 2)
            counted = costs if n >= 0 else {name: Costs() for name in costs}
            identities = [
                (window, identity)
                for window, found in change.identities.items()
                for identity in found
            ]
            with server.client() as observer:
                await timed(counted["plain HSET"], observer, write_plainly(plain, change))
                await timed(
                    counted["fetch"], observer, view.fetch(at, list(change.accounts), identities)
                )
                await timed(counted["commit"], observer, view.commit(at, change))
            at = change.position
            for name in ("waited", "ours", "servers"):
                both = getattr(counted["fetch"], name)[-1] + getattr(counted["commit"], name)[-1]
                getattr(counted["fetch + commit"], name).append(both)
    return costs


async def write_plainly(client: AsyncClient, change: ViewChange) -> None:
    pipeline = client.pipeline(transaction=False)
    for account, state in change.accounts.items():
        pipeline.hset("plain:accounts", account, state)
    for window, found in change.identities.items():
        for identity, remembered in found.items():
            pipeline.hset(f"plain:identities:{window}", identity, remembered)
    await pipeline.execute()


async def timed(costs: Costs, observer: redis.Redis, work: Awaitable[object]) -> None:
    servers, ours, waited = server_cpu_s(observer), time.process_time(), time.perf_counter()
    await work
    waited, ours = time.perf_counter() - waited, time.process_time() - ours
    for into, seconds in (
        (costs.waited, waited),
        (costs.ours, ours),
        (costs.servers, server_cpu_s(observer) - servers),
    ):
        into.append(seconds * 1e6 / EVENTS)


def server_cpu_s(observer: redis.Redis) -> float:
    cpu = observer.info("cpu")
    return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])


def chunk(n: int) -> ViewChange:
    return ViewChange(
        head=os.urandom(200),
        position=Position(n, "ab" * 32),
        accounts={f"acct_{m:06d}": os.urandom(STATE_BYTES) for m in range(ACCOUNTS)},
        identities={566: {os.urandom(16): os.urandom(REMEMBERED_BYTES) for _ in range(EVENTS)}},
        due_ms={f"acct_{m:06d}": 1_800_000_000_000 + n for m in range(0, ACCOUNTS, 10)},
    )


def report(costs: dict[str, Costs], rounds: int) -> None:
    parser = "hiredis" if importlib.util.find_spec("hiredis") else "pure Python"
    print(
        f"{EVENTS:,} events of {ACCOUNTS} accounts a chunk, {rounds} rounds; redis-py "
        f"{redis.__version__}, {parser}; {os.cpu_count()} cores"
    )
    print(f"{'µs an event (median)':<22}{'waited':>10}{'our CPU':>10}{'its CPU':>10}")
    for name, cost in costs.items():
        print(f"{name:<22}" + "".join(f"{figure:>10.2f}" for figure in cost.medians()))
    base = costs["plain HSET"].medians()
    ratios = [
        ours / theirs for ours, theirs in zip(costs["fetch + commit"].medians(), base, strict=True)
    ]
    print(f"{'fetch + commit / plain':<22}" + "".join(f"{ratio:>10.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
