"""The limits consumer gets SIGTERM while its broker does not answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from usageledger.local.ports import LOOPBACK
from usageledger.runtime.process import STOP_DEADLINE_S


@pytest.fixture
def silent_broker() -> Iterator[socket.socket]:
    """Accepts connections and never answers, as a broker on a frozen machine does."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        listener.settimeout(60.0)
        yield listener


def test_a_limits_consumer_ends_soon_though_its_broker_is_silent(
    silent_broker: socket.socket,
) -> None:
    """It got SIGTERM while no broker answered, waited for one, and was killed after 12 s."""
    port = silent_broker.getsockname()[1]
    environment = os.environ | {
        "USAGELEDGER_KAFKA": f"{LOOPBACK}:{port}",
        "USAGELEDGER_REDIS_URL": "redis://nowhere",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "usageledger.cli", "service", "limits"], env=environment
    ) as consumer:
        try:
            connection, _ = silent_broker.accept()
            with connection:
                consumer.send_signal(signal.SIGTERM)
                assert consumer.wait(STOP_DEADLINE_S + 15.0) == 0
        finally:
            consumer.kill()
