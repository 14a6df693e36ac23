"""Libraries' logs, kept to what an operator needs."""

from __future__ import annotations

import logging

import pytest

from usageledger.processor.log_noise import RepeatFilter, library_noise_reduced


def complaint(number: int, *, logger: str = "library.connection") -> logging.LogRecord:
    return logging.LogRecord(
        logger, logging.ERROR, __file__, 1, "no connection, try %d", (number,), None
    )


def test_the_same_complaint_is_seen_again_only_after_a_while() -> None:
    now_s = 0.0
    repeats = RepeatFilter(repeat_after_s=30, clock=lambda: now_s)
    assert repeats.filter(complaint(1))
    now_s = 29.9
    assert not repeats.filter(complaint(2))
    assert repeats.filter(complaint(2, logger="library.other"))
    now_s = 30.0
    assert repeats.filter(complaint(3))


def test_a_library_is_quiet_for_the_time_being_and_as_before_afterwards(
    caplog: pytest.LogCaptureFixture,
) -> None:
    child = logging.getLogger("a_noisy_library.connection")
    with library_noise_reduced(["a_noisy_library"]):
        child.info("starting")
        child.warning("slow, %d", 1)
        child.warning("slow, %d", 2)
    assert [record.getMessage() for record in caplog.records] == ["slow, 1"]
    child.warning("slow, %d", 3)
    assert caplog.messages[-1] == "slow, 3"


def test_a_logger_set_to_a_lower_level_logs_more(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("an_interesting_library")
    logger.setLevel(logging.DEBUG)
    with library_noise_reduced(["an_interesting_library"]):
        logger.debug("detail")
    assert caplog.messages == ["detail"]
