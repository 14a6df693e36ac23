"""A stack as a daemon: started detached, stopped and asked for its status by other processes.

The stack holds a lock file in its directory while anything of it runs. It also writes two status
files there, which other processes read.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from usageledger.local.addresses import Addresses
from usageledger.local.errors import StackError
from usageledger.local.files import make_private_directory, open_private
from usageledger.local.kafka_jars import fetch_jars
from usageledger.local.processes import PRIVATE_UMASK, ends_within, last_lines
from usageledger.local.progress import Progress, Silent
from usageledger.operations.waiting import is_true_within
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.runtime.settings import (
    LOCK_FILE,
    STACK_FILE,
    is_locked,
    running_stack,
    stack_redis_url,
)

STATUS_FILE = "status.json"
SUPERVISOR_LOG = "logs/supervisor.log"
"""The output of a detached stack's own process."""
STOP_TIMEOUT_S = 40.0
START_TIMEOUT_S = 900.0
LOCK_TIMEOUT_S = 1.0


def start_detached(
    command: Sequence[str],
    data: Path,
    progress: Progress | None = None,
    *,
    fetch: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Addresses:
    """Run ``command``, a foreground ``up`` for ``data``, as a daemon; return once its stack is up.

    Meanwhile ``progress`` gets its steps. With ``fetch``, the broker's jars are fetched here first,
    where a progress bar is visible. ``environment`` adds variables for the daemon: a secret belongs
    there, as every user can read a command. The daemon's own output goes to
    ``logs/supervisor.log``. Raises StackError if the stack does not come up; then the daemon does
    not run.
    """
    progress = progress or Silent()
    data = data.resolve()
    _refuse_second_stack(data)
    if fetch:
        fetch_jars(progress)
    log = data / SUPERVISOR_LOG
    make_private_directory(log.parent)
    (data / STACK_FILE).unlink(missing_ok=True)
    with open_private(log, "ab") as output:
        daemon = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=True,
            umask=PRIVATE_UMASK,
            env=os.environ | dict(environment or {}),
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
    """End the stack that runs in a directory, however it was started, and wait for its end.

    Raises StackError if none runs there, or if it had to be killed after ``timeout_s`` seconds.
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
    """Return the current state of the stack in a directory.

    It has ``state`` (starting, running, stopping, stopped), addresses, and ``services`` with their
    states. A stack whose supervisor was killed is ``stopped``, whatever its last file says.
    """
    data = data.resolve()
    stack = running_stack(data)
    services = _read_services(data / STATUS_FILE)
    if stack is None:
        for service in services:
            service |= {"pid": None, "state": "stopped"}
        stack = {"state": "stopped", "data": str(data)}
    return stack | {"services": services}


def lock_directory(data: Path) -> IO[bytes]:
    """Lock the directory until the returned file is closed.

    Raises StackError if another stack holds the lock.
    """
    lock = open_private(data / LOCK_FILE, "a+b")
    # A process that only checks the lock holds it for a moment, so one failure proves nothing.
    if not is_true_within(lambda: _try_lock(lock), LOCK_TIMEOUT_S):
        lock.close()
        _refuse_second_stack(data)
        raise StackError(f"a stack in {data} is starting or stopping: try again")
    lock.truncate(0)
    lock.write(str(os.getpid()).encode("ascii"))
    lock.flush()
    return lock


def _try_lock(lock: IO[bytes]) -> bool:
    """Try to lock the file, without waiting. Return whether this process holds the lock now."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refuse_second_stack(data: Path) -> None:
    pid = _lock_holder(data)
    if pid is not None:
        raise StackError(
            f"a stack runs in {data} already (process {pid}). Use it, stop it with "
            f"`usageledger down --data {data}`, or choose another directory with --data."
        )


def _lock_holder(data: Path) -> int | None:
    """Return the id of the process that holds the directory's lock, or None.

    The number in the file is valid only while the lock is held: process ids are reused.
    """
    if not is_locked(data / LOCK_FILE):
        return None
    content = (data / LOCK_FILE).read_bytes()
    return int(content) if content.isdigit() else None


def _wait_for_daemon(
    daemon: subprocess.Popen[bytes], data: Path, log: Path, progress: Progress
) -> Addresses:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    step = ""
    while time.monotonic() < deadline_s:
        stack = _read_object(data / STACK_FILE)
        doing = stack.get("doing") or step
        if doing != step:
            progress.say(doing)
            step = doing
        if stack.get("state") == "running" and stack.get("pid") == daemon.pid:
            # The daemon outlives this process: without this, Popen would warn of a running child.
            daemon.returncode = 0
            return Addresses(
                KafkaConnection.from_json(stack["kafka_connection"]),
                stack_redis_url(data),
                stack["prefix"],
                data,
                stack.get("gateway", ""),
            )
        if daemon.poll() is not None:
            reason = stack.get("error") or "\n".join(last_lines(log, 15))
            raise StackError(
                f"the stack did not come up (exit code {daemon.returncode}; its log is "
                f"{log}):\n{reason}"
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
