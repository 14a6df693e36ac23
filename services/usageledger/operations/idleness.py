"""Waiting until the processor and the limits consumer have nothing left to do."""

from __future__ import annotations

import time
from collections.abc import Callable

from usageledger.operations.lags import LedgerLags, LookAtLags

POLL_S = 0.2
CONFIRM_AFTER_S = 0.3
STALLED_AFTER_S = 120.0


def wait_until_idle(
    look: LookAtLags,
    timeout_s: float | None,
    on_look: Callable[[LedgerLags], None] | None = None,
    *,
    stalled_after_s: float = STALLED_AFTER_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> LedgerLags:
    """Wait until two looks in a row find nothing waiting and the same end offsets.

    Returns the last look. If that is not idle, either ``timeout_s`` have passed (None: no such
    bound) or no lag has changed for ``stalled_after_s``. ``on_look`` gets every look.
    """
    began_s = moved_s = clock()
    before: LedgerLags | None = None
    while True:
        lags = look()
        if on_look is not None:
            on_look(lags)
        if lags.is_idle and before is not None and before.is_idle and before.ends == lags.ends:
            return lags
        if before is None or before.lags != lags.lags:
            moved_s = clock()
        is_late = timeout_s is not None and clock() - began_s >= timeout_s
        if not lags.is_idle and (is_late or clock() - moved_s >= stalled_after_s):
            return lags
        before = lags
        sleep(CONFIRM_AFTER_S if lags.is_idle else POLL_S)
