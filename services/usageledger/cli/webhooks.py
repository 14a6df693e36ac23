"""webhooks …: the endpoints that limit events are delivered to."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data

app = typer.Typer(
    no_args_is_help=True,
    help="Endpoints that limit events are delivered to, and their deliveries.",
)

OVERLAP_S = 86_400


class LimitType(str, Enum):
    """A type of limit event. An enumeration, as typer accepts several values of nothing else."""

    threshold = "limit.threshold"
    reached = "limit.reached"
    cleared = "limit.cleared"


EndpointId = Annotated[
    str, typer.Argument(metavar="ENDPOINT", help="The endpoint's id, which `webhooks list` shows.")
]
Overlap = Annotated[
    int,
    typer.Option(
        "--overlap",
        metavar="S",
        min=0,
        help="How long deliveries are signed with the old secret too.",
    ),
]


@app.command(
    epilog="Example: usageledger webhooks add https://app.example/hooks/usage --type limit.reached "
    "--type limit.cleared"
)
def add(
    url: Annotated[str, typer.Argument(help="Where to deliver to.")],
    types: Annotated[
        list[LimitType] | None,
        typer.Option("--type", help="Only limit events of this type; may be repeated."),
    ] = None,
    accounts: Annotated[
        list[str] | None,
        typer.Option("--account", help="Only limit events of this account; may be repeated."),
    ] = None,
    description: Annotated[
        str, typer.Option("--description", help="What it is for, for people.")
    ] = "",
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Deliver limit events to a URL from now on. Its secret is shown only this once."""
    from usageledger.local.gateway_client import GatewayClient

    with GatewayClient.find(data) as gateway:
        made = gateway.add_webhook(
            url, [type_.value for type_ in types or ()], accounts or (), description
        )
    _print_secret(made, as_json)


@app.command("list", epilog="Example: usageledger webhooks list")
def list_(data: Data = None, as_json: AsJson = False) -> None:
    """Show every endpoint, and how its deliveries go."""
    from usageledger.local.gateway_client import GatewayClient

    with GatewayClient.find(data) as gateway:
        found = gateway.webhooks()
    if as_json:
        for endpoint in found:
            terminal.print_json(endpoint)
        return
    columns = ("id", "url", "gets", "state", "waiting", "dead", "last failure")
    terminal.print_table(
        columns, [_endpoint_row(endpoint) for endpoint in found], right=("waiting", "dead")
    )


@app.command(epilog="Example: usageledger webhooks rotate wh_1f6d0c2b9a3e4d57 --overlap 3600")
def rotate(
    endpoint: EndpointId, overlap_s: Overlap = OVERLAP_S, data: Data = None, as_json: AsJson = False
) -> None:
    """Give an endpoint a new secret. It is shown only this once.

    Until the overlap has passed, deliveries are signed with both secrets.
    """
    from usageledger.local.gateway_client import GatewayClient

    with GatewayClient.find(data) as gateway:
        made = gateway.rotate_webhook(endpoint, overlap_s)
    _print_secret(made, as_json)


@app.command(epilog="Example: usageledger webhooks disable wh_1f6d0c2b9a3e4d57")
def disable(endpoint: EndpointId, data: Data = None, as_json: AsJson = False) -> None:
    """Switch an endpoint off. It gets no new deliveries, and those that wait go on waiting."""
    _switch(endpoint, data, as_json, on=False)


@app.command(epilog="Example: usageledger webhooks enable wh_1f6d0c2b9a3e4d57")
def enable(endpoint: EndpointId, data: Data = None, as_json: AsJson = False) -> None:
    """Switch an endpoint on again, even one that answered 410 Gone."""
    _switch(endpoint, data, as_json, on=True)


@app.command(epilog="Example: usageledger webhooks remove wh_1f6d0c2b9a3e4d57")
def remove(endpoint: EndpointId, data: Data = None, as_json: AsJson = False) -> None:
    """Remove an endpoint and the deliveries that wait for it."""
    from usageledger.local.gateway_client import GatewayClient

    with GatewayClient.find(data) as gateway:
        gateway.remove_webhook(endpoint)
    if as_json:
        terminal.print_json({"id": endpoint, "removed": True})
    else:
        terminal.say(f"removed {endpoint}")


@app.command(epilog="Example: usageledger webhooks deliveries wh_1f6d0c2b9a3e4d57 --state dead")
def deliveries(
    endpoint: EndpointId,
    state: Annotated[
        Literal["pending", "delivered", "dead"] | None,
        typer.Option("--state", help="Only deliveries in this state."),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show an endpoint's deliveries, the newest first."""
    from usageledger.local.gateway_client import GatewayClient

    with GatewayClient.find(data) as gateway:
        found = gateway.deliveries(endpoint, state)
        if as_json:
            for delivery in found:
                terminal.print_json(delivery)
            return
        columns = (
            "id",
            "event",
            "type",
            "account",
            "state",
            "attempts",
            "last error",
            "next attempt",
        )
        terminal.print_table(
            columns, [_delivery_row(delivery) for delivery in found], right=("attempts",)
        )


@app.command(epilog="Example: usageledger webhooks resend wh_1f6d0c2b9a3e4d57 --dead")
def resend(
    endpoint: EndpointId,
    delivery: Annotated[
        list[str] | None, typer.Argument(metavar="DELIVERY", help="The ids of deliveries.")
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", help="All dead deliveries.")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Send deliveries again at once, and then by the whole retry schedule.

    They keep their ids, so a receiver can drop repeats.
    """
    from usageledger.local.gateway_client import GatewayClient

    if bool(delivery) == dead:
        raise typer.BadParameter("name deliveries, or --dead for all that are dead")
    with GatewayClient.find(data) as gateway:
        ids = delivery or [found["id"] for found in gateway.deliveries(endpoint, "dead")]
        for delivery_id in ids:
            sent = gateway.resend(endpoint, delivery_id)
            if as_json:
                terminal.print_json(sent)
    if not as_json:
        terminal.say(f"{len(ids)} deliveries will be sent again")


@app.command("test", epilog="Example: usageledger webhooks test wh_1f6d0c2b9a3e4d57")
def send_test(endpoint: EndpointId, data: Data = None, as_json: AsJson = False) -> None:
    """Send an endpoint a test event, and show its answer.

    Exit code 1 if it does not accept the event.
    """
    from usageledger.local.gateway_client import GatewayClient

    with GatewayClient.find(data) as gateway:
        delivery = gateway.test_webhook(endpoint)
    if as_json:
        terminal.print_json(delivery)
    elif delivery["state"] == "delivered":
        terminal.say(f"delivered: it answered {delivery['last_status']}")
    else:
        typer.echo(f"usageledger: not delivered: {delivery['last_error']}", err=True)
    if delivery["state"] != "delivered":
        raise typer.Exit(1)


def _switch(endpoint: str, data: Any, as_json: bool, *, on: bool) -> None:
    from usageledger.local.gateway_client import GatewayClient

    with GatewayClient.find(data) as gateway:
        changed = gateway.switch_webhook(endpoint, on=on)
    if as_json:
        terminal.print_json(changed)
    else:
        terminal.say(f"{endpoint} is {changed['state']}")


def _print_secret(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        terminal.print_json(made)
        return
    terminal.say(f"{made['id']}\n{made['secret']}")
    terminal.note(
        "The secret verifies signatures, by any library for Standard Webhooks. It is shown only "
        "this once."
    )


def _endpoint_row(endpoint: dict[str, Any]) -> tuple[str, ...]:
    failure = endpoint["last_failure"]
    gets = ", ".join(type_.removeprefix("limit.") for type_ in endpoint["types"])
    if endpoint["accounts"]:
        gets += f" of {len(endpoint['accounts'])} accounts"
    last_failure = "" if failure is None else f"{failure['at']}: {failure['detail']}"
    return (
        endpoint["id"],
        endpoint["url"],
        gets,
        endpoint["state"],
        str(endpoint["pending"]),
        str(endpoint["dead"]),
        last_failure,
    )


def _delivery_row(delivery: dict[str, Any]) -> tuple[str, ...]:
    shown = (
        "id",
        "event_id",
        "type",
        "account",
        "state",
        "attempts",
        "last_error",
        "next_attempt_at",
    )
    return tuple("" if delivery[name] is None else str(delivery[name]) for name in shown)
