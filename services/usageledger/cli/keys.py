"""keys …: the keys that apps call the gateway with."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data
from usageledger.sdk.scopes import SCOPES

app = typer.Typer(
    no_args_is_help=True,
    help="Keys that apps call the gateway with. They also mint account tokens.",
)

OVERLAP_S = 86_400

# typer accepts several values of nothing else than an enumeration.
ScopeName = Enum("ScopeName", {scope: scope for scope in SCOPES})  # type: ignore[misc] # one list

KeyId = Annotated[
    str,
    typer.Argument(
        metavar="KEY_ID",
        help="The id that `usageledger keys list` shows. For ulk_d58caaec_… it is d58caaec.",
    ),
]


@app.command(
    epilog="Example: usageledger keys create render --scope report --source /render "
    "--account 'acct_eu_*'"
)
def create(
    name: Annotated[str, typer.Argument(help="Which app uses it.")],
    scopes: Annotated[
        list[ScopeName],
        typer.Option(
            "--scope", help="What the key may do; may be repeated. admin may do everything."
        ),
    ],
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            metavar="PATTERN",
            help="Bind the key to this source, or with a final * to all that begin so; may be "
            "repeated.",
        ),
    ] = None,
    accounts: Annotated[
        list[str] | None,
        typer.Option(
            "--account", metavar="PATTERN", help="Bind the key to accounts in the same way."
        ),
    ] = None,
    events_per_second: Annotated[
        int | None,
        typer.Option(
            "--events-per-second",
            metavar="N",
            min=1,
            help="How many events the key may report in a second. Without it: no quota.",
        ),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown only this once."""
    from usageledger.local.gateway_client import GatewayClient

    with GatewayClient.find(data) as gateway:
        made = gateway.create_key(
            name,
            [scope.value for scope in scopes],
            sources=sources or (),
            accounts=accounts or (),
            events_per_second=events_per_second,
        )
    _print_key(made, as_json)


@app.command(epilog="Example: USAGELEDGER_GATEWAY_KEY=$(usageledger keys generate)")
def generate() -> None:
    """Print a new key, for USAGELEDGER_GATEWAY_KEY of a gateway that has no key yet.

    Nothing is asked or stored: keep the key where your deployment keeps its secrets.
    """
    from usageledger.sdk.tokens import new_key

    terminal.say(new_key())


@app.command("list", epilog="Example: usageledger keys list")
def list_(data: Data = None, as_json: AsJson = False) -> None:
    """Show every key, also revoked ones, without secrets."""
    from usageledger.local.gateway_client import GatewayClient

    with GatewayClient.find(data) as gateway:
        found = gateway.keys()
    if as_json:
        for key in found:
            terminal.print_json(key)
        return
    terminal.print_table(
        ("id", "name", "scopes", "bound to", "made", "state"), [_key_row(key) for key in found]
    )


@app.command(epilog="Example: usageledger keys rotate 0a1b2c3d --overlap 3600")
def rotate(
    key_id: KeyId,
    overlap_s: Annotated[
        int,
        typer.Option("--overlap", metavar="S", min=0, help="How long the old secret still works."),
    ] = OVERLAP_S,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret. It is shown only this once.

    The old secret still works until the overlap has passed.
    """
    from usageledger.local.gateway_client import GatewayClient

    with GatewayClient.find(data) as gateway:
        made = gateway.rotate_key(key_id, overlap_s)
    _print_key(made, as_json)


@app.command(epilog="Example: usageledger keys revoke 0a1b2c3d")
def revoke(key_id: KeyId, data: Data = None, as_json: AsJson = False) -> None:
    """Revoke a key and every account token minted with it, at once."""
    from usageledger.local.gateway_client import GatewayClient

    with GatewayClient.find(data) as gateway:
        gateway.revoke_key(key_id)
    if as_json:
        terminal.print_json({"id": key_id, "revoked": True})
    else:
        terminal.say(f"revoked {key_id}")


def _print_key(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        terminal.print_json(made)
        return
    terminal.say(made["key"])
    terminal.note("Send it as `Authorization: Bearer …`. It is shown only this once.")


def _key_row(key: dict[str, Any]) -> tuple[str, ...]:
    working = len(key["secrets"])
    state = (
        "revoked"
        if key["revoked_at"] is not None
        else "works"
        if working == 1
        else f"works, {working} secrets"
    )
    return (
        key["id"],
        key["name"],
        ", ".join(key["scopes"]),
        _bounds_of(key),
        key["created_at"],
        state,
    )


def _bounds_of(key: dict[str, Any]) -> str:
    quota = key["events_per_second"]
    bounds = [
        *key["sources"],
        *key["accounts"],
        *([] if quota is None else [f"{quota} events/s"]),
    ]
    return ", ".join(bounds) or "–"
