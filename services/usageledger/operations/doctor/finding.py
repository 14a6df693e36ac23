"""The findings of an examination."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Area = Literal[
    "broker",
    "topics",
    "codecs",
    "redis",
    "clocks",
    "catalog",
    "partitions",
    "view",
    "events",
    "limits",
    "rules",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """``what`` is wrong, ``why`` it matters, and the command that ``mend``s it.

    A notice is worth knowing, but nobody has to act on it.
    """

    area: Area
    what: str
    why: str
    mend: str
    is_notice: bool = False


@dataclass(slots=True)
class Examination:
    """The areas that were looked at, in order, with a summary of each, and all findings."""

    looked_at: dict[Area, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        """Whether nobody has to act: there are notices at most."""
        return all(finding.is_notice for finding in self.findings)

    def add(self, area: Area, summary: str, findings: Iterable[Finding]) -> None:
        """Add an area that has been looked at."""
        self.looked_at[area] = summary
        self.findings += findings

    def worst(self, area: Area) -> Literal["ok", "notice", "finding"]:
        """The gravest thing that was found in an area."""
        are_notices = [finding.is_notice for finding in self.findings if finding.area == area]
        return "ok" if not are_notices else "notice" if all(are_notices) else "finding"
