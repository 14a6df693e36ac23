"""Which process owns which part of a spool directory.

A process owns a part while it holds the part's lock (flock). The lock ends with the process.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from usageledger.sdk.producer.segments import Segment

try:
    import fcntl
except ImportError:  # Windows: `require_flock` says so when a spool is made.
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

DAMAGED = "damaged"
_LOCK = "lock"
_ATTEMPTS = 5


@dataclass(slots=True, eq=False)
class Part:
    """A directory of which this process holds the lock, and the files in it."""

    path: Path
    lock_fd: int
    segments: dict[Path, Segment] = field(default_factory=dict)
    made_in: int = field(default_factory=os.getpid)

    def __post_init__(self) -> None:
        _held.add(self)

    def unlock(self) -> None:
        """Close this process's copy of the lock.

        From now on another process may adopt the part, unless the parent of a forked child still
        holds the lock.
        """
        _held.discard(self)
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1

    def remove(self) -> None:
        """Remove the part if it is empty, and unlock it.

        A process that adopts a part which could not be removed removes it later.
        """
        try:
            if os.listdir(self.path) == [_LOCK]:
                (self.path / _LOCK).unlink(missing_ok=True)
                self.path.rmdir()
        except OSError as error:
            log.warning("%s is empty and could not be removed: %s", self.path, error)
        finally:
            self.unlock()


# The parts whose lock this process has open. In a forked child that includes those of its parent.
# A fork can happen while a part is made or its meter closes. Then no meter knows the part.
_held: set[Part] = set()


def close_locks_of_parent() -> None:
    """Close a forked child's copies of its parent's locks.

    They would keep the parent's messages from adoption after the parent's death.
    """
    for part in [part for part in list(_held) if part.made_in != os.getpid()]:
        part.unlock()


def require_flock() -> None:
    """Raise OSError where the platform has no flock."""
    if fcntl is None:
        raise OSError(
            "this platform has no flock, which processes that share a spool directory need. "
            "Use Linux or macOS"
        )


def new_part(directory: Path) -> Part:
    """Make and lock a new part. Raises OSError."""
    for _ in range(_ATTEMPTS):
        path = (
            directory / f"{time.time_ns() // 1_000_000:013d}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        )
        path.mkdir(mode=0o700)
        try:
            lock_fd = _lock(path, os.O_CREAT)
        except FileNotFoundError:
            continue
        if lock_fd is not None:
            return Part(path, lock_fd)
        # Another process adopted the new directory before we had locked it, and owns it now.
    raise OSError(f"could not lock a new directory in {directory}")


def lock_orphan(path: Path) -> Part | None:
    """Lock a part whose process is dead.

    Returns None if its owner lives or another process was quicker. Raises OSError.
    """
    try:
        lock_fd = _lock(path, 0)
    except FileNotFoundError:
        _remove_unlocked(path)
        return None
    return None if lock_fd is None else Part(path, lock_fd)


def part_paths(directory: Path) -> Iterator[Path]:
    """Yield all parts of a spool directory, oldest first, whichever process owns them."""
    with os.scandir(directory) as found:
        names = sorted(
            entry.name
            for entry in found
            if entry.name != DAMAGED and entry.is_dir(follow_symlinks=False)
        )
    return (directory / name for name in names)


def _lock(path: Path, flags: int) -> int | None:
    """Return the descriptor of the part's lock, or None if it is held or the part is gone."""
    fd = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The owner may have removed the part after we opened the file. That lock protects nothing.
        if os.fstat(fd).st_ino == os.stat(path / _LOCK).st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _remove_unlocked(path: Path) -> None:
    """Remove a part that has no lock file.

    Its process died while it made the part, or is about to lock it and will make another.
    """
    try:
        path.rmdir()
    except OSError:
        # It is locked by now, or gone. Either way it is not ours.
        return
