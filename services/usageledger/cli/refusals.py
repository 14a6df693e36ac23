"""refusals list, refusals resend: what the ledger refused, and sending it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data, connection

if TYPE_CHECKING:
    from usageledger.ledger.refused_input import RefusedInput

app = typer.Typer(no_args_is_help=True, help="What the ledger refused: list it, send it again.")

AccountOption = Annotated[
    str | None, typer.Option("--account", help="Only refusals of this account.")
]
Reasons = Annotated[
    list[str] | None,
    typer.Option("--reason", help="Only inputs refused for this reason; may be repeated."),
]


@app.command("list", epilog="Example: usageledger refusals list --reason unknown_model")
def list_(
    account: AccountOption = None,
    reasons: Reasons = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List refused inputs: which record, why, and whether it was accepted later."""
    from usageledger.operations.refusals import refusal_row

    _check_reasons(reasons)
    refused = [
        refusal
        for refusal in _refused_inputs(data, account)
        if not reasons or refusal.reason in reasons
    ]
    if as_json:
        for refusal in refused:
            terminal.print_json(refusal_row(refusal))
        return
    rows = [
        (
            refusal.entry,
            terminal.time_text(refusal.appended_at),
            refusal.account or "–",
            refusal.reason,
            refusal.place,
            _detail_text(refusal),
        )
        for refusal in refused
    ]
    terminal.print_table(("entry", "time", "account", "reason", "input", "detail"), rows)
    open_count = sum(not refusal.is_resolved for refusal in refused)
    since = f", {len(refused) - open_count:,} of them accepted since" if refused else ""
    terminal.note(f"{len(refused):,} refused{since}")


@app.command(epilog="Example: usageledger refusals resend --reason unknown_model")
def resend(
    account: AccountOption = None,
    reasons: Reasons = None,
    everything: Annotated[bool, typer.Option("--all", help="Resend for every account.")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Send refused inputs again, unchanged, once the cause is mended.

    The cause is mended when a new catalog knows what they name, or their account is opened. So
    without --reason only inputs refused as unknown_model, unknown_feature, unknown_plan or
    unknown_account are sent. Inputs that were accepted later are left out.
    """
    from usageledger.log.reading import log_reader
    from usageledger.operations.ledger_entries import ledger_partitions
    from usageledger.operations.record_sender import kafka_connector, send_records
    from usageledger.operations.refusals import CAN_CHANGE, resent_records, to_send_again
    from usageledger.operations.topics import is_importing

    if not (account or reasons or everything):
        raise typer.BadParameter("say which: --account, --reason or --all")
    _check_reasons(reasons)
    chosen = to_send_again(_refused_inputs(data, account), reasons or CAN_CHANGE)
    settings = connection(data)
    importing = is_importing(settings.kafka, settings.prefix)
    with log_reader(settings.kafka) as reader:
        partition_count = len(ledger_partitions(reader, settings.prefix))
        records = resent_records(
            reader, settings.prefix, chosen, partition_count=partition_count, importing=importing
        )
        report = send_records(records, kafka_connector(settings.kafka, settings.prefix))
    if as_json:
        terminal.print_json({"sent": report.sent.total(), "by_reason": dict(report.sent)})
    else:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(report.sent.items()))
        terminal.say(f"sent {report.sent.total():,} again{': ' if counts else ''}{counts}")


def _refused_inputs(data: Path | None, account: str | None) -> list[RefusedInput]:
    from usageledger.log.reading import log_reader
    from usageledger.operations.ledger_entries import ledger_entries
    from usageledger.operations.refusals import refused_inputs

    settings = connection(data)
    with log_reader(settings.kafka) as reader:
        return refused_inputs(ledger_entries(reader, settings.prefix, account))


def _check_reasons(reasons: list[str] | None) -> None:
    from usageledger.domain.refusal import Refusal

    known = [refusal.value for refusal in Refusal]
    for reason in reasons or ():
        if reason not in known:
            raise typer.BadParameter(f"{reason!r} is no reason; there are {', '.join(known)}")


def _detail_text(refusal: RefusedInput) -> str:
    from usageledger.operations.refusals import refusal_detail

    about = "" if refusal.event is None else f"{refusal.event.source} {refusal.event.id}"
    use = "/".join(name for name in (refusal.feature, refusal.model) if name)
    parts = [
        part
        for part in (
            about,
            use,
            refusal_detail(refusal),
            "accepted since" if refusal.is_resolved else "",
        )
        if part
    ]
    return " · ".join(parts)
