"""Shows the demo: a live table on a terminal, a line every few seconds elsewhere, the verdict."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from textwrap import fill
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from usageledger.domain.credits import format_credits
from usageledger.local.addresses import Addresses
from usageledger.local.demo.customer import Tally
from usageledger.local.demo.result import DemoResult
from usageledger.local.demo.workload import ACCOUNTS
from usageledger.operations.audit_verdict import verdict_line
from usageledger.runtime.redaction import redacted

LINE_EVERY_S = 5.0
VERDICT_COLUMNS = 100
"""Where the audit's verdict wraps, with its label."""


class Screen:
    """Shows the demo to one viewer. It is also the stack's `Progress`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._began = time.monotonic()
        self._line_at = 0.0
        self._before = (time.monotonic(), 0)

    def say(self, message: str) -> None:
        self._console.print(f"[dim]{escape(message)}[/]")

    def warn(self, message: str) -> None:
        self._console.print(f"[yellow]{escape(message.splitlines()[0])}[/]", soft_wrap=True)

    @contextmanager
    def fetching(self, what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(f"fetching {what}", total=total_bytes)
            yield lambda count: progress.advance(task, count)

    def show_addresses(self, status: dict[str, Any], addresses: Addresses) -> None:
        """Show where the stack's servers are, and the workload."""
        descriptions = status.get("took", {})
        self._console.print(
            f"Kafka [bold]{addresses.kafka}[/] ({escape(descriptions.get('kafka', 'given'))})"
        )
        redis = escape(redacted(addresses.redis_url))
        self._console.print(
            f"Redis [bold]{redis}[/] ({escape(descriptions.get('redis', 'given'))})"
        )
        self._console.print(
            f"19,366 requests of a real LLM service (Azure, 2023) become usage of {ACCOUNTS} "
            "accounts;\na rule of ours chooses account and feature"
        )

    def show_pages(self, gateway: str, account: str, key: str) -> None:
        """Show the addresses of the pages on which a viewer can follow the demo.

        The key is shown on a terminal only: elsewhere, it would stay in a log.
        """
        self._console.print(f"console      [bold]{gateway}/console[/]", soft_wrap=True)
        self._console.print(
            f"usage meter  [bold]{gateway}/accounts/{account}/meter[/]", soft_wrap=True
        )
        shown = key if self._console.is_terminal else redacted(key)
        self._console.print(f"sign in with [bold]{shown}[/]", soft_wrap=True)

    def show_fault(self, what: str) -> None:
        """Show a fault that the demo is about to cause."""
        self._console.print(f"[bold red]{escape(what)}[/]")

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show a live table while in this context, if the console is a terminal."""
        self._began = time.monotonic()
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=4) as self._live:
            yield
        self._live = None

    def show_figures(self, tally: Tally, lag: int) -> None:
        """Show the figures of now. ``lag`` is the number of records that wait for a decision."""
        now = time.monotonic()
        rate = (tally.generations - self._before[1]) / max(0.001, now - self._before[0])
        self._before = (now, tally.generations)
        figures = _figures(tally, lag, rate)
        if self._live is not None:
            self._live.update(_table(figures))
        elif now - self._line_at >= LINE_EVERY_S:
            self._line_at = now
            self._console.print(
                f"{now - self._began:3.0f} s  "
                + "  ".join(f"{name} {value}" for name, value in figures)
            )

    def show_verdict(self, result: DemoResult) -> None:
        """Show the totals, the meters and the audit's verdict."""
        tally = result.tally
        self._console.print()
        charged = Decimal(format_credits(sum(tally.generated.values())))
        self._console.print(f"{tally.generations:,} generations were charged {charged:,} credits")
        self._console.print(
            f"{tally.blocked} times an account ran out and was stopped, which held back "
            f"{tally.held_back:,} more generations;\n"
            f"{len(tally.upgraded)} upgrades freed {tally.freed}"
        )
        if tally.delays_ms:
            ordered = sorted(tally.delays_ms)
            self._console.print(
                "from the crossing generation to the app's handler: median "
                f"{ordered[len(ordered) // 2]:.0f} ms,"
                f" 99 of 100 within {ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]:.0f} "
                "ms"
            )
        right = (
            f"WRONG: {', '.join(result.meters_wrong[:5])}"
            if result.meters_wrong
            else f"all {ACCOUNTS} meters equal the count of the workers"
        )
        self._console.print(f"meters: [bold]{right}[/]")
        colour = "green" if result.is_right else "red"
        label = "audit:  "
        line = f"{label}{verdict_line(result.report)}"
        wrapped = fill(
            line, VERDICT_COLUMNS, subsequent_indent=" " * len(label), break_on_hyphens=False
        )
        verdict = wrapped.removeprefix(label)
        self._console.print(f"{label}[bold {colour}]{escape(verdict)}[/]", soft_wrap=True)

    def wait_for_viewer(self) -> None:
        """Wait until a viewer at a terminal presses Enter. Without a terminal, return at once."""
        if self._console.is_terminal and sys.stdin.isatty():
            self._console.print("the console and the meter stay until you press Enter")
            sys.stdin.readline()


def _figures(tally: Tally, lag: int, rate: float) -> list[tuple[str, str]]:
    return [
        ("generations", f"{tally.generations:,}"),
        ("rate", f"{rate:,.0f}/s"),
        ("undecided", f"{lag:,}"),
        ("warned", f"{tally.warned:,}"),
        ("ran out", f"{tally.blocked:,}"),
        ("freed", f"{tally.freed:,}"),
        ("held back", f"{tally.held_back:,}"),
    ]


def _table(figures: list[tuple[str, str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name, _ in figures:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(*(f"[bold]{value}[/]" for _, value in figures))
    return table
