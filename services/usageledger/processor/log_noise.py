"""Keeping libraries' logs to what an operator needs: warnings and worse, and the same complaint
once in a while.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

REPEAT_AFTER_S = 30.0


class OnceInAWhile(logging.Filter):
    """Lets a message through, and its like only after a while: without a broker aiokafka complains
    ten times a second.
    """

    def __init__(
        self, repeat_after_s: float = REPEAT_AFTER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._repeat_after_s = repeat_after_s
        self._clock = clock
        # By the message before its arguments are filled in, so there are only as many as the
        # library has.
        self._passed_at: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be seen."""
        kind, now = (record.name, str(record.msg)), self._clock()
        passed_at = self._passed_at.get(kind)
        if passed_at is not None and now - passed_at < self._repeat_after_s:
            return False
        self._passed_at[kind] = now
        return True


@contextmanager
def quiet(libraries: Sequence[str]) -> Iterator[None]:
    """Have these libraries' loggers be quiet, except where someone has asked a logger for more by
    setting its level.
    """
    once = OnceInAWhile()
    silenced = [
        logging.getLogger(name)
        for name in libraries
        if logging.getLogger(name).level == logging.NOTSET
    ]
    for logger in silenced:
        logger.setLevel(logging.WARNING)
    # A filter sees what is logged to its own logger, not to those below.
    filtered = [
        logging.getLogger(name)
        for name in list(logging.root.manager.loggerDict)
        if name.split(".")[0] in libraries
    ]
    for logger in filtered:
        logger.addFilter(once)
    try:
        yield
    finally:
        for logger in filtered:
            logger.removeFilter(once)
        for logger in silenced:
            logger.setLevel(logging.NOTSET)
