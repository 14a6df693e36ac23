"""demo: the whole flow on real input, in front of a viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from usageledger.cli import terminal


def add_to(app: typer.Typer) -> None:
    """Add this command to an app."""
    app.command("demo", epilog="Example: usageledger demo --disaster")(demo)


def demo(
    disaster: Annotated[
        bool, typer.Option("--disaster", help="Kill the processor and empty Redis in the middle; the end is the same.")
    ] = False,
    speed: Annotated[
        float | None,
        typer.Option("--speed", metavar="N", min=1, help="How many seconds of the trace go by in one (default: its hour takes 25 s)."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Keep everything there (default: a directory that goes afterwards).")
    ] = None,
    backend: Annotated[Literal["packages", "docker"], typer.Option("--backend", help="Where Kafka and Redis come from.")] = "packages",
) -> None:
    """Play an hour of real requests: usage in, accounts run out and are stopped, upgrades free some, and an audit finds every credit."""
    from usageledger.local.demo.run import SPEED, run_demo
    from usageledger.local.demo.screen import Screen

    result = run_demo(Screen(terminal.results()), data=data, backend=backend, speed=speed or SPEED, disaster=disaster)
    if not result.is_right:
        raise typer.Exit(1)
