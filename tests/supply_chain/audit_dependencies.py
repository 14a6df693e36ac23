"""``python -m tests.supply_chain.audit_dependencies``: ask whether a locked version is vulnerable.

pip-audit's client asks the advisory service of the Python Package Index about each pin of
requirements.lock, for every system. Where the service cannot be asked, that is said and is no
failure: it says nothing about the packages. Advisories about the jars are not asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import requests
from packaging.version import Version
from pip_audit._service import (  # type: ignore[import-untyped]
    PyPIService,
    ResolvedDependency,
    ServiceError,
)

from tests.supply_chain.locked import Pin, read_pins

REQUEST_TIMEOUT_S = 10
SHOWN_MAX = 5


class AdvisoryService(Protocol):
    """Pip-audit's interface of the services that know advisories."""

    def query(self, spec: Any) -> tuple[Any, Sequence[Any]]:
        """A dependency and its vulnerabilities. It is returned as skipped if it is not known."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """The service's answers about the versions: no advisory, an advisory, or nothing.

    ``reason`` says why nothing was said of ``unasked``.
    """

    clean: int
    vulnerable: tuple[str, ...]
    unasked: tuple[str, ...]
    reason: str = ""

    @property
    def exit_code(self) -> int:
        """1 if a version is known to be vulnerable, whatever could not be asked."""
        return 1 if self.vulnerable else 0


def audit(pins: Sequence[Pin], service: AdvisoryService) -> Verdict:
    """Ask about each pin. After a question without an answer no more is asked."""
    clean, reason = 0, "it does not know them"
    vulnerable: list[str] = []
    unasked: list[str] = []
    for index, pin in enumerate(pins):
        try:
            answer, found = service.query(ResolvedDependency(pin.name, Version(pin.version)))
        except (ServiceError, requests.RequestException) as error:
            unasked += (f"{each.name} {each.version}" for each in pins[index:])
            reason = f"{type(error).__name__} about {pin.name}"
            break
        if answer.is_skipped():
            unasked.append(f"{pin.name} {pin.version}")
        elif found:
            vulnerable += (_description(pin, vulnerability) for vulnerability in found)
        else:
            clean += 1
    return Verdict(clean, tuple(vulnerable), tuple(unasked), reason if unasked else "")


def report(verdict: Verdict) -> str:
    """The verdict in lines for people."""
    lines = list(verdict.vulnerable)
    if verdict.vulnerable:
        lines.append("VULNERABLE: raise these versions (`make lock`)")
    if verdict.unasked:
        shown = ", ".join(verdict.unasked[:SHOWN_MAX])
        more = len(verdict.unasked) - SHOWN_MAX
        lines.append(
            f"COULD NOT ASK about {len(verdict.unasked)} locked versions: the advisory service "
            f"gave no answer ({verdict.reason}). They are {shown}"
            + (f" and {more} more. " if more > 0 else ". ")
            + "Run `make audit-dependencies` where the service can be reached."
        )
    if verdict.clean:
        lines.append(f"CLEAN: no advisory names any of {verdict.clean} locked versions")
    return "\n".join(lines)


def _description(pin: Pin, vulnerability: Any) -> str:
    fixed = ", ".join(map(str, vulnerability.fix_versions)) or "no version"
    return f"{pin.name} {pin.version}: {vulnerability.id}, fixed in {fixed}"


def main() -> int:
    """Print the verdict; 1 if a locked version is known to be vulnerable."""
    verdict = audit(read_pins(), PyPIService(timeout=REQUEST_TIMEOUT_S))
    print(report(verdict))
    return verdict.exit_code


if __name__ == "__main__":
    sys.exit(main())
