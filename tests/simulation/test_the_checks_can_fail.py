"""The simulation notices when a rule is removed from the code, and names the broken invariant."""

from __future__ import annotations

import pytest

from tests.simulation.breakages import BREAKAGES
from tests.simulation.simulation import simulate

STEPS = 6_000
SEEDS_MAX = 60


@pytest.mark.parametrize("name", BREAKAGES)
def test_each_breakage_of_the_code_breaks_an_invariant(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first seed once reached the place where the breakage matters.

    After any change of the code, another seed may be needed.
    """
    breakage = BREAKAGES[name]
    breakage.apply(monkeypatch)
    for seed in (breakage.first_seed, *range(1, SEEDS_MAX)):
        outcome = simulate(seed, STEPS)
        if outcome.failure is not None:
            print(f"seed {seed}, step {outcome.steps}: {outcome.failure}")
            assert outcome.invariant in breakage.breaks
            return
    pytest.fail(f"{SEEDS_MAX} seeds did not find it")
