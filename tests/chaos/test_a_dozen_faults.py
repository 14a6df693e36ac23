"""The short form: a dozen faults on real servers, drawn by this run's seed.

``make chaos`` is the long form.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.run import Options, run, store_of, verdict
from tests.chaos.schedule import KINDS, one_of_each, schedule

FAULTS = 12


def test_the_seed_decides_the_faults() -> None:
    assert schedule(7, 300) == schedule(7, 300)
    assert schedule(7, 300) != schedule(8, 300)
    assert sum(len(lane) for lane in schedule(7, 300).values()) == 300
    assert {planned.kind for planned in one_of_each(7)} == set(KINDS)


# Brokers, a store with replicas and fifteen processes on two cores: two minutes, more on a busy
# machine.
@pytest.mark.timeout(900)
def test_nothing_is_lost_or_counted_twice_under_a_dozen_faults(
    rng: random.Random, tmp_path: Path
) -> None:
    seed = rng.randrange(2**31)
    outcome = run(Options(faults=FAULTS, seed=seed, store=store_of(seed), directory=tmp_path))
    assert outcome.is_proved, verdict(outcome)
    assert sum(not fault.problem for fault in outcome.suffered) > 0
