"""Keeping libraries' logs to what an operator needs: warnings and worse, each kind once a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

REPEAT_AFTER_S = 30.0


class RepeatFilter(logging.Filter):
    """Lets a kind of message pass at most once in ``repeat_after_s``.

    Without a broker aiokafka complains ten times a second.
    """

    def __init__(
        self, repeat_after_s: float = REPEAT_AFTER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._repeat_after_s = repeat_after_s
        self._clock = clock
        # The key is the message before its arguments are filled in, so a library has few of them.
        self._passed_at: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged; remembers when its kind last was."""
        kind, now = (record.name, str(record.msg)), self._clock()
        passed_at = self._passed_at.get(kind)
        if passed_at is not None and now - passed_at < self._repeat_after_s:
            return False
        self._passed_at[kind] = now
        return True


@contextmanager
def library_noise_reduced(libraries: Sequence[str]) -> Iterator[None]:
    """Reduce what these libraries log, except by loggers whose level somebody has set."""
    repeats = RepeatFilter()
    silenced = [
        logging.getLogger(name)
        for name in libraries
        if logging.getLogger(name).level == logging.NOTSET
    ]
    for logger in silenced:
        logger.setLevel(logging.WARNING)
    # A filter sees only what is logged to its own logger, not to the loggers below it.
    filtered = [
        logging.getLogger(name)
        for name in list(logging.root.manager.loggerDict)
        if name.split(".")[0] in libraries
    ]
    for logger in filtered:
        logger.addFilter(repeats)
    try:
        yield
    finally:
        for logger in filtered:
            logger.removeFilter(repeats)
        for logger in silenced:
            logger.setLevel(logging.NOTSET)
