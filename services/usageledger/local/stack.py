"""`Stack`: the one-machine stack of servers, topics and services, kept running by a supervisor."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any

from usageledger.counters.connection import connect_blocking
from usageledger.counters.reading import as_of, read_heads
from usageledger.counters.view import ViewError
from usageledger.local.addresses import Addresses
from usageledger.local.daemon import (
    STATUS_FILE,
    STOP_TIMEOUT_S,
    SUPERVISOR_LOG,
    lock_directory,
    read_status,
)
from usageledger.local.errors import StackError
from usageledger.local.files import write_atomically
from usageledger.local.gateway_files import answers, gateway_address, gateway_key, gateway_port
from usageledger.local.ports import LOOPBACK, is_free, kept_ports
from usageledger.local.progress import Progress, Silent
from usageledger.local.secured_stack import OPERATOR, WORKER, SecuredServers, was_secured
from usageledger.local.servers import Backend, Server, make_kafka, make_redis, start_all
from usageledger.local.supervisor import Supervisor
from usageledger.local.units import GivenServer, Service, check_given_kafka, check_given_redis
from usageledger.operations.errors import StopRequested
from usageledger.operations.topics import (
    PARTITIONS,
    compression_notes,
    create_topics,
    existing_partitions,
    go_live,
    ledger_mode,
)
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.runtime.redaction import redacted
from usageledger.runtime.settings import REDIS_URL_FILE, STACK_FILE

TELEMETRY_PORTS_FILE = "telemetry_ports.json"
GATEWAY = "gateway"
GATEWAY_SETTINGS = "USAGELEDGER_GATEWAY_"
SERVICES: Mapping[str, tuple[str, ...]] = {
    name: (sys.executable, "-m", "usageledger.cli", "service", name)
    for name in ("processor", "limits", "history", "gateway")
}
STEADY_TIMEOUT_S = 20.0


Prepare = Callable[[Addresses], None]


class Stack:
    """A stack to ``start``, use and ``stop``, or to ``run`` until a signal comes.

    A directory has one stack at a time, and an object is started once.

    ``kafka`` and ``redis`` (a URL) are servers that others run. A server that is
    not given is run here, by ``backend``. ``port`` is the gateway's, by default a free one.
    With ``secure``, Kafka and Redis refuse strangers, and each service has a user of its own.
    ``prepare`` is called once the topics exist, before any service starts. ``services`` are the
    commands to keep running; they get the addresses in ``USAGELEDGER_…`` variables.
    """

    def __init__(
        self,
        data: Path,
        *,
        kafka: KafkaConnection | None = None,
        redis: str | None = None,
        backend: Backend = "packages",
        importing: bool = False,
        partitions: int | None = None,
        prefix: str = "",
        port: int | None = None,
        secure: bool = False,
        prepare: Prepare | None = None,
        services: Mapping[str, Sequence[str]] = SERVICES,
    ) -> None:
        self.data = data.resolve()
        self._given_kafka = kafka
        self._given = {"kafka": None if kafka is None else str(kafka), "redis": redis}
        self._backend: Backend = backend
        self._importing = importing
        self._partitions = partitions
        self._prefix = prefix
        self._port = port
        self._is_secure = secure or was_secured(self.data)
        self._secured: SecuredServers | None = None
        self._prepare = prepare
        self._services = services
        self._logs = self.data / "logs"
        self._addresses: Addresses | None = None
        self._telemetry_ports: dict[str, int] = {}
        self._description: dict[str, Any] = {}
        self._stopping = threading.Event()
        self._up = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def start(self, progress: Progress | None = None) -> Addresses:
        """Bring everything up, then supervise it in the background.

        Raises StackError if that fails; then nothing is left running.
        """
        if self._thread is not None:
            raise RuntimeError("a Stack is started once")
        lock = lock_directory(self.data)
        self._thread = threading.Thread(
            target=self._supervise,
            args=(lock, progress or Silent()),
            name="usageledger-stack",
            daemon=True,
        )
        self._thread.start()
        try:
            # In short waits, so that signal handlers can run in between.
            while not self._up.wait(0.2):
                pass
        except BaseException:
            self.stop()
            raise
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        assert self._addresses is not None
        return self._addresses

    def stop(self) -> None:
        """End the services, then our servers. A process that does not end in time is killed.

        The data stays. Raises StackError if that takes too long.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S + 30.0)
            if self._thread.is_alive():
                raise StackError(
                    f"the stack in {self.data} did not end within {STOP_TIMEOUT_S + 30.0:.0f} s"
                )

    def run(
        self, progress: Progress | None = None, on_ready: Callable[[Addresses], None] | None = None
    ) -> None:
        """Bring everything up, call ``on_ready``, and supervise until SIGINT, SIGTERM or SIGHUP.

        Then stop. Call it in the main thread. Raises StackError.
        """
        with _stop_on_signals(self._stopping):
            try:
                addresses = self.start(progress)
                if on_ready is not None:
                    on_ready(addresses)
                while not self._stopping.wait(0.2):
                    if self._thread is None or not self._thread.is_alive():
                        break
            except StopRequested:
                return
            finally:
                self.stop()
        if self._failure is not None:
            raise self._failure

    def status(self) -> dict[str, Any]:
        """Return the current state, as `read_status` does."""
        return read_status(self.data)

    def _supervise(self, lock: IO[bytes], progress: Progress) -> None:
        """Bring the stack up, supervise it and bring it down, in one thread.

        The lock is held as long as anything runs.
        """
        published = _PublishedProgress(progress, self._publish)
        supervisor = Supervisor(
            self.data / STATUS_FILE, published, own_log=self.data / SUPERVISOR_LOG
        )
        servers: list[Server | GivenServer] = []
        services: list[Service] = []
        try:
            (self.data / STATUS_FILE).unlink(missing_ok=True)
            self._publish(
                state="starting",
                doing="",
                pid=os.getpid(),
                data=str(self.data),
                prefix=self._prefix,
                backend=self._backend,
            )
            self._bring_up(published, supervisor, servers, services)
            self._publish(state="running", doing="")
            self._up.set()
            supervisor.run(self._stopping)
        except BaseException as error:  # noqa: BLE001 - start() or run() raises it
            self._failure = error
        finally:
            try:
                self._bring_down(supervisor, servers, services)
            finally:
                lock.close()
                self._up.set()

    def _bring_up(
        self,
        progress: Progress,
        supervisor: Supervisor,
        servers: list[Server | GivenServer],
        services: list[Service],
    ) -> None:
        if self._port is not None and not is_free(self._port):
            raise StackError(
                f"something listens on port {self._port} of {LOOPBACK} already: choose another "
                "for the gateway with --port, or omit --port"
            )
        servers += self._servers()
        self._check_given(progress)
        start_all(
            [server for server in servers if not isinstance(server, GivenServer)],
            progress,
            self._stopping,
        )
        for server in servers:
            supervisor.adopt(server)
        kafka, redis = self._reached(servers)
        gateway = (
            gateway_address(self._port or gateway_port(self.data))
            if GATEWAY in self._services
            else ""
        )
        self._addresses = Addresses(kafka, redis, self._prefix, self.data, gateway)
        write_atomically(self.data / REDIS_URL_FILE, redis + "\n")
        self._publish(
            kafka=str(kafka),
            kafka_connection=kafka.as_json(),
            redis=redacted(redis),
            gateway=gateway,
            worker_connection=(
                kafka if self._secured is None else self._secured.connection(WORKER)
            ).as_json(),
            is_secure=self._is_secure,
            took={server.name: server.description for server in servers},
        )
        self._choose_telemetry_ports()
        self._make_topics(kafka, progress)
        if self._prepare is not None:
            self._prepare(self._addresses)
        self._raise_if_stopping()
        for name, command in self._services.items():
            progress.say(f"starting {name}")
            services.append(self._service(name, command, self._addresses))
            supervisor.start(services[-1])
        self._wait_until_steady(supervisor)

    def _choose_telemetry_ports(self) -> None:
        """Choose where each service reports its health and metrics."""
        self._telemetry_ports = kept_ports(self.data / TELEMETRY_PORTS_FILE, list(self._services))
        addresses = {
            name: f"http://{LOOPBACK}:{port}" for name, port in self._telemetry_ports.items()
        }
        self._publish(telemetry=addresses)

    def _servers(self) -> list[Server | GivenServer]:
        if not self._is_secure:
            return [self._server("kafka"), self._server("redis")]
        if self._backend != "packages" or any(self._given.values()):
            raise StackError(
                "a secured stack runs its own Kafka and Redis from packages: omit --kafka, --redis "
                "and --backend (and USAGELEDGER_KAFKA and USAGELEDGER_REDIS_URL)"
            )
        self._secured = SecuredServers.under(self.data, self._prefix)
        return [self._secured.kafka, self._secured.redis]

    def _reached(self, servers: Sequence[Server | GivenServer]) -> tuple[KafkaConnection, str]:
        """How commands on this machine reach the servers that run now."""
        address, redis = (server.address for server in servers)
        if self._secured is None:
            return self._given_kafka or KafkaConnection(servers=address), redis
        self._secured.give_rights(self._prefix)
        return self._secured.connection(OPERATOR), self._secured.redis.address_as(OPERATOR)

    def _server(self, name: str) -> Server | GivenServer:
        address = self._given[name]
        if address is not None:
            return GivenServer(name, address)
        return (make_kafka if name == "kafka" else make_redis)(self.data, self._backend)

    def _check_given(self, progress: Progress) -> None:
        if self._given_kafka is not None:
            check_given_kafka(self._given_kafka)
        if self._given["redis"] is not None:
            check_given_redis(self._given["redis"], progress)

    def _make_topics(self, kafka: KafkaConnection, progress: Progress) -> None:
        """Make the topics. An existing ledger keeps its mode: only a new one enters import mode."""
        mode = ledger_mode(kafka, self._prefix)
        if mode == "going_live":
            progress.say("finishing an interrupted go-live")
            go_live(kafka, self._prefix)
        importing = self._importing or mode == "importing"
        count = self._partitions or existing_partitions(kafka, self._prefix) or PARTITIONS
        self._partitions = count
        if create_topics(kafka, self._prefix, partitions=count, importing=importing):
            progress.say(f"made the topics, {count} partitions each")
        for note in compression_notes(kafka, self._prefix):
            progress.warn(note)
        if importing:
            progress.say("the ledger is in import mode until `usageledger go-live`")

    def _service(self, name: str, command: Sequence[str], addresses: Addresses) -> Service:
        own_addresses = (
            addresses if self._secured is None else self._secured.addresses_of(name, addresses)
        )
        log, environment = self._logs / f"{name}.log", self._environment(own_addresses)
        environment["USAGELEDGER_TELEMETRY_HOST"] = LOOPBACK
        environment["USAGELEDGER_TELEMETRY_PORT"] = str(self._telemetry_ports[name])
        if name != GATEWAY:
            return Service(name, command, log, environment)
        reach = environment.get(f"{GATEWAY_SETTINGS}WEBHOOK_REACH") or "loopback"
        own = {
            "HOST": LOOPBACK,
            "WEBHOOK_REACH": reach,
            "PORT": addresses.gateway.rpartition(":")[2],
            "KEY": gateway_key(self.data),
            # It listens on loopback, where its address is http://….
            "TLS_CERTFILE": "",
            "TLS_KEYFILE": "",
        }
        environment |= {f"{GATEWAY_SETTINGS}{setting}": value for setting, value in own.items()}
        return Service(
            name,
            command,
            log,
            environment,
            answers=lambda: answers(addresses.gateway),
            description=f"HTTP at {addresses.gateway}",
        )

    def _environment(self, addresses: Addresses) -> dict[str, str]:
        own = {
            "REDIS_URL": addresses.redis_url,
            "PREFIX": addresses.prefix,
            "DATA": str(addresses.data),
        }
        return (
            os.environ
            | {f"USAGELEDGER_{name}": value for name, value in own.items()}
            | addresses.kafka.as_environment()
            | {"PYTHONUNBUFFERED": "1"}
        )

    def _wait_until_steady(self, supervisor: Supervisor) -> None:
        """Supervise the services until all of them run and can answer for every account.

        A service that does not come up is reported and started again, as at any other time.
        """
        deadline_s = time.monotonic() + STEADY_TIMEOUT_S
        while (
            not (supervisor.is_steady() and self._has_counters()) and time.monotonic() < deadline_s
        ):
            self._raise_if_stopping()
            time.sleep(0.1)
            supervisor.step()

    def _has_counters(self) -> bool:
        """Whether our processor has written and verified every partition's counters.

        Before that, no service can say how much an account has.
        """
        if self._services.get("processor") != SERVICES["processor"]:
            return True
        assert self._addresses is not None
        redis = connect_blocking(self._addresses.redis_url)
        try:
            heads = read_heads(redis, self._prefix, range(self._partitions or 0)).values()
            return all(
                head is not None and as_of(head, datetime.now(UTC)) is None for head in heads
            )
        except ViewError:
            return False
        finally:
            redis.close()

    def _bring_down(
        self,
        supervisor: Supervisor,
        servers: Sequence[Server | GivenServer],
        services: Sequence[Service],
    ) -> None:
        if self._failure is None:
            self._publish(state="stopping", doing="")
        supervisor.stop(services, STOP_TIMEOUT_S / 2)
        supervisor.stop(servers, STOP_TIMEOUT_S / 2)
        if self._failure is None or isinstance(self._failure, StopRequested):
            (self.data / STACK_FILE).unlink(missing_ok=True)
        else:
            why = redacted(str(self._failure)) or type(self._failure).__name__
            self._publish(state="failed", error=why)
        (self.data / REDIS_URL_FILE).unlink(missing_ok=True)

    def _raise_if_stopping(self) -> None:
        if self._stopping.is_set():
            raise StopRequested

    def _publish(self, **changes: Any) -> None:
        self._description |= changes
        write_atomically(self.data / STACK_FILE, json.dumps(self._description, indent=1) + "\n")


class _PublishedProgress:
    """Passes progress on, and publishes the last step in ``stack.json``.

    A detached start and ``status`` read it there.
    """

    def __init__(self, progress: Progress, publish: Callable[..., None]) -> None:
        self._progress = progress
        self._publish = publish

    def say(self, message: str) -> None:
        self._publish(doing=redacted(message))
        self._progress.say(message)

    def warn(self, message: str) -> None:
        self._progress.warn(message)

    def fetching(
        self, what: str, total_bytes: int
    ) -> AbstractContextManager[Callable[[int], None]]:
        self._publish(doing=f"fetching {what}")
        return self._progress.fetching(what, total_bytes)


@contextmanager
def _stop_on_signals(event: threading.Event) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP only set the event while in this context."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        event.set()

    before = {
        number: signal.signal(number, on_signal)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
