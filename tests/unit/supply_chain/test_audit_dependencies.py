"""The advisory check: clean, vulnerable, or could not ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import requests
from packaging.version import Version
from pip_audit._service import (  # type: ignore[import-untyped]
    ServiceError,
    SkippedDependency,
    VulnerabilityResult,
)

from tests.supply_chain.audit_dependencies import audit, report
from tests.supply_chain.locked import Pin

PINS = tuple(Pin(name, "1.0", f"{name}==1.0", ("0" * 64,)) for name in ("first", "second", "third"))
ADVISORY = VulnerabilityResult.create(["CVE-2026-1"], "a fault", [Version("1.1")], None)


class _Advisories:
    """A service in memory. A name whose answer is an exception cannot be asked about."""

    def __init__(self, answers: Mapping[str, Any] | None = None) -> None:
        self._answers = answers or {}

    def query(self, spec: Any) -> tuple[Any, Sequence[Any]]:
        answer = self._answers.get(spec.name, [])
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            return SkippedDependency(spec.name, "not found"), []
        return spec, answer


def test_versions_without_an_advisory_are_clean() -> None:
    verdict = audit(PINS, _Advisories())
    assert verdict.exit_code == 0
    assert report(verdict) == "CLEAN: no advisory names any of 3 locked versions"


def test_a_vulnerable_version_fails_the_check() -> None:
    verdict = audit(PINS, _Advisories({"second": [ADVISORY]}))
    assert verdict.exit_code == 1
    assert report(verdict).splitlines() == [
        "second 1.0: CVE-2026-1, fixed in 1.1",
        "VULNERABLE: raise these versions (`make lock`)",
        "CLEAN: no advisory names any of 2 locked versions",
    ]


@pytest.mark.parametrize(
    "fault",
    [requests.ConnectionError("no route"), requests.ReadTimeout("late"), ServiceError("busy")],
)
def test_a_service_that_cannot_be_asked_is_said_and_does_not_fail(fault: Exception) -> None:
    verdict = audit(PINS, _Advisories({"second": fault}))
    assert verdict.exit_code == 0
    assert report(verdict).splitlines() == [
        "COULD NOT ASK about 2 locked versions: the advisory service gave no answer "
        f"({type(fault).__name__} about second). They are second 1.0, third 1.0. "
        "Run `make audit-dependencies` where the service can be reached.",
        "CLEAN: no advisory names any of 1 locked versions",
    ]


def test_an_advisory_found_before_the_service_fell_silent_fails_the_check() -> None:
    verdict = audit(
        PINS, _Advisories({"first": [ADVISORY], "second": requests.ConnectionError("no route")})
    )
    assert verdict.exit_code == 1
    assert "VULNERABLE" in report(verdict)
    assert "COULD NOT ASK about 2 locked" in report(verdict)


def test_versions_that_the_service_does_not_know_are_not_called_clean() -> None:
    """A mirror without advisories answers that it knows nothing."""
    verdict = audit(PINS, _Advisories(dict.fromkeys(("first", "second", "third"))))
    assert verdict.exit_code == 0
    assert report(verdict).startswith("COULD NOT ASK about 3 locked versions")
    assert "CLEAN" not in report(verdict)


def test_a_fault_of_the_check_itself_is_not_taken_for_silence() -> None:
    with pytest.raises(ZeroDivisionError):
        audit(PINS, _Advisories({"first": ZeroDivisionError()}))
