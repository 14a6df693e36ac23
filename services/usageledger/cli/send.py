"""send: sends a file of events, each to its topic."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data, connection

if TYPE_CHECKING:
    from usageledger.operations.record_sender import SendReport

NOT_SENT_SHOWN = 20


def add_to(app: typer.Typer) -> None:
    """Add this command to an app."""
    app.command("send", epilog="Example: usageledger send events.ndjson")(send)


def send(
    file: Annotated[
        str, typer.Argument(metavar="FILE|-", help="One CloudEvent per line; - is stdin.")
    ],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Send usage and account events in order, and wait until Kafka has them.

    Every line is sent. The ledger refuses those that are no valid events (see `usageledger refusals
    list`). In import mode each record bears its event's own time. Events are decided in the order
    of the file, so put usage and account events into one file, sorted by when they became known. A
    line that is earlier than the lines before it counts as late.
    """
    from usageledger.log.reading import log_reader
    from usageledger.operations.event_file import outgoing_records
    from usageledger.operations.ledger_entries import ledger_partitions
    from usageledger.operations.record_sender import kafka_connector, send_records
    from usageledger.operations.topics import is_importing

    settings = connection(data)
    with ExitStack() as stack:
        lines = _Lines(
            stack.enter_context(Path(file).open("rb")) if file != "-" else sys.stdin.buffer
        )
        importing = is_importing(settings.kafka, settings.prefix)
        with log_reader(settings.kafka) as reader:
            partition_count = len(ledger_partitions(reader, settings.prefix))
        total = Path(file).stat().st_size if file != "-" else None
        done = stack.enter_context(terminal.counting("sending", total, is_bytes=True))
        records = outgoing_records(lines, partition_count=partition_count, importing=importing)
        report = send_records(
            records,
            kafka_connector(settings.kafka, settings.prefix),
            lambda record: done(lines.bytes_read, total),
        )
    _print_report(report, as_json)
    if report.not_sent:
        raise typer.Exit(1)


class _Lines:
    """The lines of a file, and how many bytes of it have been read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.bytes_read = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self._file:
            self.bytes_read += len(line)
            yield line


def _print_report(report: SendReport, as_json: bool) -> None:
    from usageledger.operations.event_file import NO_EVENT

    by_type = dict(sorted(report.sent.items()))
    if as_json:
        not_sent = [{"line": line.line, "why": line.why} for line in report.not_sent]
        terminal.print_json({"sent": report.sent.total(), "by_type": by_type, "not_sent": not_sent})
        return
    counts = ", ".join(f"{count:,} {name}" for name, count in by_type.items() if name != NO_EVENT)
    unknown = report.sent[NO_EVENT]
    if unknown:
        known = f"{counts}, " if counts else ""
        counts = f"{known}{unknown:,} of no type that the ledger knows, which it will refuse"
    terminal.say(f"sent {report.sent.total():,}{': ' if counts else ''}{counts}")
    for line in report.not_sent[:NOT_SENT_SHOWN]:
        typer.echo(f"usageledger: line {line.line} was not sent: {line.why}", err=True)
    if len(report.not_sent) > NOT_SENT_SHOWN:
        typer.echo(
            f"usageledger: and {len(report.not_sent) - NOT_SENT_SHOWN:,} more lines were not sent",
            err=True,
        )
