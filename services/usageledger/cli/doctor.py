"""doctor: what is wrong with a ledger, why it matters, and the command that mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data

if TYPE_CHECKING:
    from usageledger.operations.doctor.finding import Examination, Finding

STATES = {"ok": "ok", "notice": "see below", "finding": "needs action"}


def add_to(app: typer.Typer) -> None:
    """Add this command to an app."""
    app.command("doctor", epilog="Example: usageledger doctor --json")(doctor)


def doctor(data: Data = None, as_json: AsJson = False) -> None:
    """Examine a ledger and everything it runs on. Nothing is changed.

    It looks at brokers, topics, codecs, Redis, clocks, the catalog, partitions, counters and limit
    events.
    Each finding says why it matters and which command mends it. Exit code 0 if nothing needs
    action, 1 otherwise.
    """
    from usageledger.operations.doctor.examine import examine
    from usageledger.runtime.settings import Settings

    settings = Settings.find(data)
    examination = examine(settings.kafka, settings.redis_url, settings.prefix)
    if as_json:
        areas = {
            area: {"state": examination.worst(area), "found": found}
            for area, found in examination.looked_at.items()
        }
        terminal.print_json(
            {
                "is_well": examination.is_well,
                "areas": areas,
                "findings": [_finding_json(each) for each in examination.findings],
            }
        )
    else:
        _print_examination(examination)
    if not examination.is_well:
        raise typer.Exit(1)


def _print_examination(examination: Examination) -> None:
    rows = [
        (area, STATES[examination.worst(area)], found)
        for area, found in examination.looked_at.items()
    ]
    terminal.print_table(("area", "state", "found"), rows)
    for finding in examination.findings:
        what = finding.what.replace("\n", "\n        ")
        terminal.say(f"\n{finding.area}{' (good to know)' if finding.is_notice else ''}: {what}")
        terminal.say(f"  why   {finding.why}")
        terminal.say(f"  mend  {finding.mend}")
    if not examination.findings:
        terminal.say("\nall is well")


def _finding_json(finding: Finding) -> dict[str, str | bool]:
    return {
        "area": finding.area,
        "what": finding.what,
        "why": finding.why,
        "mend": finding.mend,
        "needs_somebody": not finding.is_notice,
    }
