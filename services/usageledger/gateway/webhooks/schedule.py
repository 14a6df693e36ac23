"""The state of a delivery after an attempt: delivered, tried again later, or dead.

Pure: the time and a random number are arguments.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, NamedTuple

from usageledger.runtime.backoff import Backoff

State = Literal["pending", "delivered", "dead"]

JITTER = 0.2
"""Each wait is up to this share shorter or longer, so that retries spread out."""

RETRY = Backoff(
    (5, 30, 120, 600, 3_600, 10_800, 36_000, 50_400, 72_000, 86_400), (1 - JITTER, 1 + JITTER)
)
"""About three days in all, as the Standard Webhooks specification suggests; then it is dead."""

WAIT_MAX_S = 86_400
FAILING_AFTER = timedelta(days=1)
"""How long every attempt has to fail until an endpoint is called failing."""

GONE = 410


AT_ONCE = 8
"""How many attempts at one endpoint may run at a time."""
_FAILURES_UNPACED = 3
_PAUSE_S = 0.25


class Attempt(NamedTuple):
    """The result of one attempt: the status of the answer, or the error that prevented one.

    ``retry_after_s`` is the Retry-After of the answer, in seconds.
    """

    status: int | None
    error: str = ""
    retry_after_s: int | None = None

    @property
    def is_success(self) -> bool:
        """Whether the status is 200 to 299.

        A redirect is a failure: the owner of an endpoint that has moved changes its URL here.
        """
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_gone(self) -> bool:
        """Whether the receiver wants no more deliveries."""
        return self.status == GONE


class Pace(NamedTuple):
    """How many attempts run at a time, and the pause after each."""

    at_once: int
    pause_s: float


class Outcome(NamedTuple):
    """The delivery's state after an attempt, and when it is tried again."""

    state: State
    next_attempt_ms: int | None


def pace_after(failures_in_row: int) -> Pace:
    """The pace of an endpoint whose last attempts have failed.

    An endpoint that is down costs little, however many deliveries wait for it.
    """
    return Pace(AT_ONCE, 0.0) if failures_in_row < _FAILURES_UNPACED else Pace(1, _PAUSE_S)


def after_attempt(
    attempt: Attempt, tries: int, now_ms: int, chance: float, *, is_test: bool = False
) -> Outcome:
    """The state of a delivery after its ``tries``-th attempt.

    ``chance`` is a random number in [0, 1). A test is not tried again.
    """
    if attempt.is_success:
        return Outcome("delivered", None)
    if attempt.is_gone or is_test or tries > len(RETRY.delays_s):
        return Outcome("dead", None)
    wait_s = RETRY.delay_s(tries, chance)
    if attempt.retry_after_s is not None:
        wait_s = max(wait_s, min(attempt.retry_after_s, WAIT_MAX_S))
    return Outcome("pending", now_ms + int(wait_s * 1_000))
