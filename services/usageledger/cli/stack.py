"""up, down, status, go-live, wait-idle: the one-machine stack."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data, connection, now, stack_directory
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.runtime.redaction import has_password, redacted

if TYPE_CHECKING:
    from usageledger.counters.view import ViewError
    from usageledger.local.addresses import Addresses
    from usageledger.operations.lags import LedgerLags
    from usageledger.operations.partition_states import PartitionState

NOTE_EVERY_S = 5.0
LAG_TIMEOUT_MS = 5_000


def add_to(app: typer.Typer) -> None:
    """Add these commands to an app."""
    for command, name, example in (
        (up, "up", "usageledger up --data ./ledger"),
        (down, "down", "usageledger down --data ./ledger"),
        (status, "status", "usageledger status --json"),
        (go_live, "go-live", "usageledger go-live"),
        (wait_idle, "wait-idle", "usageledger wait-idle --timeout 60"),
    ):
        app.command(name, epilog=f"Example: {example}")(command)


def _without_password(
    context: typer.Context, option: typer.CallbackParam, url: str | None
) -> str | None:
    """Refuse a password among the arguments, which every user of the machine can read."""
    source = context.get_parameter_source(option.name or "")
    is_argument = source is not None and source.name == "COMMANDLINE"
    if url and is_argument and has_password(url):
        raise typer.BadParameter(
            "every user of this machine can read a command's arguments: give an address with a "
            "password in the variable USAGELEDGER_REDIS_URL"
        )
    return url


KafkaOption = Annotated[
    str | None,
    typer.Option(
        "--kafka",
        metavar="HOST:PORT",
        envvar="USAGELEDGER_KAFKA",
        help="Use this broker instead of starting one.",
    ),
]
RedisOption = Annotated[
    str | None,
    typer.Option(
        "--redis",
        metavar="URL",
        envvar="USAGELEDGER_REDIS_URL",
        help="Use this Redis instead of starting one. A password belongs in the variable.",
        callback=_without_password,
    ),
]
BackendOption = Annotated[
    Literal["packages", "docker"],
    typer.Option(
        "--backend", help="Run Kafka and Redis from Python and Maven packages, or in containers."
    ),
]
PrefixOption = Annotated[
    str,
    typer.Option(
        "--prefix",
        envvar="USAGELEDGER_PREFIX",
        help="The ledger's name, if several share one Kafka and one Redis.",
    ),
]
PortOption = Annotated[
    int | None,
    typer.Option(
        "--port",
        metavar="N",
        min=1,
        max=65_535,
        help="Where the gateway listens (default: a free port).",
    ),
]


PartitionsOption = Annotated[
    int | None,
    typer.Option(
        "--partitions",
        metavar="N",
        min=1,
        help="How many partitions a new ledger gets (default: as its topics that exist, else 8).",
    ),
]


SecureOption = Annotated[
    bool,
    typer.Option(
        "--secure",
        help="Kafka with TLS, users and rights, and Redis with users: one for each service.",
    ),
]


def up(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Where the data is kept (default: .usageledger)."
        ),
    ] = None,
    kafka: KafkaOption = None,
    redis: RedisOption = None,
    backend: BackendOption = "packages",
    importing: Annotated[
        bool,
        typer.Option(
            "--import", help="Import mode: events keep their own dates until `usageledger go-live`."
        ),
    ] = False,
    detach: Annotated[
        bool,
        typer.Option("--detach", help="Return once everything is up. `usageledger down` ends it."),
    ] = False,
    prefix: PrefixOption = "",
    partitions: PartitionsOption = None,
    port: PortOption = None,
    secure: SecureOption = False,
    as_json: AsJson = False,
) -> None:
    """Start Kafka, Redis and the services on this machine, and run them until Ctrl-C.

    The services are the processor, limits, the history and the gateway.
    """
    from usageledger.local.daemon import start_detached
    from usageledger.local.stack import Stack

    directory, progress = stack_directory(data).resolve(), terminal.TerminalProgress()
    if detach:
        command = _up_words(directory, kafka, backend, importing, secure, prefix, partitions, port)
        addresses = start_detached(
            command,
            directory,
            progress,
            fetch=backend == "packages" and kafka is None,
            environment={"USAGELEDGER_REDIS_URL": redis} if redis else None,
        )
        where = "" if data is None else f" --data {shlex.quote(str(data))}"
        _print_ready(addresses, as_json, f"`usageledger down{where}` ends it")
        return
    stack = Stack(
        directory,
        kafka=None if kafka is None else KafkaConnection.from_environment(kafka),
        redis=redis,
        backend=backend,
        importing=importing,
        prefix=prefix,
        partitions=partitions,
        port=port,
        secure=secure,
        prepare=_publish_shipped_catalog,
    )
    stack.run(progress, lambda addresses: _print_ready(addresses, as_json, "Ctrl-C ends it"))
    terminal.note("everything has ended, the data stays")


def down(data: Data = None) -> None:
    """End the stack that runs in a directory. Its data stays there."""
    from usageledger.local.daemon import stop_stack

    directory = stack_directory(data)
    stop_stack(directory)
    terminal.say(f"stopped; the data stays in {directory}")


def status(data: Data = None, as_json: AsJson = False) -> None:
    """Show what each server, service and partition is doing, and how far it is behind.

    A partition is running/idle, running/behind, catching_up, waiting_for_a_catalog,
    waiting_for_redis or stopped (with the reason), claiming, no_owner, or unknown if Redis refuses
    the owners' reports.
    """
    from usageledger.local.daemon import read_status

    found = read_status(stack_directory(data))
    ledger = _ledger_status(found)
    for service in found["services"]:
        service["lag"] = ledger.lags.get(service["name"])
    if found["state"] == "running":
        found["partitions"] = [partition.plain() for partition in ledger.partitions]
        found["partition_counts_differ"] = ledger.difference
        found["redis_trouble"] = ledger.redis_trouble
    if as_json:
        terminal.print_json(found)
        return
    where = (
        f"kafka {found['kafka']} · redis {found['redis']} · "
        if "kafka" in found and "redis" in found
        else ""
    )
    terminal.say(f"{found['state']} · {where}data {found['data']}")
    columns = ("name", "state", "pid", "restarts", "lag", "what")
    rows = [_status_row(service) for service in found["services"]]
    if rows:
        terminal.print_table(columns, rows, right=("pid", "restarts", "lag"))
    _print_partitions(ledger.partitions)
    if ledger.difference is not None:
        terminal.warn(ledger.difference)
    if ledger.redis_trouble is not None and ledger.partitions:
        terminal.warn(ledger.redis_trouble["what"])


def go_live(data: Data = None) -> None:
    """End import mode for good: from now on Kafka dates each event as it arrives."""
    from usageledger.operations import topics

    settings = connection(data)
    has_changed = topics.go_live(settings.kafka, settings.prefix)
    terminal.say(
        "the ledger is live: Kafka dates each event as it arrives"
        if has_changed
        else "the ledger was live already"
    )


def wait_idle(
    data: Data = None,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout", metavar="S", min=0, help="Give up after this many seconds."),
    ] = None,
) -> None:
    """Wait until every input is decided and every limit event is written.

    Gives up, with exit code 1, when nothing has moved for two minutes.
    """
    from usageledger.log.topics import Topics
    from usageledger.operations.audit_verdict import uncovered_line
    from usageledger.operations.idleness import STALLED_AFTER_S, wait_until_idle
    from usageledger.operations.lags import lag_reader

    settings = connection(data)
    notes = _WaitNotes()
    began_s = time.monotonic()
    with lag_reader(settings.kafka, settings.redis_url, settings.prefix) as reader:
        lags = wait_until_idle(reader.look, timeout_s, notes.note)
    if lags.is_idle:
        terminal.say("idle: every input is decided, every limit event written")
        return
    waited_s = time.monotonic() - began_s
    why = (
        f"not idle after {waited_s:.0f} s"
        if timeout_s is not None and waited_s >= timeout_s
        else f"nothing moved for {STALLED_AFTER_S:.0f} s"
    )
    uncovered = lags.uncovered(Topics(settings.prefix))
    for line in (
        f"usageledger: {why}; see `usageledger status`",
        *([f"usageledger: {uncovered_line(uncovered)}"] if uncovered else []),
        *([f"usageledger: {lags.difference}"] if lags.difference else []),
        *(f"  {lag}" for lag in lags.waiting),
    ):
        typer.echo(line, err=True)
    raise typer.Exit(1)


class _WaitNotes:
    """Notes on stderr that say what is waited for: at once, then every few seconds."""

    def __init__(self) -> None:
        self._next_at_s = 0.0

    def note(self, lags: LedgerLags) -> None:
        if lags.is_idle or time.monotonic() < self._next_at_s:
            return
        self._next_at_s = time.monotonic() + NOTE_EVERY_S
        inputs, limits = lags.records("usage", "account", "catalog"), lags.records("limits")
        terminal.note(
            f"waiting: {inputs:,} inputs to decide, {limits:,} ledger records to announce"
        )


def _up_words(
    directory: Path,
    kafka: str | None,
    backend: str,
    importing: bool,
    secure: bool,
    prefix: str,
    partitions: int | None,
    port: int | None,
) -> list[str]:
    options = [
        ("--kafka", kafka),
        ("--prefix", prefix),
        ("--partitions", str(partitions or "")),
        ("--port", str(port or "")),
    ]
    given = [word for option, value in options if value for word in (option, value)]
    command = [
        sys.executable,
        "-m",
        "usageledger.cli",
        "up",
        "--data",
        str(directory),
        "--backend",
        backend,
        *given,
    ]
    flags = [("--import", importing), ("--secure", secure)]
    return [*command, *(flag for flag, is_set in flags if is_set)]


def _publish_shipped_catalog(addresses: Addresses) -> None:
    from usageledger.operations.catalogs import publish_shipped

    publish_shipped(addresses.kafka, addresses.prefix, now())


def _print_ready(addresses: Addresses, as_json: bool, ending: str) -> None:
    from usageledger.local.daemon import read_status

    redis = redacted(addresses.redis_url)
    descriptions = read_status(addresses.data).get("took", {})
    if as_json:
        found = {
            "kafka": str(addresses.kafka),
            "redis": redis,
            "data": str(addresses.data),
            "prefix": addresses.prefix,
            "gateway": addresses.gateway,
            "took": descriptions,
        }
        terminal.print_json(found)
        return
    for name, description in descriptions.items():
        terminal.say(f"{name}: {description}")
    terminal.say(
        f"gateway {addresses.gateway} · `usageledger env` prints its key and Redis's address"
    )
    terminal.say(
        f"ready: kafka {addresses.kafka} · redis {redis} · data {addresses.data} ({ending})"
    )


class _LedgerStatus(NamedTuple):
    """The lag of each service, the state of each partition, and what is wrong with the ledger."""

    lags: Mapping[str, int | None] = {}
    partitions: Sequence[PartitionState] = ()
    difference: str | None = None
    """How the topics' partition counts differ from the ledger's."""
    redis_trouble: Mapping[str, str] | None = None
    """The cause for which Redis does not do what it is asked, and a sentence that says more."""


def _ledger_status(found: dict[str, Any]) -> _LedgerStatus:
    """The status of a running stack's ledger.

    It is empty, with a warning, where it cannot be read: a broken broker must not keep the rest of
    the status from being shown.
    """
    if found["state"] != "running":
        return _LedgerStatus()
    from kafka.errors import KafkaError

    from usageledger.counters.view import ViewError
    from usageledger.local.gateway_files import history_file
    from usageledger.operations.errors import OperatorError
    from usageledger.operations.lags import history_lag, lag_reader, service_lags
    from usageledger.operations.partition_states import partition_states
    from usageledger.operations.reachability import require_listener
    from usageledger.runtime.kafka_connection import KafkaConnectionError
    from usageledger.runtime.settings import stack_redis_url

    try:
        kafka = KafkaConnection.from_json(found["kafka_connection"])
        require_listener(kafka)
        with lag_reader(
            kafka,
            stack_redis_url(Path(found["data"])),
            found.get("prefix", ""),
            timeout_ms=LAG_TIMEOUT_MS,
        ) as reader:
            lags = reader.look()
            history = history_lag(lags, found.get("prefix", ""), history_file(Path(found["data"])))
            refusal = reader.redis_refusal()
            return _LedgerStatus(
                service_lags(lags) | {"history": history},
                partition_states(lags, reader.owner_reports(), refusal),
                lags.difference,
                _redis_trouble(refusal),
            )
    except (KafkaError, KafkaConnectionError, ViewError, OperatorError) as error:
        terminal.warn(f"the lags and the partitions' states cannot be read: {error}")
        return _LedgerStatus(
            redis_trouble=_redis_trouble(error) if isinstance(error, ViewError) else None
        )


def _redis_trouble(error: ViewError | None) -> Mapping[str, str] | None:
    if error is None or error.cause is None:
        return None
    return {"cause": error.cause, "what": str(error)}


def _print_partitions(partitions: Sequence[PartitionState]) -> None:
    """Print how many partitions are idle, and a row for each that is not."""
    busy = [partition for partition in partitions if partition.name != "running/idle"]
    idle = len(partitions) - len(busy)
    if partitions:
        terminal.say(f"partitions: {len(partitions)}, {idle} of them idle")
    if busy:
        rows = [
            (str(each.partition), each.name, f"{each.undecided:,}", each.detail) for each in busy
        ]
        terminal.print_table(
            ("partition", "state", "lag", "what"), rows, right=("partition", "lag")
        )


def _status_row(service: dict[str, Any]) -> tuple[str, ...]:
    pid, lag = service["pid"], service["lag"]
    return (
        service["name"],
        service["state"],
        "–" if pid is None else str(pid),
        str(service["restarts"]),
        "–" if lag is None else f"{lag:,}",
        service.get("description", ""),
    )
