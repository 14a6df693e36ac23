"""env: the addresses and secrets of a running stack, as variables for a shell or a program."""

from __future__ import annotations

import shlex

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data, stack_directory


def add_to(app: typer.Typer) -> None:
    """Add this command to an app."""
    app.command("env", epilog='Example: eval "$(usageledger env)"')(env)


def env(data: Data = None, as_json: AsJson = False) -> None:
    """Print the variables that reach the running stack, its first key among them.

    The key has every scope. No other command, log or status shows it or Redis's password.
    """
    from usageledger.local.gateway_place import kept_key
    from usageledger.runtime.settings import Settings, running_stack

    directory = stack_directory(data)
    settings = Settings.find(directory)
    gateway = (running_stack(directory) or {}).get("gateway", "")
    variables = settings.kafka.as_environment() | {
        "USAGELEDGER_REDIS_URL": settings.redis_url,
        "USAGELEDGER_PREFIX": settings.prefix,
        "USAGELEDGER_GATEWAY_URL": gateway,
        "USAGELEDGER_KEY": (kept_key(directory) or "") if gateway else "",
    }
    given = {name: value for name, value in variables.items() if value}
    if as_json:
        terminal.print_json(given)
        return
    for name, value in given.items():
        terminal.say(f"export {name}={shlex.quote(value)}")
