"""account …: what accounts have, and telling the ledger about them."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from usageledger.cli import terminal
from usageledger.cli.account_events import id_or_new, send_event
from usageledger.cli.options import (
    DEFAULT_SOURCE,
    AsJson,
    Data,
    Id,
    Source,
    TimeOption,
    Wait,
    connection,
    now,
    parse_time,
)

if TYPE_CHECKING:
    from usageledger.accounts.balances import AccountBalance

BAR_WIDTH = 40

app = typer.Typer(
    no_args_is_help=True,
    help="What accounts have; their plans, suspensions, thresholds and grants.",
)

Account = Annotated[str, typer.Argument(help="The account's id.")]
Plan = Annotated[str, typer.Argument(help="A plan's id, such as pro or scale_2x.")]
Note = Annotated[str | None, typer.Option("--note", help="For the ledger alone.")]
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
        help="Whose day and time of day the cycle renews on (default: the event's).",
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
            help="As it was, or will be, then (default: now; in import mode the ledger's time).",
        ),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show what an account has: plan, period, allotment, grants, what was used and what remains."""
    from usageledger.accounts.balances import AccountReader
    from usageledger.counters.connection import connect_blocking
    from usageledger.log.reading import log_reader
    from usageledger.operations.topics import is_importing

    settings = connection(data)
    importing = is_importing(settings.kafka, settings.prefix)
    with (
        log_reader(settings.kafka) as reader,
        closing(connect_blocking(settings.redis_url)) as redis,
    ):
        found = AccountReader(reader, redis, settings.prefix).balance(
            account, at=at, now=now(), importing=importing
        )
    if as_json:
        terminal.print_json(_plain(found))
    else:
        _print(found)


@app.command(
    "open",
    epilog="Example: usageledger account open acct_7 pro --anchor 2026-11-05 --used 120.5 --as-of "
    "2026-11-24",
)
def open_(
    account: Account,
    plan: Plan,
    anchor: Anchor = None,
    time_zone: TimeZone = None,
    used: Annotated[
        str | None, typer.Option("--used", metavar="CREDITS", help="Used in its current period.")
    ] = None,
    free_used: Annotated[
        str | None,
        typer.Option(
            "--free-used", metavar="CREDITS", help="Used of Free's once-in-a-life credits."
        ),
    ] = None,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            "--as-of",
            metavar="TIME",
            parser=parse_time,
            help="As of when: what occurred before is in --used.",
        ),
    ] = None,
    id: Id = None,
    source: Source = DEFAULT_SOURCE,
    time: TimeOption = None,
    wait: Wait = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Bring in an account mid-cycle. Only as its first event."""
    from usageledger.sdk.producer.events import account_opened

    fields = {
        "plan": plan,
        "anchor": anchor,
        "time_zone": time_zone,
        "used": used,
        "free_used": free_used,
        "as_of": as_of,
    }
    send_event(
        data,
        account_opened,
        wait=wait,
        as_json=as_json,
        occurred_at=time,
        account=account,
        id=id_or_new(id),
        source=source,
        **fields,
    )


@app.command(
    epilog="Example: usageledger account subscribe acct_4821 pro --time-zone Europe/Berlin"
)
def subscribe(
    account: Account,
    plan: Plan,
    time_zone: TimeZone = None,
    anchor: Anchor = None,
    id: Id = None,
    source: Source = DEFAULT_SOURCE,
    time: TimeOption = None,
    wait: Wait = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Begin a paid subscription, with a fresh billing cycle."""
    from usageledger.sdk.producer.events import account_subscribed

    fields = {"plan": plan, "time_zone": time_zone, "anchor": anchor}
    send_event(
        data,
        account_subscribed,
        wait=wait,
        as_json=as_json,
        occurred_at=time,
        account=account,
        id=id_or_new(id),
        source=source,
        **fields,
    )


@app.command(epilog="Example: usageledger account change-plan acct_4821 scale")
def change_plan(
    account: Account,
    plan: Plan,
    id: Id = None,
    source: Source = DEFAULT_SOURCE,
    time: TimeOption = None,
    wait: Wait = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Change the plan: an upgrade takes effect at once, a downgrade at the next renewal."""
    from usageledger.sdk.producer.events import account_plan_changed

    send_event(
        data,
        account_plan_changed,
        wait=wait,
        as_json=as_json,
        occurred_at=time,
        account=account,
        id=id_or_new(id),
        source=source,
        plan=plan,
    )


@app.command(epilog="Example: usageledger account cancel acct_4821")
def cancel(
    account: Account,
    effective: Annotated[
        Literal["period_end", "now"], typer.Option("--effective", help="When: now is for fraud.")
    ] = "period_end",
    id: Id = None,
    source: Source = DEFAULT_SOURCE,
    time: TimeOption = None,
    wait: Wait = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Cancel the subscription. The account falls back to what it had left of Free."""
    from usageledger.sdk.producer.events import account_cancelled

    send_event(
        data,
        account_cancelled,
        wait=wait,
        as_json=as_json,
        occurred_at=time,
        account=account,
        id=id_or_new(id),
        source=source,
        effective=effective,
    )


@app.command(epilog="Example: usageledger account suspend acct_4821 --reason payment_failed")
def suspend(
    account: Account,
    reason: Annotated[
        str,
        typer.Option(
            "--reason", help="A word or a few, such as payment_failed or fraud: apps are told it."
        ),
    ],
    note: Note = None,
    id: Id = None,
    source: Source = DEFAULT_SOURCE,
    time: TimeOption = None,
    wait: Wait = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Block an account, whatever it has left, until it is resumed.

    What it has goes on as before.
    """
    from usageledger.sdk.producer.events import account_suspended

    fields = {"reason": reason, "note": note}
    send_event(
        data,
        account_suspended,
        wait=wait,
        as_json=as_json,
        occurred_at=time,
        account=account,
        id=id_or_new(id),
        source=source,
        **fields,
    )


@app.command(epilog="Example: usageledger account resume acct_4821 --reason paid")
def resume(
    account: Account,
    reason: Annotated[str | None, typer.Option("--reason", help="What was settled.")] = None,
    note: Note = None,
    id: Id = None,
    source: Source = DEFAULT_SOURCE,
    time: TimeOption = None,
    wait: Wait = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """End an account's suspension. It is free again if something remains to it."""
    from usageledger.sdk.producer.events import account_resumed

    fields = {"reason": reason, "note": note}
    send_event(
        data,
        account_resumed,
        wait=wait,
        as_json=as_json,
        occurred_at=time,
        account=account,
        id=id_or_new(id),
        source=source,
        **fields,
    )


@app.command(epilog="Example: usageledger account set-thresholds acct_4821 0.5 0.9")
def set_thresholds(
    account: Account,
    shares: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SHARE]...",
            help="Shares of what a period has, ascending, each between 0 and 1.",
        ),
    ] = None,
    none: Annotated[
        bool, typer.Option("--none", help="Announce none: the limit itself alone.")
    ] = False,
    as_plan: Annotated[bool, typer.Option("--as-plan", help="Those of its plan again.")] = False,
    id: Id = None,
    source: Source = DEFAULT_SOURCE,
    time: TimeOption = None,
    wait: Wait = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Set the thresholds at which an account is announced.

    Nothing is announced by that; the next use that crosses one is.
    """
    from usageledger.sdk.producer.events import account_thresholds_set

    if [bool(shares), none, as_plan].count(True) != 1:
        raise typer.BadParameter("name the shares, or --none, or --as-plan: one of the three")
    thresholds = None if as_plan else shares or []
    send_event(
        data,
        account_thresholds_set,
        wait=wait,
        as_json=as_json,
        occurred_at=time,
        account=account,
        id=id_or_new(id),
        source=source,
        thresholds=thresholds,
    )


@app.command(
    epilog='Example: usageledger account grant acct_4821 50 --reason "apology for the outage" '
    "--expires-at 2027-01-01"
)
def grant(
    account: Account,
    credits: Annotated[str, typer.Argument(help="A decimal above 0, such as 50 or 0.5.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the ledger.")],
    expires_at: Annotated[
        datetime | None,
        typer.Option(
            "--expires-at",
            metavar="TIME",
            parser=parse_time,
            help="Usable before this (default: until used).",
        ),
    ] = None,
    id: Id = None,
    source: Source = DEFAULT_SOURCE,
    time: TimeOption = None,
    wait: Wait = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Give an account credits, on top of its plan's."""
    from usageledger.sdk.producer.events import credits_granted

    fields = {"credits": credits, "reason": reason, "expires_at": expires_at}
    send_event(
        data,
        credits_granted,
        wait=wait,
        as_json=as_json,
        occurred_at=time,
        account=account,
        id=id_or_new(id),
        source=source,
        **fields,
    )


def _plain(found: AccountBalance) -> dict[str, Any]:
    import msgspec

    balance: dict[str, Any] = msgspec.to_builtins(found.balance)
    return balance | {
        "held": found.held,
        "open_holds": found.open_holds,
        "at": found.at,
        "as_of": found.verified_at,
    }


def _print(found: AccountBalance) -> None:
    from rich.markup import escape

    from usageledger.domain.credits import format_credits, parse_credits

    balance, out = found.balance, terminal.results()
    plan = balance.plan + (
        f", {balance.next_plan} from the next renewal" if balance.next_plan else ""
    )
    why = "" if balance.suspended is None else f": suspended ({escape(balance.suspended)})"
    state = f"[red]blocked[/red]{why}" if balance.blocked else "[green]open[/green]"
    out.print(
        f"[bold]{escape(balance.account)}[/bold] · {escape(plan)} · {state}"
        + ("" if balance.known else " · the ledger has not met it yet")
    )
    if balance.period.start is not None:
        start, end = (
            terminal.moment(balance.period.start),
            terminal.moment(balance.period.end, "no end"),
        )
        out.print(f"period {start} to {end}, seen at {terminal.moment(found.at)}")
    given = parse_credits(balance.allotment) + parse_credits(balance.granted)
    filled = (
        0
        if given <= 0
        else min(BAR_WIDTH, max(0, BAR_WIDTH * parse_credits(balance.used) // given))
    )
    out.print(
        f"[{'red' if balance.blocked else 'cyan'}]{'█' * filled}[/]{'░' * (BAR_WIDTH - filled)} "
        f"{balance.used} used"
    )
    out.print(
        f"{balance.allotment} allotment + {balance.granted} granted - {balance.used} used = "
        f"[bold]{balance.remaining} remaining[/bold]"
    )
    if found.held is not None and found.open_holds:
        holds = "an open hold" if found.open_holds == 1 else f"{found.open_holds} open holds"
        available = format_credits(parse_credits(balance.remaining) - parse_credits(found.held))
        out.print(f"{found.held} held by {holds}: {available} available")
    if balance.thresholds:
        out.print(f"announced at {', '.join(balance.thresholds)} of what it has")
    if balance.by_feature:
        terminal.print_table(
            ("feature", "credits"), sorted(balance.by_feature.items()), right=("credits",)
        )
    if found.verified_at is not None:
        terminal.warn(
            f"as of {terminal.moment(found.verified_at)}: the processor has not confirmed the "
            "counters since"
        )
