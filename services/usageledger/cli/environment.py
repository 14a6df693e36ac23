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

    Those of a secured stack (`up --secure`) are a generation worker's. The key has every scope. No
    other command, log or status shows it or Redis's password.
    """
    from usageledger.local.gateway_files import kept_key
    from usageledger.runtime.kafka_connection import KafkaConnection
    from usageledger.runtime.settings import Settings, running_stack

    directory = stack_directory(data)
    settings = Settings.find(directory)
    stack = running_stack(directory) or {}
    gateway, is_secure = stack.get("gateway", ""), stack.get("is_secure", False)
    kafka = KafkaConnection.from_json(stack["worker_connection"]) if is_secure else settings.kafka
    variables = kafka.as_environment() | {
        # A worker reports to Kafka alone: no user of Redis is its own.
        "USAGELEDGER_REDIS_URL": "" if is_secure else settings.redis_url,
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
