"""Each way in which Redis fails has one cause, and a sentence that says what to do."""

from __future__ import annotations

import pytest
from redis import exceptions
from redis._parsers.base import BaseParser

from usageledger.counters.replies import view_error
from usageledger.counters.troubles import REFUSING_WRITES, full_sentence


def error_of(answer: str) -> Exception:
    """The error that redis-py raises for a server's answer."""
    # redis-py has no types here.
    found: Exception = BaseParser.parse_error(answer)  # type: ignore[no-untyped-call]
    return found


# The answers are those of Valkey 9, without their first character.
ANSWERS = {
    "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'": (
        "full"
    ),
    "OOM command not allowed when used memory > 'maxmemory'.": "full",
    "READONLY You can't write against a read only replica.": "read_only",
    "READONLY Can not run script with write flag on readonly replica.": "read_only",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": "read_only",
    "MISCONF Errors writing to the AOF file: No space left on device": "cannot_persist",
    "NOREPLICAS Not enough good replicas to write.": "too_few_replicas",
    "LOADING Valkey is loading the dataset in memory": "loading",
    "BUSY Valkey is busy running a script. You can only call SCRIPT KILL": "busy",
    "CLUSTERDOWN Hash slot not served": "cluster_down",
    "TRYAGAIN Multiple keys request during rehashing of slot": "slots_move",
    "ERR max number of clients reached": "too_many_clients",
}
WRONG_SETTINGS = {
    "NOAUTH Authentication required.": "wrong_password",
    "WRONGPASS invalid username-password pair or user is disabled.": "wrong_password",
    "NOPERM User gate has no permissions to run the 'evalsha' command": "no_permission",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_server_that_refuses_is_named_with_its_cause_and_asked_again(answer: str) -> None:
    error = view_error(error_of(answer))
    assert (error.cause, error.retriable) == (ANSWERS[answer], True)
    assert ": " in str(error), "it says what to do"


@pytest.mark.parametrize("answer", WRONG_SETTINGS)
def test_a_wrong_setting_is_named_and_not_tried_again(answer: str) -> None:
    error = view_error(error_of(answer))
    assert (error.cause, error.retriable) == (WRONG_SETTINGS[answer], False)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (exceptions.TimeoutError("Timeout reading from socket"), "slow"),
        (TimeoutError(), "slow"),
        (exceptions.ConnectionError("Error 111 connecting to h:1. Refused."), "unreachable"),
        (ConnectionResetError("reset"), "unreachable"),
        (exceptions.RedisClusterException("no node answers"), "cluster_down"),
    ],
)
def test_a_server_that_does_not_answer_is_named_and_asked_again(
    error: Exception, cause: str
) -> None:
    found = view_error(error)
    assert (found.cause, found.retriable) == (cause, True)


def test_an_unreachable_server_is_named_by_its_address() -> None:
    error = view_error(exceptions.ConnectionError("Error 111 connecting to h:1. Refused."))
    assert str(error) == (
        "Redis cannot be reached: start it, or correct its address "
        "(Error 111 connecting to h:1. Refused)"
    )


def test_a_full_server_says_how_much_it_has() -> None:
    assert full_sentence("65M", "64M", "noeviction") == (
        "Redis is full and writes nothing: raise its maxmemory, or make room in it (it uses 65M of "
        "its maxmemory 64M, maxmemory-policy noeviction)"
    )


def test_other_failures_have_no_cause_and_are_not_tried_again() -> None:
    """A damaged view, or a bug of ours: to repeat the call would change nothing."""
    error = view_error(error_of("WRONGTYPE Operation against a key of the wrong kind"))
    assert (error.cause, error.retriable) == (None, False)
    assert "WRONGTYPE" in str(error)


def test_reads_are_answered_where_only_writes_are_refused() -> None:
    refusing = {cause for cause in ANSWERS.values() if cause in REFUSING_WRITES}
    assert refusing == {"full", "read_only", "cannot_persist", "too_few_replicas"}
