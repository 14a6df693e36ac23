"""The SDK through an outage of a real broker; `python -m tests.chaos.sdk_outage` is the same for
ten minutes.
"""

from __future__ import annotations

import random
from pathlib import Path

from tests.chaos.sdk_outage import outage, report


def test_an_outage_with_killed_workers_loses_nothing_and_repeats_no_charge(
    tmp_path: Path, rng: random.Random
) -> None:
    """The broker is away for 20 s, and a worker is killed every 4 s meanwhile."""
    outcome = outage(
        tmp_path, outage_s=20.0, rate=200.0, kill_every_s=4.0, seed=rng.randrange(2**32)
    )
    assert outcome.recorded > 1_000, report(outcome)
    assert not outcome.faults(), report(outcome)
