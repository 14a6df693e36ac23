"""Which requests count against a rate limit, and until when."""

from __future__ import annotations

import threading

import pytest

from usageledger.gateway.access import rate_limits
from usageledger.gateway.access.app_keys import Caller
from usageledger.gateway.access.rate_limits import RateLimits, WindowCounts
from usageledger.gateway.problems import Problem


class Clock:
    now_s = 1_800_000_000.5

    def time(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rate_limits, "time", clock)
    return clock


def test_counts_end_with_their_window_and_are_dropped(clock: Clock) -> None:
    counts = WindowCounts()
    assert [counts.incr("a", 2), counts.incr("a", 2, 3), counts.incr("b", 1)] == [1, 4, 1]
    assert (counts.get("a"), counts.get("c")) == (4, 0)
    assert counts.get_expiry("a") == clock.now_s + 2
    clock.now_s += 1
    assert (counts.get("a"), counts.get("b")) == (4, 0)
    assert counts.incr("a", 2) == 5
    clock.now_s += 1
    assert (counts.get("a"), counts.incr("a", 2)) == (0, 1)
    assert counts.reset() == 1, "a window that has ended is dropped"
    counts.incr("a", 2)
    counts.clear("a")
    assert counts.get("a") == 0


def test_counting_starts_no_thread() -> None:
    """Each answer of the gateway waited for a new thread, a hundred times a second."""
    limits = RateLimits()
    before = threading.active_count()
    for _ in range(50):
        limits.count(Caller("key", frozenset({"check"})))
    assert threading.active_count() == before


def test_a_key_that_asks_too_often_waits_and_others_do_not() -> None:
    limits = RateLimits(per_key=5)
    busy, idle = Caller("busy", frozenset({"check"})), Caller("idle", frozenset({"check"}))

    def ask_often() -> None:
        for _ in range(12):  # a window may end between two of them
            limits.count(busy)

    with pytest.raises(Problem) as refused:
        ask_often()
    assert refused.value.code == "rate_limited"
    assert refused.value.headers == {"Retry-After": "1"}
    limits.count(idle)
