"""Runs many seeds over all cores: ``python -m tests.simulation --seeds 100 --steps 10000``, or
``--seed N`` for one of them again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.simulation.simulation import Outcome, simulate


def main() -> int:
    """Print each failing seed with the command that repeats it, and at the end a summary of all."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument(
        "--steps",
        type=int,
        default=10_000,
        help="each runs at least this many steps, and then until everything has settled",
    )
    parser.add_argument("--seed", type=int, default=None, help="run this seed alone")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    given = parser.parse_args()
    seeds = (
        range(given.first, given.first + given.seeds)
        if given.seed is None
        else range(given.seed, given.seed + 1)
    )
    began = time.monotonic()
    outcomes = []
    for outcome in outcomes_of(seeds, given.steps, given.cores):
        outcomes.append(outcome)
        if outcome.failure is not None:
            print(f"seed {outcome.seed}, step {outcome.steps}: {outcome.failure}")
            print(f"  again: make simulate SEED={outcome.seed} STEPS={given.steps}", flush=True)
    failed = sum(outcome.failure is not None for outcome in outcomes)
    print(summary(outcomes))
    print(f"{len(outcomes)} seeds in {time.monotonic() - began:.0f} s, {failed or 'none'} failed")
    if given.seed is not None:
        print(f"digest {outcomes[0].digest}")
    return 1 if failed else 0


def outcomes_of(seeds: Iterable[int], steps: int, cores: int | None) -> Iterator[Outcome]:
    """Each seed's outcome, in order. A process simulates one seed at a time."""
    with ProcessPoolExecutor(cores) as pool:
        yield from pool.map(partial(simulate, steps=steps), seeds)


def summary(outcomes: Iterable[Outcome]) -> str:
    """The steps, inputs, entries and faults of all seeds, by kind."""
    faults: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    steps = inputs = 0
    for outcome in outcomes:
        steps += outcome.steps
        inputs += outcome.inputs
        faults += outcome.faults
        kinds += outcome.kinds
    lines = [f"{steps:,} steps, {inputs:,} inputs decided, {kinds.total():,} entries"]
    lines += ["entries by kind:", *_count_lines(kinds), "faults by kind:", *_count_lines(faults)]
    return "\n".join(lines)


def _count_lines(counts: Counter[str]) -> list[str]:
    return [f"  {count:>9,}  {name}" for name, count in sorted(counts.items())]


if __name__ == "__main__":
    sys.exit(main())
