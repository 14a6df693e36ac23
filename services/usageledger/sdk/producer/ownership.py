"""Which process owns which part of a spool directory: a lock (flock) that lives exactly as long as
its process.
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

log = logging.getLogger("usageledger.sdk.producer")

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

    def let_go(self) -> None:
        """Close the lock, and nothing else: from now on others may adopt the part (unless a forked
        child's parent still holds it).
        """
        _held.discard(self)
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1

    def remove(self) -> None:
        """Remove the part if nothing is left in it, and let it go.

        One that stays is removed by who adopts it.
        """
        try:
            if os.listdir(self.path) == [_LOCK]:
                (self.path / _LOCK).unlink(missing_ok=True)
                self.path.rmdir()
        except OSError as error:
            log.warning("%s is empty and could not be removed: %s", self.path, error)
        finally:
            self.let_go()


# All that this process holds the lock of, and, in a forked child, what its parent held. A part that
# was being made as the process forked, or whose meter was being closed, is in no meter.
_held: set[Part] = set()


def let_go_of_the_parents() -> None:
    """Close a forked child's copies of the locks that its parent held: they would keep its messages
    from adoption when it dies.
    """
    for part in [part for part in list(_held) if part.made_in != os.getpid()]:
        part.let_go()


def require_flock() -> None:
    """Raise OSError where the platform has no flock."""
    if fcntl is None:
        raise OSError(
            "this platform has no flock, by which processes that share a spool directory keep out "
            "of each other's way"
        )


def new_part(directory: Path) -> Part:
    """Make a part of our own. Raises OSError."""
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
        # Somebody took the new directory for one that was left behind, before it was locked. It is
        # theirs now.
    raise OSError(f"could not lock a directory of our own in {directory}")


def lock_orphan(path: Path) -> Part | None:
    """Take a part whose process is dead; None where the owner lives or another was quicker.

    Raises OSError.
    """
    try:
        lock_fd = _lock(path, 0)
    except FileNotFoundError:
        _remove_unlocked(path)
        return None
    return None if lock_fd is None else Part(path, lock_fd)


def part_paths(directory: Path) -> Iterator[Path]:
    """All parts of a spool directory, oldest first, whoever owns them."""
    with os.scandir(directory) as found:
        names = sorted(
            entry.name
            for entry in found
            if entry.name != DAMAGED and entry.is_dir(follow_symlinks=False)
        )
    return (directory / name for name in names)


def _lock(path: Path, flags: int) -> int | None:
    """Return the descriptor of the part's lock if it could be had and the part is still there."""
    fd = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The owner may have removed the part, lock and all, after we opened the file: then we hold
        # the lock of nothing.
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
    """Remove a part without a lock: its process died as it made it, or is about to lock it and will
    make another.
    """
    try:
        path.rmdir()
    except OSError:
        # It has got its lock by now, or is gone: either way it is not ours.
        return
