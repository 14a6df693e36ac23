"""service: runs one service in this process, for the stack's supervisor or your own."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from usageledger.runtime.redaction import redacted

if TYPE_CHECKING:
    from usageledger.limits.announcer import PartitionHealth
    from usageledger.runtime.settings import Settings
    from usageledger.runtime.telemetry import Telemetry

# On a busy machine the gateway goes before the processor, as somebody waits for its answer. The
# history comes last: its pages say how old they are. At 5,000 events/s on two cores, 99 % of checks
# took at most 3.6 ms; with equal niceness it was 5.1 ms.
_NICENESS = {"processor": 5, "limits": 5, "history": 15}

# The files of a service are for its own user alone.
PRIVATE_UMASK = 0o077

log = logging.getLogger(__name__)


def add_to(app: typer.Typer) -> None:
    """Add this command to an app."""
    app.command("service", epilog="Example: usageledger service processor")(service)


def service(
    name: Annotated[
        Literal["processor", "limits", "history", "gateway"],
        typer.Argument(help="The service to run."),
    ],
) -> None:
    """Run one service until SIGTERM or SIGINT.

    Exit code 0 after a signal, 1 after an error, which is logged.
    """
    from usageledger.log.diagnosis import LastProblem
    from usageledger.runtime.settings import Settings, TelemetrySettings
    from usageledger.runtime.telemetry import serve_telemetry

    os.umask(PRIVATE_UMASK)
    _log_to_stderr()
    settings = Settings.find()
    os.nice(_NICENESS.get(name, 0))
    address = TelemetrySettings()
    with serve_telemetry(
        name, host=address.host, port=address.port, obstacle=LastProblem(settings.kafka)
    ) as telemetry:
        if name == "processor":
            _run_processor(settings, telemetry)
        elif name == "limits":
            _run_limits(settings, telemetry)
        elif name == "history":
            _run_history(settings, telemetry)
        else:
            _run_gateway(settings, telemetry)


def _run_processor(settings: Settings, telemetry: Telemetry) -> None:
    from usageledger.counters.server_check import ServerUnfit
    from usageledger.log.reading import LogUnreadable
    from usageledger.processor.service import LedgerMissing, run_processor
    from usageledger.runtime.process import run_process

    run_process(
        lambda stop: run_processor(
            kafka=settings.kafka,
            redis_url=settings.redis_url,
            prefix=settings.prefix,
            stop=stop,
            on_health=lambda health: telemetry.update(health.report()),
        ),
        explained=(LedgerMissing, LogUnreadable, ServerUnfit),
    )


def _run_gateway(settings: Settings, telemetry: Telemetry) -> None:
    from usageledger.gateway.serving import GatewayOptions, LedgerMissing, run_gateway
    from usageledger.gateway.webhooks.addresses import Destinations
    from usageledger.log.reading import LogUnreadable
    from usageledger.runtime.process import run_process
    from usageledger.runtime.settings import GatewaySettings

    own = GatewaySettings()
    options = GatewayOptions(
        kafka=settings.kafka,
        redis_url=settings.redis_url,
        prefix=settings.prefix,
        data=settings.data / "gateway",
        host=own.host,
        port=own.port,
        key=None if own.key is None else own.key.get_secret_value(),
        webhook_destinations=Destinations(own.webhook_reach, own.allowed_webhook_ports),
        trusted_proxies=own.proxy_networks,
        connections_per_address=own.connections_per_address,
        certificate=own.certificate,
        allowed_origins=tuple(
            origin.strip() for origin in own.allowed_origins.split(",") if origin.strip()
        ),
    )
    run_process(
        lambda stop: run_gateway(options, stop, telemetry),
        explained=(LedgerMissing, LogUnreadable),
    )


def _run_limits(settings: Settings, telemetry: Telemetry) -> None:
    from usageledger.limits.announcer import LimitsError
    from usageledger.limits.consumer import run_limits
    from usageledger.log.reading import LogUnreadable
    from usageledger.runtime.process import run_threaded_process

    run_threaded_process(
        lambda stop: run_limits(
            kafka=settings.kafka,
            prefix=settings.prefix,
            stop=stop,
            on_health=_log_health,
            on_report=telemetry.update,
        ),
        explained=(LimitsError, LogUnreadable),
    )


def _run_history(settings: Settings, telemetry: Telemetry) -> None:
    from usageledger.history.service import run_history
    from usageledger.history.tables import HISTORY_FILE
    from usageledger.log.reading import LogUnreadable
    from usageledger.runtime.process import run_process

    # While a broker is away, aiokafka would log that ten times a second. The service logs it every
    # now and then.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    run_process(
        lambda stop: run_history(
            kafka=settings.kafka,
            prefix=settings.prefix,
            path=settings.data / "gateway" / HISTORY_FILE,
            stop=stop,
            on_health=lambda health: telemetry.update(health.report()),
        ),
        explained=(LogUnreadable,),
    )


class _RedactingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def _log_health(health: Mapping[int, PartitionHealth]) -> None:
    by_state: dict[str, list[int]] = {}
    for partition, found in sorted(health.items()):
        by_state.setdefault(
            f"{found.state} ({found.detail})" if found.detail else found.state, []
        ).append(partition)
    states = "; ".join(
        f"{state}: {', '.join(map(str, partitions))}" for state, partitions in by_state.items()
    )
    log.info("partitions %s", states or "none assigned")


def _log_to_stderr() -> None:
    """Log one line per message: time (UTC), level, logger, message.

    Repeats are counted, and secrets are redacted.
    """
    from usageledger.runtime.log_lines import CountedRepeats

    formatter = _RedactingFormatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = CountedRepeats(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("kafka").setLevel(logging.WARNING)
