"""What an examination finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Area = Literal[
    "broker", "topics", "redis", "clocks", "catalog", "partitions", "view", "limits", "rules"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """``what`` is wrong, ``why`` it matters, and the command that ``mend``s it.

    A notice is good to know and needs nobody.
    """

    area: Area
    what: str
    why: str
    mend: str
    is_notice: bool = False


@dataclass(slots=True)
class Examination:
    """What was looked at, in order: of each area what was found in general, and all findings."""

    looked_at: dict[Area, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        """Whether nothing needs somebody."""
        return all(finding.is_notice for finding in self.findings)

    def add(self, area: Area, summary: str, findings: list[Finding]) -> None:
        """Note an area as looked at."""
        self.looked_at[area] = summary
        self.findings += findings

    def worst(self, area: Area) -> Literal["ok", "notice", "finding"]:
        """How an area is."""
        found = [finding.is_notice for finding in self.findings if finding.area == area]
        return "ok" if not found else "notice" if all(found) else "finding"
