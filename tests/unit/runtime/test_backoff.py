from __future__ import annotations

import pytest

from usageledger.runtime.backoff import Backoff


@pytest.mark.parametrize(
    ("failures", "delay_s"), [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (6, 1.0), (99, 1.0)]
)
def test_delays_double_up_to_their_bound(failures: int, delay_s: float) -> None:
    assert Backoff.doubling(0.1, 1.0).delay_s(failures) == delay_s


def test_the_last_delay_repeats() -> None:
    assert [Backoff((5, 30)).delay_s(failures) for failures in (1, 2, 3)] == [5, 30, 30]


def test_chance_places_a_delay_within_the_spread() -> None:
    backoff = Backoff((10.0,), spread=(0.5, 1.5))
    assert [backoff.delay_s(1, chance) for chance in (0.0, 0.5, 1.0)] == [5.0, 10.0, 15.0]


def test_without_a_spread_chance_changes_nothing() -> None:
    assert Backoff((10.0,)).delay_s(1, 0.0) == Backoff((10.0,)).delay_s(1, 0.999) == 10.0
