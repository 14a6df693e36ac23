"""The output of commands: results go to stdout, progress and warnings to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from usageledger.runtime.redaction import redacted

WIDTH_WITHOUT_TERMINAL = 180


def results() -> Console:
    """The console of results. Made for each use, as tests and pipes replace stdout."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL, highlight=False)


def notices() -> Console:
    """The console of progress and warnings."""
    return Console(
        stderr=True, width=None if sys.stderr.isatty() else WIDTH_WITHOUT_TERMINAL, highlight=False
    )


def print_json(value: Any) -> None:
    """Print one JSON value on a line of its own, and flush."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Print one line of a result, unchanged, and flush."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print one line on stderr."""
    notices().print(escape(redacted(text)), style="dim", soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    notices().print(f"[yellow]warning:[/yellow] {escape(redacted(text))}", soft_wrap=True)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    title: str | None = None,
) -> None:
    """Print a table. ``right`` names the columns that are aligned to the right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    results().print(table)


def time_text(at: datetime | None, otherwise: str = "–") -> str:
    """A time in UTC, to the second, for people to read."""
    return (
        otherwise
        if at is None
        else f"{at.replace(tzinfo=None).isoformat(sep=' ', timespec='seconds')}Z"
    )


@contextmanager
def counting(
    what: str, total: int | None, *, is_bytes: bool = False
) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on a terminal; elsewhere nothing is shown.

    Yields a function to call with how much is done, and of how much.
    """
    counts = (DownloadColumn(), TransferSpeedColumn()) if is_bytes else (MofNCompleteColumn(),)
    console = notices()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *counts,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(what, total=total)

        def done(completed: int, of: int | None) -> None:
            progress.update(task, completed=completed, total=of)

        yield done


class TerminalProgress:
    """Shows on stderr what the stack is doing, as a `usageledger.local.progress.Progress`."""

    def __init__(self) -> None:
        self._console = notices()

    def say(self, message: str) -> None:
        self._console.print(escape(redacted(message)), style="dim", soft_wrap=True)

    def warn(self, message: str) -> None:
        self._console.print(
            f"[yellow]warning:[/yellow] {escape(redacted(message))}", soft_wrap=True
        )

    @contextmanager
    def fetching(self, what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        if not self._console.is_terminal:
            self.say(f"fetching {what}, {total_bytes / 1_000_000:.0f} MB")
            yield lambda count: None
            return
        columns = (
            TextColumn("fetching {task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(what, total=total_bytes)
            yield lambda count: progress.advance(task, count)
