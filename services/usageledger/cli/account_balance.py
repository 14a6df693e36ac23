"""How `account show` prints a balance: for people, and as one JSON object for programs."""

from __future__ import annotations

from typing import Any

from usageledger.accounts.queries import AccountBalance
from usageledger.cli import terminal
from usageledger.domain.balance import Balance
from usageledger.domain.credits import format_credits
from usageledger.domain.quantity import format_quantity

BAR_WIDTH = 40


def balance_document(found: AccountBalance, *, with_holds: bool) -> dict[str, Any]:
    """The balance as a JSON object. Credits and shares are decimal strings.

    ``with_holds`` is False for a balance of another time than now: its holds are not known.
    """
    balance = found.balance
    return {
        "account": balance.account,
        "known": balance.is_known,
        "plan": balance.plan.id,
        "next_plan": balance.state.next_plan,
        "period": {
            # The period of an account that the ledger does not know has not begun.
            "start": balance.period.start if balance.is_known else None,
            "end": balance.period.end,
        },
        "allotment": format_credits(balance.allotment),
        "granted": format_credits(balance.granted),
        "used": format_credits(balance.used),
        "remaining": format_credits(balance.remaining),
        "blocked": balance.is_blocked,
        "suspended": balance.suspended,
        "thresholds": [format_quantity(share) for share in balance.thresholds],
        "by_feature": {
            feature: format_credits(credits) for feature, credits in balance.by_feature.items()
        },
        "held": format_credits(balance.held) if with_holds else None,
        "open_holds": balance.open_holds if with_holds else None,
        "at": balance.at,
        "as_of": found.verified_at,
    }


def print_balance(found: AccountBalance) -> None:
    """Print the balance for people, and a warning if the counters are not up to date."""
    balance, out = found.balance, terminal.results()
    out.print(_headline(balance))
    if balance.is_known:
        start = terminal.time_text(balance.period.start)
        end = terminal.time_text(balance.period.end, "no end")
        out.print(f"period {start} to {end}, seen at {terminal.time_text(balance.at)}")
    used, remaining = format_credits(balance.used), format_credits(balance.remaining)
    allotment, granted = format_credits(balance.allotment), format_credits(balance.granted)
    out.print(f"{_bar(balance)} {used} used")
    out.print(
        f"{allotment} allotment + {granted} granted - {used} used = "
        f"[bold]{remaining} remaining[/bold]"
    )
    if balance.open_holds:
        holds = "an open hold" if balance.open_holds == 1 else f"{balance.open_holds} open holds"
        held, available = format_credits(balance.held), format_credits(balance.available)
        out.print(f"{held} held by {holds}: {available} available")
    if balance.thresholds:
        shares = ", ".join(format_quantity(share) for share in balance.thresholds)
        out.print(f"thresholds: {shares} of used + remaining")
    if balance.by_feature:
        rows = [
            (feature, format_credits(credits)) for feature, credits in balance.by_feature.items()
        ]
        terminal.print_table(("feature", "credits"), rows, right=("credits",))
    if found.verified_at is not None:
        terminal.warn(
            f"as of {terminal.time_text(found.verified_at)}: the processor has not confirmed the "
            "counters since"
        )


def _headline(balance: Balance) -> str:
    from rich.markup import escape

    next_plan = balance.state.next_plan
    plan = balance.plan.id + (f", {next_plan} from the next renewal" if next_plan else "")
    why = "" if balance.suspended is None else f": suspended ({escape(balance.suspended)})"
    state = f"[red]blocked[/red]{why}" if balance.is_blocked else "[green]open[/green]"
    return f"[bold]{escape(balance.account)}[/bold] · {escape(plan)} · {state}" + (
        "" if balance.is_known else " · the ledger has no entry of it yet"
    )


def _bar(balance: Balance) -> str:
    given = balance.allotment + balance.granted
    filled = 0 if given <= 0 else min(BAR_WIDTH, max(0, BAR_WIDTH * balance.used // given))
    color = "red" if balance.is_blocked else "cyan"
    return f"[{color}]{'█' * filled}[/]{'░' * (BAR_WIDTH - filled)}"
