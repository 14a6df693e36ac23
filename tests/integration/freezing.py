"""Stop the broker's process for a while, as happens when a machine swaps, migrates or loses its
disk.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from usageledger.local.servers import Servers


@pytest.fixture
def broker_pid(servers: Servers) -> int:
    """The id of the broker's process. The test is skipped if the broker runs elsewhere."""
    pid = servers.parts[0].pid
    if pid is None:
        pytest.skip("the broker is no process of this machine that could be frozen")
    return pid


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Freeze the process for the block. Its sockets stay open."""
    os.kill(pid, signal.SIGSTOP)
    try:
        # A thread that runs on another core may still answer for a moment.
        deadline = time.monotonic() + 30
        while any(
            "State:\tT" not in status.read_text()
            for status in Path(f"/proc/{pid}/task").glob("*/status")
        ):
            assert time.monotonic() < deadline, "the process was not stopped in time"
            time.sleep(0.01)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
