"""The one-machine stack: servers, topics, services, and the supervisor that keeps them running, in
one object.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any

from usageledger.counters.connection import connect_blocking
from usageledger.counters.reading import as_of, read_heads
from usageledger.counters.view import ViewError
from usageledger.local.errors import StackError
from usageledger.local.files import write_atomically
from usageledger.local.gateway_place import answers, gateway_address, gateway_key, gateway_port
from usageledger.local.kafka_jars import fetch_jars
from usageledger.local.ports import LOOPBACK, is_free, kept_ports
from usageledger.local.processes import ends_within, last_lines
from usageledger.local.progress import Progress, Silent
from usageledger.local.servers import Backend, Server, make_kafka, make_redis, start_all
from usageledger.local.supervisor import Supervisor
from usageledger.local.units import GivenServer, Service, check_given_kafka, check_given_redis
from usageledger.operations.errors import StopRequested
from usageledger.operations.topics import PARTITIONS, create_topics, go_live, ledger_mode
from usageledger.operations.waiting import is_true_within
from usageledger.runtime.settings import LOCK_FILE, STACK_FILE, is_locked, running_stack

STATUS_FILE = "status.json"
TELEMETRY_PORTS_FILE = "telemetry_ports.json"
GATEWAY = "gateway"
GATEWAY_SETTINGS = "USAGELEDGER_GATEWAY_"
SERVICES: Mapping[str, tuple[str, ...]] = {
    name: (sys.executable, "-m", "usageledger.cli", "service", name)
    for name in ("processor", "limits", "history", "gateway")
}
SETTLE_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 40.0
START_TIMEOUT_S = 900.0
LOCK_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running stack's ledger is."""

    kafka: str
    redis_url: str
    prefix: str
    data: Path
    gateway: str = ""
    """The gateway's URL; empty where none is run."""


Prepare = Callable[[Addresses], None]


class Stack:
    """``start``, use it, ``stop``; or ``run`` until a signal comes.

    One stack a directory, one start an object.

    ``kafka`` (``host:port``) and ``redis`` (a URL) are servers that somebody else runs; what is not
    given is run here, by ``backend``. ``port`` is the gateway's; a free one is taken where none is
    named. ``prepare`` is called once the topics are there, before any service starts. ``services``
    are the commands to keep running; they are told the addresses in ``USAGELEDGER_…`` variables.
    """

    def __init__(
        self,
        data: Path,
        *,
        kafka: str | None = None,
        redis: str | None = None,
        backend: Backend = "packages",
        importing: bool = False,
        partitions: int = PARTITIONS,
        prefix: str = "",
        port: int | None = None,
        prepare: Prepare | None = None,
        services: Mapping[str, Sequence[str]] = SERVICES,
    ) -> None:
        self.data = data.resolve()
        self._given = {"kafka": kafka, "redis": redis}
        self._backend: Backend = backend
        self._importing = importing
        self._partitions = partitions
        self._prefix = prefix
        self._port = port
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
        """Bring everything up and return when it is; then supervise in the background.

        Raises StackError; then nothing is left running.
        """
        if self._thread is not None:
            raise RuntimeError("a Stack is started once")
        lock = _take_lock(self.data)
        self._thread = threading.Thread(
            target=self._live,
            args=(lock, progress or Silent()),
            name="usageledger-stack",
            daemon=True,
        )
        self._thread.start()
        try:
            while not self._up.wait(
                0.2
            ):  # in turns, so that a signal handler gets its turn as well
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
        """End the services, then our servers, each in order if it does so in time.

        Data stays. Raises StackError if that takes too long.
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
        """Bring everything up, tell ``on_ready``, supervise until SIGINT, SIGTERM or SIGHUP, then
        stop. Main thread only.

        Raises StackError.
        """
        with _signals_set(self._stopping):
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
        """What ``read_status`` says of this directory."""
        return read_status(self.data)

    def _live(self, lock: IO[bytes], progress: Progress) -> None:
        """The life of the stack, in one thread: the lock is held for as long as anything runs."""
        telling = _Telling(progress, self._tell)
        supervisor = Supervisor(self.data / STATUS_FILE, telling)
        servers: list[Server | GivenServer] = []
        services: list[Service] = []
        try:
            (self.data / STATUS_FILE).unlink(missing_ok=True)
            self._tell(
                state="starting",
                doing="",
                pid=os.getpid(),
                data=str(self.data),
                prefix=self._prefix,
                backend=self._backend,
            )
            self._bring_up(telling, supervisor, servers, services)
            self._tell(state="running", doing="")
            self._up.set()
            supervisor.run(self._stopping)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits for it
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
                f"something listens on port {self._port} of {LOOPBACK} already: name another for "
                "the gateway with --port, or leave it out"
            )
        servers += [self._server("kafka"), self._server("redis")]
        self._check_given(progress)
        start_all(
            [server for server in servers if not isinstance(server, GivenServer)],
            progress,
            self._stopping,
        )
        for server in servers:
            supervisor.adopt(server)
        kafka, redis = (server.address for server in servers)
        gateway = (
            gateway_address(self._port or gateway_port(self.data))
            if GATEWAY in self._services
            else ""
        )
        self._addresses = Addresses(kafka, redis, self._prefix, self.data, gateway)
        self._tell(
            kafka=kafka,
            redis=redis,
            gateway=gateway,
            took={server.name: server.description for server in servers},
        )
        self._choose_telemetry_ports(gateway)
        self._make_topics(kafka, progress)
        if self._prepare is not None:
            self._prepare(self._addresses)
        self._raise_if_stopping()
        for name, command in self._services.items():
            progress.say(f"starting {name}")
            services.append(self._service(name, command, self._addresses))
            supervisor.start(services[-1])
        self._let_settle(supervisor)

    def _choose_telemetry_ports(self, gateway: str) -> None:
        """Where each service tells how it is doing: the gateway with the rest of what it answers,
        any other at a port of its own.
        """
        self._telemetry_ports = kept_ports(
            self.data / TELEMETRY_PORTS_FILE, [name for name in self._services if name != GATEWAY]
        )
        addresses = {
            name: f"http://{LOOPBACK}:{port}" for name, port in self._telemetry_ports.items()
        }
        self._tell(telemetry=addresses | ({GATEWAY: gateway} if gateway else {}))

    def _server(self, name: str) -> Server | GivenServer:
        address = self._given[name]
        if address is not None:
            return GivenServer(name, address)
        return (make_kafka if name == "kafka" else make_redis)(self.data, self._backend)

    def _check_given(self, progress: Progress) -> None:
        if self._given["kafka"] is not None:
            check_given_kafka(self._given["kafka"])
        if self._given["redis"] is not None:
            check_given_redis(self._given["redis"], progress)

    def _make_topics(self, kafka: str, progress: Progress) -> None:
        """A ledger that is there keeps its mode: import mode is asked for once, when the ledger is
        made.
        """
        mode = ledger_mode(kafka, self._prefix)
        if mode == "going_live":
            progress.say("finishing what go-live began")
            go_live(kafka, self._prefix)
        importing = self._importing or mode == "importing"
        if create_topics(kafka, self._prefix, partitions=self._partitions, importing=importing):
            progress.say(f"made the topics, {self._partitions} partitions each")
        if importing:
            progress.say("the ledger is in import mode until `usageledger go-live`")

    def _service(self, name: str, command: Sequence[str], addresses: Addresses) -> Service:
        log, environment = self._logs / f"{name}.log", self._environment(addresses)
        if name != GATEWAY:
            own = {"HOST": LOOPBACK, "PORT": str(self._telemetry_ports[name])}
            return Service(
                name,
                command,
                log,
                environment
                | {f"USAGELEDGER_TELEMETRY_{setting}": value for setting, value in own.items()},
            )
        reach = environment.get(f"{GATEWAY_SETTINGS}WEBHOOK_REACH") or "loopback"
        own = {
            "HOST": LOOPBACK,
            "WEBHOOK_REACH": reach,
            "PORT": addresses.gateway.rpartition(":")[2],
            "KEY": gateway_key(self.data),
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
            "KAFKA": addresses.kafka,
            "REDIS_URL": addresses.redis_url,
            "PREFIX": addresses.prefix,
            "DATA": str(addresses.data),
        }
        return (
            os.environ
            | {f"USAGELEDGER_{name}": value for name, value in own.items()}
            | {"PYTHONUNBUFFERED": "1"}
        )

    def _let_settle(self, supervisor: Supervisor) -> None:
        """Watch the services come up, until who asks is answered.

        One that does not is told of, and started again like any other.
        """
        deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
        while (
            not (supervisor.has_settled() and self._has_counters())
            and time.monotonic() < deadline_s
        ):
            self._raise_if_stopping()
            time.sleep(0.1)
            supervisor.step()

    def _has_counters(self) -> bool:
        """Whether our processor has written and verified every partition's counters: before that
        nobody knows what an account has.
        """
        if self._services.get("processor") != SERVICES["processor"]:
            return True
        assert self._addresses is not None
        redis = connect_blocking(self._addresses.redis_url)
        try:
            heads = read_heads(redis, self._prefix, range(self._partitions)).values()
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
            self._tell(state="stopping", doing="")
        supervisor.stop(services, STOP_TIMEOUT_S / 2)
        supervisor.stop(servers, STOP_TIMEOUT_S / 2)
        if self._failure is None or isinstance(self._failure, StopRequested):
            (self.data / STACK_FILE).unlink(missing_ok=True)
        else:
            self._tell(state="failed", error=str(self._failure) or type(self._failure).__name__)

    def _raise_if_stopping(self) -> None:
        if self._stopping.is_set():
            raise StopRequested

    def _tell(self, **changes: Any) -> None:
        self._description |= changes
        write_atomically(self.data / STACK_FILE, json.dumps(self._description, indent=1) + "\n")


def start_detached(
    command: Sequence[str], data: Path, progress: Progress | None = None, *, fetch: bool = True
) -> Addresses:
    """Run ``command`` (an ``up`` in the foreground, for ``data``) as a daemon and return when its
    stack is up, telling its steps meanwhile.

    ``fetch``: fetch the broker's jars here first, where a progress bar is seen. The daemon's own
    output goes to ``logs/supervisor.log``. Raises StackError if it does not come up; then it does
    not run.
    """
    progress = progress or Silent()
    data = data.resolve()
    _refuse_second_stack(data)
    if fetch:
        fetch_jars(progress)
    log = data / "logs" / "supervisor.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    (data / STACK_FILE).unlink(missing_ok=True)
    with log.open("ab") as output:
        daemon = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=True,
        )
    try:
        return _wait_for_daemon(daemon, data, log, progress)
    except BaseException:
        daemon.terminate()
        try:
            daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(10.0)
        raise


def stop_stack(data: Path, *, timeout_s: float = STOP_TIMEOUT_S + 30.0) -> None:
    """End the stack that runs in a directory, however it was started, and wait until it has.

    Raises StackError if none runs there.
    """
    data = data.resolve()
    pid = _lock_holder(data)
    if pid is None:
        raise StackError(f"no running stack in {data}")
    os.kill(pid, signal.SIGTERM)
    deadline_s = time.monotonic() + timeout_s
    while is_locked(data / LOCK_FILE):
        if time.monotonic() >= deadline_s:
            os.kill(pid, signal.SIGKILL)
            raise StackError(
                f"the stack in {data} did not end within {timeout_s:.0f} s and was killed, with "
                "all its processes"
            )
        time.sleep(0.1)
    ends_within(pid, 5.0)


def read_status(data: Path) -> dict[str, Any]:
    """The stack in a directory as it is now: ``state`` (starting, running, stopping, stopped),
    addresses, ``services`` with their states.

    A stack whose supervisor was killed is ``stopped``, whatever its last file says.
    """
    data = data.resolve()
    stack = running_stack(data)
    services = _read_services(data / STATUS_FILE)
    if stack is None:
        for service in services:
            service |= {"pid": None, "state": "stopped"}
        stack = {"state": "stopped", "data": str(data)}
    return stack | {"services": services}


class _Telling:
    """Passes progress on and keeps the last step in ``stack.json``, where a detached start and
    ``status`` find it.
    """

    def __init__(self, progress: Progress, tell: Callable[..., None]) -> None:
        self._progress = progress
        self._tell = tell

    def say(self, message: str) -> None:
        self._tell(doing=message)
        self._progress.say(message)

    def warn(self, message: str) -> None:
        self._progress.warn(message)

    def fetching(
        self, what: str, total_bytes: int
    ) -> AbstractContextManager[Callable[[int], None]]:
        self._tell(doing=f"fetching {what}")
        return self._progress.fetching(what, total_bytes)


def _take_lock(data: Path) -> IO[bytes]:
    """Hold the directory's lock for as long as the file that is returned stays open."""
    data.mkdir(parents=True, exist_ok=True)
    lock = (data / LOCK_FILE).open("a+b")
    # Who only asks whether the lock is held holds it for a moment: one refusal says nothing yet.
    if not is_true_within(lambda: _is_taken_now(lock), LOCK_TIMEOUT_S):
        lock.close()
        _refuse_second_stack(data)
        raise StackError(f"a stack is just being started or stopped in {data}: try again")
    lock.truncate(0)
    lock.write(str(os.getpid()).encode("ascii"))
    lock.flush()
    return lock


def _is_taken_now(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refuse_second_stack(data: Path) -> None:
    pid = _lock_holder(data)
    if pid is not None:
        raise StackError(
            f"a stack runs in {data} already (process {pid}). Use it, end it with `usageledger "
            f"down --data {data}`, "
            "or take another directory with --data."
        )


def _lock_holder(data: Path) -> int | None:
    """The process that holds the directory's lock.

    The number in the file counts only while the lock is held: pids are used again.
    """
    if not is_locked(data / LOCK_FILE):
        return None
    content = (data / LOCK_FILE).read_bytes()
    return int(content) if content.isdigit() else None


def _wait_for_daemon(
    daemon: subprocess.Popen[bytes], data: Path, log: Path, progress: Progress
) -> Addresses:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    told = ""
    while time.monotonic() < deadline_s:
        stack = _read_object(data / STACK_FILE)
        doing = stack.get("doing") or told
        if doing != told:
            progress.say(doing)
            told = doing
        if stack.get("state") == "running" and stack.get("pid") == daemon.pid:
            daemon.returncode = (
                0  # it goes on without us: there is nothing to wait for, and nothing to warn of
            )
            return Addresses(
                stack["kafka"], stack["redis"], stack["prefix"], data, stack.get("gateway", "")
            )
        if daemon.poll() is not None:
            said = stack.get("error") or "\n".join(last_lines(log, 15))
            raise StackError(
                f"the stack did not come up (exit code {daemon.returncode}; its log is "
                f"{log}):\n{said}"
            )
        time.sleep(0.1)
    raise StackError(f"the stack did not come up within {START_TIMEOUT_S:.0f} s; its log is {log}")


def _read_services(path: Path) -> list[dict[str, Any]]:
    services = _read_object(path).get("services")
    return (
        [service for service in services if isinstance(service, dict)]
        if isinstance(services, list)
        else []
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def _signals_set(event: threading.Event) -> Iterator[None]:
    """Have SIGINT, SIGTERM and SIGHUP set the event, and nothing else, inside this context."""

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
