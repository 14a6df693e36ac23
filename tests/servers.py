"""Fixtures of real servers, one pair for a whole run: containers where a Docker engine answers and
has the images, else from packages.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pytest

from usageledger.local.addresses import Addresses
from usageledger.local.gateway_files import gateway_key
from usageledger.local.servers import Servers, choose_backend, start_servers
from usageledger.local.stack import Stack
from usageledger.operations.catalogs import publish_shipped
from usageledger.operations.topics import create_topics
from usageledger.runtime.kafka_connection import KafkaConnection

TAKEN = pytest.StashKey[str]()


class NewLedger(Protocol):
    """Makes the topics of a ledger that nobody else has and returns its prefix."""

    def __call__(self, *, partitions: int = 2, importing: bool = False) -> str: ...


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "partitions(count): how many partitions the ledger of the `prefix` fixture has (default 2)",
    )
    config.addinivalue_line(
        "markers", "importing: the ledger of the `prefix` fixture is in import mode"
    )


@pytest.fixture(scope="session")
def servers(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Servers]:
    """A running Kafka and Redis, shared by the session.

    ``USAGELEDGER_TEST_BACKEND`` (packages, docker) decides, else what is there.
    """
    choice = choose_backend(os.environ.get("USAGELEDGER_TEST_BACKEND"))
    running = start_servers(tmp_path_factory.mktemp("servers"), choice.backend)
    pytestconfig.stash[TAKEN] = f"{running.description} ({choice.reason})"
    yield running
    running.stop()


@pytest.fixture(scope="session")
def kafka(servers: Servers) -> KafkaConnection:
    """The broker's ``host:port``."""
    return servers.kafka


@pytest.fixture(scope="session")
def redis_url(servers: Servers) -> str:
    """The Redis's URL. Shared: keep to keys under the prefix."""
    return servers.redis_url


@pytest.fixture(scope="session")
def new_ledger(kafka: KafkaConnection) -> NewLedger:
    """Make ledgers with topics of their own on the shared broker."""

    def make(*, partitions: int = 2, importing: bool = False) -> str:
        prefix = f"t{uuid.uuid4().hex[:10]}"
        create_topics(kafka, prefix, partitions=partitions, importing=importing)
        return prefix

    return make


@pytest.fixture
def prefix(request: pytest.FixtureRequest, new_ledger: Callable[..., str]) -> str:
    """A fresh ledger's prefix, its topics made: 2 partitions or ``@pytest.mark.partitions(n)``,
    live or ``@pytest.mark.importing``.
    """
    marked = request.node.get_closest_marker("partitions")
    importing = request.node.get_closest_marker("importing") is not None
    return new_ledger(partitions=marked.args[0] if marked else 2, importing=importing)


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A ledger with every service running, and the way to its gateway."""

    url: str
    key: str
    addresses: Addresses


@pytest.fixture(scope="session")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, kafka: KafkaConnection, redis_url: str
) -> Iterator[RunningGateway]:
    """A live ledger of the session, with every service of the stack.

    Shared: keep to accounts of the test's own.
    """
    with running_gateway(tmp_path_factory.mktemp("gateway"), kafka, redis_url) as found:
        yield found


@contextmanager
def running_gateway(
    directory: Path, kafka: KafkaConnection, redis_url: str, *, importing: bool = False
) -> Iterator[RunningGateway]:
    """A ledger of its own with every service of the stack, on servers that run."""
    stack = Stack(
        directory,
        kafka=kafka,
        redis=redis_url,
        prefix=f"t{uuid.uuid4().hex[:10]}",
        partitions=2,
        importing=importing,
        prepare=_publish,
    )
    addresses = stack.start()
    try:
        yield RunningGateway(addresses.gateway, gateway_key(directory), addresses)
    finally:
        stack.stop()


def _publish(addresses: Addresses) -> None:
    publish_shipped(addresses.kafka, addresses.prefix, datetime.now(UTC))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    taken = config.stash.get(TAKEN, None)
    if taken is not None:
        terminalreporter.write_line(f"integration tests ran against {taken}")
