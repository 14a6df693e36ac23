"""demo: the whole flow on real input, in front of a viewer."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    """Add this command to an app."""
    app.command("demo", epilog="Example: usageledger demo --disaster")(demo)


def demo() -> None:
    """Play a trace of real requests through the whole flow, and audit it."""
