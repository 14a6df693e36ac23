"""What becomes of a delivery after an attempt: delivered, tried again later, or dead.

Pure: time and chance are arguments.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, NamedTuple

from usageledger.runtime.backoff import Backoff

State = Literal["pending", "delivered", "dead"]

JITTER = 0.2
"""Each wait is up to this share shorter or longer, so that what failed together does not come back
together.
"""

RETRY = Backoff(
    (5, 30, 120, 600, 3_600, 10_800, 36_000, 50_400, 72_000, 86_400), (1 - JITTER, 1 + JITTER)
)
"""About three days in all, as the Standard Webhooks specification suggests; then it is dead."""

WAIT_MAX_S = 86_400
FAILING_AFTER = timedelta(days=1)
"""An endpoint is called failing when every attempt has failed for so long."""

GONE = 410


AT_ONCE = 8
"""So many attempts of an endpoint are under way at a time."""
_FAILURES_UNPACED = 3
_PAUSE_S = 0.25


class Attempt(NamedTuple):
    """What came of one attempt: the status of the answer, or what stood in the way of one.

    ``retry_after_s``: the answer's own wish.
    """

    status: int | None
    error: str = ""
    retry_after_s: int | None = None

    @property
    def is_success(self) -> bool:
        """Any status of 200 to 299.

        A redirection is none: where an endpoint has moved to, its owner says here.
        """
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_gone(self) -> bool:
        """The receiver wants nothing more."""
        return self.status == GONE


class Pace(NamedTuple):
    """How an endpoint is asked: so many attempts at a time, and a pause after each."""

    at_once: int
    pause_s: float


class Outcome(NamedTuple):
    """The delivery's state after an attempt, and when it is tried again."""

    state: State
    next_attempt_ms: int | None


def pace_after(failures_in_row: int) -> Pace:
    """How an endpoint is asked whose last attempts have failed: one that is down costs little,
    however much waits for it.
    """
    return Pace(AT_ONCE, 0.0) if failures_in_row < _FAILURES_UNPACED else Pace(1, _PAUSE_S)


def after_attempt(
    attempt: Attempt, tries: int, now_ms: int, chance: float, *, is_test: bool = False
) -> Outcome:
    """What becomes of a delivery after its ``tries``-th attempt.

    ``chance`` lies in [0, 1). A test is not tried again.
    """
    if attempt.is_success:
        return Outcome("delivered", None)
    if attempt.is_gone or is_test or tries > len(RETRY.delays_s):
        return Outcome("dead", None)
    wait_s = RETRY.delay_s(tries, chance)
    if attempt.retry_after_s is not None:
        wait_s = max(wait_s, min(attempt.retry_after_s, WAIT_MAX_S))
    return Outcome("pending", now_ms + int(wait_s * 1_000))
