"""account …: shows what accounts have, and sends account events."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from typing import Annotated, Literal

import typer

from usageledger.cli import terminal
from usageledger.cli.event_commands import Sending, event_command
from usageledger.cli.options import AsJson, Data, connection, now, parse_time

app = typer.Typer(
    no_args_is_help=True,
    help="Show what accounts have; set their plans, suspensions, thresholds and grants.",
)

Account = Annotated[str, typer.Argument(help="The account's id.")]
Plan = Annotated[str, typer.Argument(help="A plan's id, such as pro or scale_2x.")]
Note = Annotated[
    str | None, typer.Option("--note", help="A note for the ledger; apps do not get it.")
]
TimeZone = Annotated[
    str | None,
    typer.Option("--time-zone", help="An IANA name such as Europe/Berlin (default: UTC)."),
]
Anchor = Annotated[
    datetime | None,
    typer.Option(
        "--anchor",
        metavar="TIME",
        parser=parse_time,
        help="The time whose day and hour the cycle renews on (default: the event's).",
    ),
]


@app.command(epilog="Example: usageledger account show acct_4821 --at 2026-11-30T23:59:59Z")
def show(
    account: Account,
    at: Annotated[
        datetime | None,
        typer.Option(
            "--at",
            metavar="TIME",
            parser=parse_time,
            help="Show the account at this time (default: now; in import mode, the ledger's).",
        ),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show an account's plan, period, allotment and grants, and what it has used and has left."""
    from usageledger.accounts.balances import AccountReader
    from usageledger.accounts.queries import Clock
    from usageledger.cli.account_balance import balance_document, print_balance
    from usageledger.counters.connection import connect_blocking
    from usageledger.log.reading import log_reader
    from usageledger.operations.topics import is_importing

    settings = connection(data)
    importing = is_importing(settings.kafka, settings.prefix)
    with (
        log_reader(settings.kafka) as reader,
        closing(connect_blocking(settings.redis_url)) as redis,
    ):
        clock = Clock(now, lambda: importing)
        found = AccountReader(reader, redis, settings.prefix, clock).balance(account, at=at)
    if as_json:
        terminal.print_json(balance_document(found, with_holds=at is None))
    else:
        print_balance(found)


@event_command(
    app,
    "account.opened",
    name="open",
    example="account open acct_7 pro --anchor 2026-11-05 --used 120.5 --as-of 2026-11-24",
)
def open_(
    sending: Sending,
    account: Account,
    plan: Plan,
    anchor: Anchor = None,
    time_zone: TimeZone = None,
    used: Annotated[
        str | None,
        typer.Option("--used", metavar="CREDITS", help="What it has used in its current period."),
    ] = None,
    free_used: Annotated[
        str | None,
        typer.Option(
            "--free-used", metavar="CREDITS", help="What it has used of Free's one allotment."
        ),
    ] = None,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            "--as-of",
            metavar="TIME",
            parser=parse_time,
            help="Until when --used counts: the ledger refuses earlier usage.",
        ),
    ] = None,
) -> str:
    """Bring in an account in mid-cycle. It must be the account's first event."""
    return sending.client.open_account(
        account,
        plan,
        anchor=anchor,
        time_zone=time_zone,
        used=used,
        free_used=free_used,
        as_of=as_of,
        **sending.id_and_time,
    )


@event_command(
    app,
    "account.subscribed",
    example="account subscribe acct_4821 pro --time-zone Europe/Berlin",
)
def subscribe(
    sending: Sending,
    account: Account,
    plan: Plan,
    time_zone: TimeZone = None,
    anchor: Anchor = None,
) -> str:
    """Begin a paid subscription, with a fresh billing cycle."""
    return sending.client.subscribe(
        account, plan, time_zone=time_zone, anchor=anchor, **sending.id_and_time
    )


@event_command(app, "account.plan_changed", example="account change-plan acct_4821 scale")
def change_plan(sending: Sending, account: Account, plan: Plan) -> str:
    """Change the plan: an upgrade takes effect at once, a downgrade at the next renewal."""
    return sending.client.change_plan(account, plan, **sending.id_and_time)


@event_command(app, "account.cancelled", example="account cancel acct_4821")
def cancel(
    sending: Sending,
    account: Account,
    effective: Annotated[
        Literal["period_end", "now"],
        typer.Option("--effective", help="When it ends: now is for fraud."),
    ] = "period_end",
) -> str:
    """Cancel the subscription. The account falls back to what it has left of Free."""
    return sending.client.cancel(account, effective, **sending.id_and_time)


@event_command(
    app, "account.suspended", example="account suspend acct_4821 --reason payment_failed"
)
def suspend(
    sending: Sending,
    account: Account,
    reason: Annotated[
        str,
        typer.Option(
            "--reason", help="A few words for apps to show, such as payment_failed or fraud."
        ),
    ],
    note: Note = None,
) -> str:
    """Block an account until it is resumed, whatever it has left.

    Its plan, cycle and grants go on as before.
    """
    return sending.client.suspend(account, reason, note=note, **sending.id_and_time)


@event_command(app, "account.resumed", example="account resume acct_4821 --reason paid")
def resume(
    sending: Sending,
    account: Account,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Why it may go on, such as paid.")
    ] = None,
    note: Note = None,
) -> str:
    """End an account's suspension. It is free again if it has credits left."""
    return sending.client.resume(account, reason=reason, note=note, **sending.id_and_time)


def _check_thresholds(account: str, shares: list[str] | None, none: bool, as_plan: bool) -> None:
    if [bool(shares), none, as_plan].count(True) != 1:
        raise typer.BadParameter("name the shares, or --none, or --as-plan: one of the three")


@event_command(
    app,
    "account.thresholds_set",
    example="account set-thresholds acct_4821 0.5 0.9",
    check=_check_thresholds,
)
def set_thresholds(
    sending: Sending,
    account: Account,
    shares: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SHARE",
            help="Shares of a period's credits, ascending, each between 0 and 1.",
        ),
    ] = None,
    none: Annotated[
        bool, typer.Option("--none", help="No thresholds: announce the limit alone.")
    ] = False,
    as_plan: Annotated[
        bool, typer.Option("--as-plan", help="The plan's own thresholds again.")
    ] = False,
) -> str:
    """Set the thresholds whose crossing is announced to apps.

    Setting them announces nothing. The next use that crosses one does.
    """
    thresholds = None if as_plan else shares or []
    return sending.client.set_thresholds(account, thresholds, **sending.id_and_time)


@event_command(
    app,
    "credits.granted",
    example='account grant acct_4821 50 --reason "apology for the outage" --expires-at 2027-01-01',
)
def grant(
    sending: Sending,
    account: Account,
    credits: Annotated[str, typer.Argument(help="A decimal above 0, such as 50 or 0.5.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the ledger.")],
    expires_at: Annotated[
        datetime | None,
        typer.Option(
            "--expires-at",
            metavar="TIME",
            parser=parse_time,
            help="Until when it can be used (default: until it is used up).",
        ),
    ] = None,
) -> str:
    """Give an account credits, on top of its plan's."""
    return sending.client.grant_credits(
        account, credits, reason, expires_at=expires_at, **sending.id_and_time
    )
