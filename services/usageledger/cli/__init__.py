"""``usageledger …``: the command line. It asks and prints; lower rooms do the work."""

from __future__ import annotations

import inspect
import sys
import traceback
from typing import Annotated

import typer

from usageledger.cli import (
    accounts,
    acls,
    audit,
    catalog,
    demo,
    doctor,
    environment,
    keys,
    ledger,
    limits,
    processor,
    rebuild,
    refusals,
    reshard,
    send,
    services,
    stack,
    topics,
    usage,
    webhooks,
)
from usageledger.cli.failures import Commands
from usageledger.runtime.redaction import redacted

app = typer.Typer(
    name="usageledger",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="An event-sourced ledger of AI-generation credits. It reads usage from Kafka, keeps each "
    "account's counters, and tells your app when an account reaches a limit.",
)
for part in (stack, environment, send, demo, rebuild, reshard, doctor, acls, services):
    part.add_to(app)
for name, group in (
    ("account", accounts.app),
    ("usage", usage.app),
    ("ledger", ledger.app),
    ("limits", limits.app),
    ("refusals", refusals.app),
    ("catalog", catalog.app),
    ("topics", topics.app),
    ("audit", audit.app),
    ("processor", processor.app),
    ("webhooks", webhooks.app),
    ("keys", keys.app),
):
    app.add_typer(group, name=name)


def _unwrap_help(group: typer.Typer) -> None:
    """Join the lines of each paragraph of help, so that it wraps to the width of the terminal."""
    for command in group.registered_commands:
        paragraphs = inspect.cleandoc(inspect.getdoc(command.callback) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            _unwrap_help(inner.typer_instance)


_unwrap_help(app)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"usageledger {version('usageledger')}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show which release this is.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """The options before every command."""


def main() -> None:
    """The entry point of the ``usageledger`` command."""
    try:
        app()
    except Exception:  # noqa: BLE001 - it is shown, and ends the command
        # An error that nobody expected may quote an address with its password.
        sys.stderr.write(redacted(traceback.format_exc()))
        sys.exit(1)
