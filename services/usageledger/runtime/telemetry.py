"""Telemetry of a service, at a port of its own: ``/healthz``, ``/readyz`` and ``/metrics``.

A thread beside the service serves its last report. A service that hangs therefore looks as it did
last: only its figures show whether it makes progress.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

METRICS_PREFIX = "usageledger"
REQUEST_WITHIN_S = 5.0

log = logging.getLogger(__name__)


class Figure(NamedTuple):
    """One metric of a service.

    ``name`` is without ``usageledger_`` and the service's name. ``values`` are by the value of
    ``label``; without a label there is one value, under "". A total never falls while its process
    lives.
    """

    name: str
    description: str
    values: Mapping[str, float]
    label: str | None = None
    is_total: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """How a service is doing.

    ``unready`` says why it does not do its work; it is empty if it does. ``degraded`` says why it
    does most of its work, but not all.
    """

    unready: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = field(default=())


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    content_type: str
    body: bytes


class Telemetry:
    """The last report of a service, and the responses made from it. Threads may share it."""

    def __init__(self, service: str, obstacle: Callable[[], str | None] | None = None) -> None:
        """``obstacle`` says what keeps the service from its servers, if anything does."""
        self._service = service
        self._obstacle = obstacle
        self._report = Report(unready=("it has only just begun",))
        self._registry: Any = None

    def use_registry(self, registry: CollectorRegistry) -> None:
        """Serve the metrics of this registry as well. It has those of the process already."""
        registry.register(self)
        self._registry = registry

    def update(self, report: Report) -> None:
        """Replace the report from which responses are made."""
        self._report = report

    def answer(self, path: str) -> Answer:
        """The response to a GET of this path."""
        if path == "/healthz":
            return _json_answer(200, {"status": "ok", "service": self._service})
        if path == "/readyz":
            obstacle = self._obstacle() if self._obstacle is not None else None
            unready = [*([obstacle] if obstacle else []), *self._report.unready]
            return _json_answer(
                503 if unready else 200,
                {
                    "status": "not ready" if unready else "ready",
                    "reasons": unready,
                    "degraded": list(self._report.degraded),
                },
            )
        if path == "/metrics":
            return self._metrics()
        return _json_answer(404, {"status": "there are /healthz, /readyz and /metrics"})

    def collect(self) -> Iterator[Metric]:
        """The report's figures, as Prometheus' client collects them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for figure in self._report.figures:
            kind = CounterMetricFamily if figure.is_total else GaugeMetricFamily
            name = f"{METRICS_PREFIX}_{self._service}_{figure.name}"
            family = kind(name, figure.description, labels=[figure.label] if figure.label else [])
            for value, number in figure.values.items():
                family.add_metric([value] if figure.label else [], number)
            yield family

    def _metrics(self) -> Answer:
        try:
            from prometheus_client import (
                CONTENT_TYPE_LATEST,
                CollectorRegistry,
                PlatformCollector,
                ProcessCollector,
                generate_latest,
            )
        except ModuleNotFoundError as error:
            return _json_answer(
                501, {"status": f"{error}: install it with `pip install usageledger[telemetry]`"}
            )

        if self._registry is None:
            self._registry = CollectorRegistry()
            self._registry.register(self)
            ProcessCollector(registry=self._registry)
            PlatformCollector(registry=self._registry)
        return Answer(200, CONTENT_TYPE_LATEST, generate_latest(self._registry))


@contextmanager
def serve_telemetry(
    service: str,
    *,
    host: str,
    port: int | None,
    obstacle: Callable[[], str | None] | None = None,
) -> Iterator[Telemetry]:
    """Serve telemetry at ``host:port`` while the context lasts; nowhere if there is no port.

    Whoever asks whether it is ready gets the ``obstacle`` too, which is looked for at that moment.

    If the address cannot be used, that is logged and the service goes on: telemetry must not keep a
    service from its work.
    """
    telemetry = Telemetry(service, obstacle)
    if port is None:
        yield telemetry
        return
    try:
        server = _server(telemetry, host, port)
    except OSError as error:
        log.error(
            "telemetry cannot be served at %s:%d (%s): the service goes on without it",
            host,
            port,
            error,
        )
        yield telemetry
        return
    thread = threading.Thread(target=server.serve_forever, name="telemetry", daemon=True)
    thread.start()
    try:
        yield telemetry
    finally:
        server.shutdown()
        server.server_close()


def _server(telemetry: Telemetry, host: str, port: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_WITHIN_S

        def do_GET(self) -> None:
            answer = telemetry.answer(self.path.partition("?")[0])
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            log.debug(format, *args)

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    return server


def _json_answer(status: int, content: Mapping[str, object]) -> Answer:
    return Answer(status, "application/json", json.dumps(content).encode() + b"\n")
