"""constraints.txt has what users need of the lock, in the lock's versions."""

from __future__ import annotations

import re

import pytest

from tests.supply_chain.locked import names_for_users, read_pins
from tests.supply_chain.write_constraints import CONSTRAINTS, constraints


def test_constraints_are_the_locks_versions_of_what_users_need() -> None:
    assert CONSTRAINTS.read_text(encoding="utf-8") == constraints(), "run `make lock`"


def test_constraints_name_no_host_and_no_tool_of_development() -> None:
    text = CONSTRAINTS.read_text(encoding="utf-8")
    names = set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE))
    assert "://" not in text
    assert "--" not in text
    assert names >= {"aiokafka", "fastapi", "kafka-python", "pydantic-core", "testcontainers"}
    assert names.isdisjoint({"hypothesis", "mypy", "pip-audit", "playwright", "pytest", "ruff"})


def test_packages_that_only_an_extra_of_a_library_needs_are_found() -> None:
    """hiredis comes with ``redis[hiredis]``, and h11 through uvicorn."""
    assert names_for_users() >= {"hiredis", "h11", "starlette"}


def test_a_lock_with_a_line_that_is_no_pin_is_refused() -> None:
    with pytest.raises(ValueError, match="no pin: click>=8"):
        read_pins("click>=8\n")
    with pytest.raises(ValueError, match="no pin"):
        read_pins("click==8.3.3\n")  # without digests
