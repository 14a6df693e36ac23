"""acls: prints the least rights of each role, as commands for Kafka and for Redis."""

from __future__ import annotations

from typing import Annotated

import typer

from usageledger.cli import terminal


def add_to(app: typer.Typer) -> None:
    """Add this command to an app."""
    app.command("acls", epilog="Example: usageledger acls --role processor --prefix acme")(acls)


def acls(
    role: Annotated[
        str | None,
        typer.Option("--role", metavar="ROLE", help="Only this role (default: every role)."),
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", envvar="USAGELEDGER_PREFIX", help="The ledger's name.")
    ] = "",
    principal_prefix: Annotated[
        str,
        typer.Option(
            "--principal-prefix", help="What Kafka writes before a user's name: User:, User:CN=."
        ),
    ] = "User:",
    group: Annotated[
        str | None, typer.Option("--group", help="The consumer group of a subscriber that has one.")
    ] = None,
) -> None:
    """Print the least rights that each role needs, as commands for Kafka and for Redis.

    Nothing is changed and no server is asked. Replace HOST:PORT, admin.properties and PASSWORD, or
    run the commands with your own tools. A role that is not shown for Redis does not need it.
    """
    from usageledger.operations.access_rights import ROLES, kafka_commands, redis_command

    for each in ROLES if role is None else (role,):
        commands = list(
            kafka_commands(each, prefix, principal=f"{principal_prefix}{each}", group=group)
        )
        in_redis = redis_command(each, prefix)
        terminal.say(f"# {each}")
        for command in commands:
            terminal.say(command)
        if in_redis is not None:
            terminal.say(in_redis)
