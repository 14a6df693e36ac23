"""demo: the whole flow on real input, shown as it happens."""

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
        bool, typer.Option("--disaster", help="Also kill the processor and empty Redis.")
    ] = False,
    speed: Annotated[
        float,
        typer.Option(
            "--speed",
            min=1.0,
            max=2_000.0,
            help="How many times faster than real time.",
        ),
    ] = 140.0,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Keep the data here (default: it is not kept)."),
    ] = None,
    backend: Annotated[
        Literal["packages", "docker"],
        typer.Option(
            "--backend",
            help="Run Kafka and Redis from Python and Maven packages, or in containers.",
        ),
    ] = "packages",
) -> None:
    """Play an hour of a real service's requests in under a minute, then audit the ledger."""
    from usageledger.local.demo.run import run_demo
    from usageledger.local.demo.screen import Screen

    result = run_demo(
        Screen(terminal.results()), data=data, backend=backend, speed=speed, disaster=disaster
    )
    if not result.is_right:
        raise typer.Exit(1)
