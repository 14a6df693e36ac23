"""Child processes that end with this one. Each has a log of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from usageledger.local import die_with_parent
from usageledger.local.files import make_private_directory, open_private

KILL_TIMEOUT_S = 10.0
LOG_BYTES_MAX = 20 * 1024 * 1024
# The files of a child are for its own user alone.
PRIVATE_UMASK = 0o077


class ChildProcess:
    """One command, which each call of ``spawn`` runs again. Its output is appended to ``log_path``.

    It ends with this process, even if this one is killed. It has a process group of its own, so
    that Ctrl-C in a terminal reaches only the supervisor, which then stops its children.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_path: Path,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.log_path = log_path
        self.environment = dict(environment) if environment is not None else None
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """The process id while it runs, else None."""
        return (
            self._process.pid
            if self._process is not None and self._process.poll() is None
            else None
        )

    @property
    def exit_code(self) -> int | None:
        """None while it runs or was never started. If a signal ended it, minus that signal."""
        return None if self._process is None else self._process.poll()

    def spawn(self) -> None:
        """Start the command.

        Raises OSError if the log cannot be written, RuntimeError if it runs already.
        """
        if self.pid is not None:
            raise RuntimeError(f"{self.name} runs already")
        self._close_pipe()
        make_private_directory(self.log_path.parent)
        rotate_log(self.log_path)
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        # The kernel ties a child to the thread that started it, not to the process. So one
        # lasting thread starts them all.
        self._process = _spawner().submit(self._spawn).result()

    def stop(self, timeout_s: float) -> None:
        """Send it SIGTERM and wait for its end. Kill it if that takes longer than ``timeout_s``.

        Does nothing if it does not run.
        """
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(KILL_TIMEOUT_S)
        self._close_pipe()

    def last_lines(self, count: int = 10) -> list[str]:
        """The end of its output since it was last started."""
        return last_lines(self.log_path, count, start=self._log_start)

    def _spawn(self) -> subprocess.Popen[bytes]:
        reading, self._pipe = os.pipe()
        try:
            with open_private(self.log_path, "ab") as log:
                return subprocess.Popen(
                    [
                        sys.executable,
                        "-I",
                        "-S",
                        die_with_parent.__file__,
                        str(os.getpid()),
                        str(reading),
                        *self.command,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    pass_fds=(reading,),
                    process_group=0,
                    umask=PRIVATE_UMASK,
                )
        finally:
            os.close(reading)

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


def rotate_log(path: Path) -> None:
    """Move the end of a log that has grown large to ``<name>.1``, and empty the log.

    Its writer may go on meanwhile: it appends, so its next line is the first of the empty file. A
    line that is written between the last read and the cut is lost. Does nothing if there is no such
    file.
    """
    try:
        excess = path.stat().st_size - LOG_BYTES_MAX
    except FileNotFoundError:
        return
    if excess <= 0:
        return
    kept, new = path.with_name(f"{path.name}.1"), path.with_name(f".{path.name}.1")
    with path.open("rb") as reading, new.open("wb") as writing:
        reading.seek(excess)
        shutil.copyfileobj(reading, writing)
        os.truncate(path, 0)
    new.replace(kept)


def last_lines(path: Path, count: int, *, start: int = 0, bytes_max: int = 16_384) -> list[str]:
    """The last ``count`` lines of a text file; none if there is no file.

    Only its last ``bytes_max`` bytes are read, and none of them before byte ``start``.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            # A log that was rotated since is shorter than it was then.
            file.seek(max(start if start <= size else 0, size - bytes_max))
            return file.read().decode("utf-8", "replace").splitlines()[-count:]
    except FileNotFoundError:
        return []


def is_alive(pid: int) -> bool:
    """Whether a process with this id runs (a zombie counts as ended)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(")")[2]
            .split()[0]
        )
    except (OSError, IndexError):
        return True
    return state != "Z"


def ends_within(pid: int, timeout_s: float) -> bool:
    """Wait until no process has this id. Return whether that is so in time."""
    deadline = time.monotonic() + timeout_s
    while is_alive(pid):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


@cache
def _spawner() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="usageledger-spawner")
