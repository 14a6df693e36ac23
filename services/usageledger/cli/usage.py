"""usage …: recording and voiding single uses by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from usageledger.cli.account_events import id_or_new, send_event
from usageledger.cli.accounts import Account
from usageledger.cli.options import DEFAULT_SOURCE, AsJson, Data, Id, Source, TimeOption, Wait

app = typer.Typer(no_args_is_help=True, help="Record and void single uses by hand.")


@app.command(epilog="Example: usageledger usage record acct_4821 genai_video --model veo_3 --wait")
def record(
    account: Account,
    feature: Annotated[str, typer.Argument(help="What was used, such as genai_video.")],
    model: Annotated[str | None, typer.Option("--model", help="The model, such as veo_3.")] = None,
    quantity: Annotated[
        str,
        typer.Option("--quantity", help="In the rate's units: a decimal with at most 6 places."),
    ] = "1",
    dimensions: Annotated[
        list[str] | None,
        typer.Option("--dimension", metavar="NAME=VALUE", help="For reports; may be repeated."),
    ] = None,
    id: Id = None,
    source: Source = DEFAULT_SOURCE,
    time: TimeOption = None,
    wait: Wait = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Record one use of a feature."""
    from usageledger.sdk.producer.events import usage_recorded

    fields = {
        "feature": feature,
        "model": model,
        "quantity": quantity,
        "dimensions": _pairs(dimensions or []),
    }
    send_event(
        data,
        usage_recorded,
        wait=wait,
        as_json=as_json,
        occurred_at=time,
        account=account,
        id=id_or_new(id),
        source=source,
        **fields,
    )


@app.command(
    epilog='Example: usageledger usage void acct_4821 gen_01J9 --usage-source render --reason "the '
    'render failed"'
)
def void(
    account: Account,
    usage_id: Annotated[str, typer.Argument(help="The id under which the use was recorded.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the ledger.")],
    usage_source: Annotated[
        str, typer.Option("--usage-source", help="The service that recorded the use.")
    ] = DEFAULT_SOURCE,
    source: Source = DEFAULT_SOURCE,
    time: TimeOption = None,
    wait: Wait = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Take one use back: its credits go to the period they were charged in.

    A repeat is the same void.
    """
    from usageledger.sdk.producer.events import usage_voided

    fields = {"usage_source": usage_source, "usage_id": usage_id, "reason": reason}
    send_event(
        data,
        usage_voided,
        wait=wait,
        as_json=as_json,
        occurred_at=time,
        account=account,
        source=source,
        **fields,
    )


def _pairs(dimensions: list[str]) -> dict[str, str]:
    pairs = [dimension.partition("=") for dimension in dimensions]
    for dimension, (name, equals, _) in zip(dimensions, pairs, strict=True):
        if not name or not equals:
            raise typer.BadParameter(f"a dimension is NAME=VALUE, not {dimension!r}")
    return {name: value for name, _, value in pairs}
