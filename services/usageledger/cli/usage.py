"""usage …: recording and voiding single uses by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from usageledger.cli.accounts import Account
from usageledger.cli.event_commands import Sending, event_command
from usageledger.cli.options import DEFAULT_SOURCE


def parse_dimension(text: str) -> str:
    """NAME=VALUE, as it is. Raises typer.BadParameter."""
    name, equals, _ = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"a dimension is NAME=VALUE, not {text!r}")
    return text


app = typer.Typer(no_args_is_help=True, help="Record and void single uses by hand.")


@event_command(
    app,
    "usage.recorded",
    example="usage record acct_4821 genai_video --model veo_3 --wait",
)
def record(
    sending: Sending,
    account: Account,
    feature: Annotated[str, typer.Argument(help="What was used, such as genai_video.")],
    model: Annotated[str | None, typer.Option("--model", help="The model, such as veo_3.")] = None,
    quantity: Annotated[
        str,
        typer.Option("--quantity", help="In the rate's units: a decimal, at most 6 places."),
    ] = "1",
    dimensions: Annotated[
        list[str] | None,
        typer.Option(
            "--dimension",
            metavar="NAME=VALUE",
            parser=parse_dimension,
            help="For reports; may be repeated.",
        ),
    ] = None,
) -> str:
    """Record one use of a feature."""
    from usageledger.log.reading import log_reader
    from usageledger.operations.event_file import outgoing_records
    from usageledger.operations.ledger_entries import ledger_partitions
    from usageledger.operations.record_sender import kafka_connector, send_records
    from usageledger.sdk.producer.events import encode, usage_recorded

    event = usage_recorded(
        source=sending.source,
        account=account,
        feature=feature,
        model=model,
        quantity=quantity,
        dimensions=dict(each.split("=", 1) for each in dimensions or ()),
        now=sending.recorded_at,
        live=not sending.importing,
        **sending.id_and_time,
    )
    settings = sending.settings
    with log_reader(settings.kafka) as reader:
        partition_count = len(ledger_partitions(reader, settings.prefix))
    records = outgoing_records(
        [encode(event)], partition_count=partition_count, importing=sending.importing
    )
    send_records(records, kafka_connector(settings.kafka, settings.prefix))
    return sending.id_and_time["id"]


@event_command(
    app,
    "usage.voided",
    example='usage void acct_4821 gen_01J9 --usage-source render --reason "the render failed"',
    has_id=False,
)
def void(
    sending: Sending,
    account: Account,
    usage_id: Annotated[str, typer.Argument(help="The id under which the use was recorded.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the ledger.")],
    usage_source: Annotated[
        str, typer.Option("--usage-source", help="The service that recorded the use.")
    ] = DEFAULT_SOURCE,
) -> str:
    """Void one use: its credits go back to the period they were charged in.

    Voiding the same use again changes nothing.
    """
    return sending.client.void_usage(
        account,
        source=usage_source,
        id=usage_id,
        reason=reason,
        occurred_at=sending.id_and_time["occurred_at"],
    )
