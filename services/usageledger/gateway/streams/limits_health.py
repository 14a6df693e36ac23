"""Whether the limit events in ``gateway.db`` are known to be up to date."""

from __future__ import annotations

import asyncio
import math

SILENT_MAX_S = 10.0
"""After so long without an answer from Kafka, it is no longer known which accounts are blocked."""

_CATCHING_UP = "limit events that are there already are still being read"


class LimitsHealth:
    """The state of the follower, which alone calls the ``note_`` methods."""

    def __init__(self) -> None:
        self._trouble: str | None = "limit events have not been read yet"
        self._is_live = False
        """Whether the events that are announced are new, and not a past that is still read."""
        self._heard_at_s = -math.inf

    def trouble(self) -> str | None:
        """Why it is not known which accounts are blocked, None if it is."""
        if self._trouble is None and self.is_silent():
            return f"Kafka has not said for {SILENT_MAX_S:.0f} s whether there are limit events"
        return self._trouble

    def stream_trouble(self) -> str | None:
        """Why no client may listen to limit events, None if clients may."""
        return None if self._is_live else self._trouble

    def is_silent(self) -> bool:
        """Whether Kafka has not answered for SILENT_MAX_S."""
        return now_s() - self._heard_at_s > SILENT_MAX_S

    def note_answer(self) -> None:
        """Kafka has answered just now."""
        self._heard_at_s = now_s()

    def note_caught_up(self) -> None:
        """Everything that was in the topic at the last connection has been read."""
        self._trouble, self._is_live = None, True

    def note_catching_up(self) -> None:
        """There are records that have not been read."""
        self._trouble = _CATCHING_UP

    def note_failure(self, why: str) -> None:
        """The topic cannot be read at the moment."""
        self._trouble = why

    def note_stopped(self, why: str) -> None:
        """Nothing more will be read."""
        self._trouble, self._is_live = why, False


def now_s() -> float:
    """The event loop's time in seconds."""
    return asyncio.get_running_loop().time()
