"""The result of a run of the demo."""

from __future__ import annotations

from dataclasses import dataclass

from usageledger.audit.verify import AuditReport
from usageledger.local.demo.customer import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """The counts and the verdict of a run.

    ``meters_wrong`` are the accounts whose meter differs from the count of their workers.
    """

    tally: Tally
    report: AuditReport
    meters_wrong: list[str]

    @property
    def is_right(self) -> bool:
        """Whether the audit is clean and every meter is right."""
        return self.report.is_clean and not self.meters_wrong
