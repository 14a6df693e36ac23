"""Identical lines of a log are counted, and others are written as they come."""

from __future__ import annotations

import io
import logging

import pytest

from usageledger.runtime.log_lines import LINES_MAX, REPEATED_WITHIN_S, CountedRepeats


class Log:
    """A logger, its lines so far, and its clock."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._stream = io.StringIO()
        self.handler = CountedRepeats(self._stream, clock=lambda: self.now_s)
        self.logger = logging.getLogger("usageledger.test_log_lines")
        self.logger.propagate = False
        self.logger.handlers = [self.handler]

    @property
    def lines(self) -> list[str]:
        return self._stream.getvalue().splitlines()


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_line_that_is_repeated_is_written_once_and_then_its_count(log: Log) -> None:
    for _ in range(5_000):
        log.logger.error("no files left")
    log.logger.error("something else")
    assert log.lines == ["no files left", "something else"]
    log.now_s += REPEATED_WITHIN_S
    log.logger.error("later")
    assert log.lines[2:] == ["no files left [4,999 times more]", "later"]


def test_a_line_that_comes_again_later_is_written_again(log: Log) -> None:
    for _ in range(3):
        log.logger.error("no files left")
        log.now_s += REPEATED_WITHIN_S
    assert log.lines == ["no files left"] * 3


def test_counts_are_written_at_the_end(log: Log) -> None:
    log.logger.error("a")
    log.logger.error("a")
    log.handler.close()
    assert log.lines == ["a", "a [once more]"]


def test_lines_that_differ_in_their_arguments_or_level_are_not_the_same(log: Log) -> None:
    log.logger.error("partition %d", 1)
    log.logger.error("partition %d", 2)
    log.logger.warning("partition %d", 2)
    assert log.lines == ["partition 1", "partition 2", "partition 2"]


def test_a_traceback_is_written_once(log: Log) -> None:
    for _ in range(3):
        try:
            raise OSError("too many open files")
        except OSError:
            log.logger.exception("failed")
    assert sum("Traceback" in line for line in log.lines) == 1


def test_many_different_lines_are_all_written(log: Log) -> None:
    for number in range(LINES_MAX + 50):
        log.logger.error("line %d", number)
    assert len(log.lines) == LINES_MAX + 50
