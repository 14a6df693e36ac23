"""The simulation finds what is taken out of the code, and names the invariant that breaks by it."""

from __future__ import annotations

import pytest

from tests.simulation.breakages import BREAKAGES
from tests.simulation.simulation import simulate

STEPS = 6_000
SEEDS_MAX = 30


@pytest.mark.parametrize("name", BREAKAGES)
def test_what_breaks_the_code_breaks_an_invariant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first seed is one that is known to come to where it matters; any other change of the code may move that to one of the next."""
    breakage = BREAKAGES[name]
    breakage.apply(monkeypatch)
    for seed in range(breakage.first_seed, breakage.first_seed + SEEDS_MAX):
        outcome = simulate(seed, STEPS)
        if outcome.failure is not None:
            print(f"seed {seed}, step {outcome.steps}: {outcome.failure}")
            assert outcome.invariant in breakage.breaks
            return
    pytest.fail(f"{SEEDS_MAX} seeds did not find it")
