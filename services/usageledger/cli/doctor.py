"""doctor: what is wrong, why it matters, and the command that mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data

if TYPE_CHECKING:
    from usageledger.operations.doctor.finding import Examination, Finding

STATES = {"ok": "ok", "notice": "see below", "finding": "needs somebody"}


def add_to(app: typer.Typer) -> None:
    """Add this command to an app."""
    app.command("doctor", epilog="Example: usageledger doctor --json")(doctor)


def doctor(data: Data = None, as_json: AsJson = False) -> None:
    """Look at the brokers, topics, Redis, clocks, catalog, partitions, views and limit events of a
    ledger, and change nothing.

    Each finding comes with why it matters and the command that mends it. Exit code 0 where nothing
    needs somebody, 1 otherwise.
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
                "findings": [_plain(each) for each in examination.findings],
            }
        )
    else:
        _print(examination)
    if not examination.is_well:
        raise typer.Exit(1)


def _print(examination: Examination) -> None:
    rows = [
        (area, STATES[examination.worst(area)], found)
        for area, found in examination.looked_at.items()
    ]
    terminal.print_table(("area", "state", "found"), rows)
    for finding in examination.findings:
        terminal.say(
            f"\n{finding.area}{' (good to know)' if finding.is_notice else ''}: {finding.what}"
        )
        terminal.say(f"  why   {finding.why}")
        terminal.say(f"  mend  {finding.mend}")
    if not examination.findings:
        terminal.say("\nall is well")


def _plain(finding: Finding) -> dict[str, str | bool]:
    return {
        "area": finding.area,
        "what": finding.what,
        "why": finding.why,
        "mend": finding.mend,
        "needs_somebody": not finding.is_notice,
    }
