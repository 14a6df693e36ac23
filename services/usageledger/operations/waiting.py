"""Waiting with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

from usageledger.operations.errors import StopRequested


def is_true_within(
    check: Callable[[], bool],
    timeout_s: float,
    *,
    every_s: float = 0.1,
    stopping: Event | None = None,
) -> bool:
    """Whether ``check`` returns True within ``timeout_s``; it is asked every ``every_s``.

    Raises StopRequested as soon as ``stopping`` is set.
    """
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() >= deadline:
            return False
        if stopping is None:
            time.sleep(every_s)
        elif stopping.wait(every_s):
            raise StopRequested
    return True
