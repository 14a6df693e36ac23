"""A log on stderr in which identical lines are counted, and not repeated."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

REPEATED_WITHIN_S = 10.0
LINES_MAX = 256
"""How many different lines are remembered at once. Further ones are written as they come."""


@dataclass(slots=True)
class _Line:
    """A line that was written, and how often it came again."""

    record: logging.LogRecord
    written_s: float
    repeats: int = 0


class CountedRepeats(logging.StreamHandler[TextIO]):
    """Writes a line, and then for ten seconds only counts identical ones.

    Afterwards it writes how many there were. A fault that occurs a thousand times a second
    therefore adds two lines in ten seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._lines: dict[tuple[str, int, str], _Line] = {}
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write or count a record. `handle` holds the lock."""
        now_s = self._clock()
        self._write_counts(now_s - REPEATED_WITHIN_S)
        try:
            line = (record.name, record.levelno, _text_of(record))
        except Exception:  # noqa: BLE001 - its arguments do not fit, which `emit` reports
            return super().emit(record)
        if (known := self._lines.get(line)) is not None:
            known.repeats += 1
            self._begin_timer()
            return
        if len(self._lines) < LINES_MAX:
            self._lines[line] = _Line(record, now_s)
        super().emit(record)

    def close(self) -> None:
        """Write the counts that are left."""
        self.acquire()
        try:
            self._write_counts(self._clock())
            if self._timer is not None:
                self._timer.cancel()
        finally:
            self.release()
        super().close()

    def _write_counts(self, until_s: float) -> None:
        """Write the counts of the lines that were written up to then, and forget these lines."""
        while self._lines:
            line, known = next(iter(self._lines.items()))
            if known.written_s > until_s:
                # The rest was written later.
                return
            del self._lines[line]
            if known.repeats:
                super().emit(_count_of(known))

    def _begin_timer(self) -> None:
        """See to it that a count is written even if no other record comes."""
        if self._timer is None:
            self._timer = threading.Timer(REPEATED_WITHIN_S, self._on_timer)
            self._timer.daemon = True
            self._timer.start()

    def _on_timer(self) -> None:
        self.acquire()
        try:
            self._timer = None
            self._write_counts(self._clock() - REPEATED_WITHIN_S)
            if any(known.repeats for known in self._lines.values()):
                self._begin_timer()
        finally:
            self.release()


def _text_of(record: logging.LogRecord) -> str:
    error = record.exc_info[1] if record.exc_info else None
    return record.getMessage() if error is None else f"{record.getMessage()} {error!r}"


def _count_of(known: _Line) -> logging.LogRecord:
    record = known.record
    times = "once more" if known.repeats == 1 else f"{known.repeats:,} times more"
    return logging.LogRecord(
        record.name,
        record.levelno,
        record.pathname,
        record.lineno,
        f"{record.getMessage()} [{times}]",
        None,
        None,
    )
