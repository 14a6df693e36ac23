"""Everything that a run needs: brokers, store, links, and the processes under test.

Each of these processes is started again whenever it ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from tests.chaos.brokers import Brokers
from tests.chaos.proxy import Proxies
from tests.chaos.stores import ClusterStore, SentinelStore, Store
from usageledger.local.ports import LOOPBACK, free_port
from usageledger.local.processes import ChildProcess
from usageledger.log.topics import Topics
from usageledger.operations.catalogs import publish_shipped
from usageledger.operations.topics import create_topics
from usageledger.operations.waiting import is_true_within
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.tokens import new_key

ROOT = Path(__file__).parents[2]
PARTITIONS = 8
PREFIX = "chaos"
RESTART_AFTER_S = 0.5
# A process that cannot start while a server is down is tried less and less often, as a supervisor
# does.
RESTART_AFTER_MAX_S = 4.0
WATCH_S = 0.1
APPS = "apps"

StoreKind = Literal["sentinel", "cluster"]
Role = Literal[
    "processor", "limits", "gateway", "worker", "http_worker", "billing", "stranger", "listener"
]
SERVICES: tuple[Role, ...] = ("processor", "limits", "gateway")
"""Each process of these has links of its own to the brokers. The apps share theirs."""
COUNTS: dict[Role, int] = {
    "processor": 3,
    "limits": 2,
    "gateway": 1,
    "worker": 3,
    "http_worker": 1,
    "billing": 1,
    "stranger": 1,
    "listener": 3,
}


@dataclass(slots=True)
class Actor:
    """One process of ours. Each fault on it holds ``turn`` meanwhile."""

    name: str
    role: Role
    child: ChildProcess
    is_wanted: bool = True
    turn: threading.Lock = field(default_factory=threading.Lock)
    ended: list[int] = field(default_factory=list)
    """The exit codes with which it ended by itself."""
    was_hit: bool = False
    """Whether a fault ended it. Then its end is not a failure of its own."""

    def signal(self, number: int) -> None:
        """Send a signal to it, if it runs."""
        pid = self.child.pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


class Stage:
    """Everything that runs. ``start`` it, and ``stop`` it whatever happened."""

    def __init__(self, directory: Path, *, seed: int, store: StoreKind, rate: float) -> None:
        self.directory = directory
        self.logs = directory / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.topics = Topics(PREFIX)
        self.proxies = Proxies(self.logs / "proxies.log")
        own_parties = [f"{role}-{n + 1}" for role in SERVICES for n in range(COUNTS[role])]
        self.parties = [*own_parties, APPS]
        # Most of these ports are not in use yet, so every assigned one must be remembered.
        ports: set[int] = set()
        self.brokers = Brokers(directory, self.logs, self.proxies, ports, self.parties)
        self.store: Store = (SentinelStore if store == "sentinel" else ClusterStore)(
            directory, self.logs, self.proxies, ports
        )
        self._gateway_port = free_port(ports)
        ports.add(self._gateway_port)
        self.gateway, self.key = f"http://{LOOPBACK}:{self._gateway_port}", new_key()
        self._seed, self._rate = seed, rate
        self.actors = [
            self._new_actor(role, number + 1)
            for role, count in COUNTS.items()
            for number in range(count)
        ]
        self._is_ending = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)

    @property
    def replicated_topics(self) -> tuple[str, ...]:
        """The ledger's partitioned topics, and the catalog topic."""
        return (*self.topics.partitioned, self.topics.catalog)

    @property
    def kafka(self) -> KafkaConnection:
        """The brokers for the harness itself: no fault between parties touches it."""
        return self.brokers.direct

    def start(self, say: Callable[[str], None]) -> None:
        """Bring up servers, topics, catalog and processes."""
        self.proxies.start()
        say("starting three brokers and the store")
        with ThreadPoolExecutor(2) as pool:
            for starting in [pool.submit(self.brokers.start), pool.submit(self.store.start)]:
                starting.result()
        create_topics(self.kafka, PREFIX, partitions=PARTITIONS, replication_factor=3)
        publish_shipped(self.kafka, PREFIX, datetime.now(UTC))
        say("starting the services, workers, billing and subscribers")
        for actor in self.actors:
            actor.child.spawn()
        self._keeper.start()

    def of_role(self, *roles: Role) -> list[Actor]:
        """The processes with these roles."""
        return [actor for actor in self.actors if actor.role in roles]

    def mend(self) -> None:
        """Undo all faults: open all links, start all servers, thaw processes and free disks."""
        self.proxies.heal_all()
        for actor in self.actors:
            actor.signal(signal.SIGCONT)
        for actor in self.of_role("worker"):
            actor.signal(signal.SIGUSR2)
        for node in self.store.nodes:
            node.signal(signal.SIGCONT)
            if node.child.pid is None:
                node.start()
        for broker in self.brokers.brokers:
            if broker.child.pid is None:
                broker.child.spawn()
            else:
                os.kill(broker.child.pid, signal.SIGCONT)
        for broker in self.brokers.brokers:
            self.brokers.wait_ready(broker)

    def end(self, actors: Sequence[Actor], timeout_s: float = 15.0) -> None:
        """End processes in an orderly way, for good."""
        for actor in actors:
            actor.is_wanted = False
        with ThreadPoolExecutor(len(actors)) as pool:
            list(pool.map(lambda actor: actor.child.stop(timeout_s), actors))

    def finish(self, actors: Sequence[Actor], timeout_s: float) -> list[str]:
        """Run each worker once more, to finish what it owes. Return the failures."""
        finishing = [
            ChildProcess(
                actor.name,
                [*actor.child.command, "--finish"],
                actor.child.log_path,
                environment=actor.child.environment,
            )
            for actor in actors
        ]
        for child in finishing:
            child.spawn()
        is_true_within(lambda: all(child.exit_code is not None for child in finishing), timeout_s)
        failed = [
            f"{child.name} did not finish: {child.last_lines(3)}"
            for child in finishing
            if child.exit_code != 0
        ]
        for child in finishing:
            child.stop(1.0)
        return failed

    def stop(self) -> None:
        """End everything, at once."""
        self._is_ending.set()
        if self._keeper.is_alive():
            self._keeper.join(10.0)
        for actor in self.actors:
            actor.signal(signal.SIGCONT)
            actor.signal(signal.SIGKILL)
            actor.child.stop(5.0)
        self.store.stop()
        self.brokers.stop()
        self.proxies.stop()

    def journal_of(self, actor: Actor) -> Path:
        """The file in which a process notes its intents."""
        return self.directory / "journals" / f"{actor.name}.jsonl"

    def heard_by(self, actor: Actor) -> Path:
        """The file in which a subscriber notes its events."""
        return self.directory / "heard" / f"{actor.name}.jsonl"

    def blocked_at(self, actor: Actor) -> Path:
        """The file in which a subscriber lists the accounts that it considers blocked."""
        return self.directory / "heard" / f"{actor.name}.blocked.json"

    def _keep(self) -> None:
        since: dict[str, float] = {}
        delays = {actor.name: RESTART_AFTER_S for actor in self.actors}
        started = {actor.name: time.monotonic() for actor in self.actors}
        while not self._is_ending.wait(WATCH_S):
            now = time.monotonic()
            for actor in self.actors:
                if not actor.is_wanted or actor.child.pid is not None:
                    since.pop(actor.name, None)
                    continue
                if actor.name not in since:
                    since[actor.name] = now
                    self._note_end(actor)
                    has_lasted = now - started[actor.name] > 10.0
                    delays[actor.name] = (
                        RESTART_AFTER_S
                        if has_lasted
                        else min(2 * delays[actor.name], RESTART_AFTER_MAX_S)
                    )
                elif now - since[actor.name] > delays[actor.name]:
                    with suppress(RuntimeError):
                        actor.child.spawn()
                    started[actor.name] = now

    def _note_end(self, actor: Actor) -> None:
        code = actor.child.exit_code
        # A signal that comes before Python has its handlers ends any process.
        if not actor.was_hit and code not in (None, -signal.SIGUSR1, -signal.SIGUSR2):
            actor.ended.append(code)
        actor.was_hit = False

    def _new_actor(self, role: Role, number: int) -> Actor:
        name = f"{role}-{number}"
        party = name if role in SERVICES else APPS
        environment = os.environ | {
            "USAGELEDGER_KAFKA": self.brokers.bootstrap(party),
            "USAGELEDGER_REDIS_URL": self.store.url,
            "USAGELEDGER_PREFIX": PREFIX,
            "USAGELEDGER_DATA": str(self.directory / name),
            "USAGELEDGER_GATEWAY_PORT": str(self._gateway_port),
            "USAGELEDGER_GATEWAY_KEY": self.key,
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT),
        }
        child = ChildProcess(
            name,
            [sys.executable, *self._command(role, name)],
            self.logs / f"{name}.log",
            environment=environment,
        )
        return Actor(name, role, child)

    def _command(self, role: Role, name: str) -> list[str]:
        files = self.directory
        identity = ["--name", name, "--seed", str(self._seed)]
        journal = ["--journal", str(files / "journals" / f"{name}.jsonl")]
        match role:
            case "processor" | "limits" | "gateway":
                return ["-m", "usageledger.cli", "service", role]
            case "worker":
                # One directory for all: what one leaves behind, another adopts.
                rate = self._rate / COUNTS["worker"]
                return [
                    "-m",
                    "tests.chaos.sdk_worker",
                    *identity,
                    *journal,
                    "--spool",
                    str(files / "spool"),
                    "--rate",
                    str(rate),
                ]
            case "http_worker":
                return [
                    "-m",
                    "tests.chaos.http_worker",
                    *identity,
                    *journal,
                    "--rate",
                    str(self._rate / 12),
                    "--gateway",
                    self.gateway,
                    "--key",
                    self.key,
                ]
            case "billing":
                return [
                    "-m",
                    "tests.chaos.billing",
                    *identity,
                    *journal,
                    "--rate",
                    str(self._rate / 25),
                ]
            case "stranger":
                return [
                    "-m",
                    "tests.chaos.stranger",
                    *identity,
                    *journal,
                    "--rate",
                    "1",
                    "--partitions",
                    str(PARTITIONS),
                ]
            case "listener":
                heard = [
                    "--heard",
                    str(files / "heard" / f"{name}.jsonl"),
                    "--blocked",
                    str(files / "heard" / f"{name}.blocked.json"),
                ]
                # The third has no group: it gets everything, in each of its lives.
                return [
                    "-m",
                    "tests.chaos.listener",
                    *heard,
                    *([] if name.endswith("3") else ["--group", "editor"]),
                ]
