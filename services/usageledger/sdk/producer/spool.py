"""Messages on disk between `record` and Kafka's acknowledgement.

::

    <directory>/<part>/lock              held (flock) by the live process that owns this part
                      /000001.segment    messages in the order they were appended
                      /000002.parked     messages that the broker refused, with its reason
    <directory>/damaged/                 unreadable files, kept for a person to look at

A part belongs to one process. When that process has died, the part's lock is free, and a live
process that finds it adopts the part. Any thread appends. One thread, the sender's, reads,
acknowledges, parks and adopts. A segment is removed once it is sealed and each message in it is
acknowledged or parked.

An append is one write to one file. It took 3 µs on our machine; a row in SQLite (WAL,
synchronous=NORMAL) took 58 µs, and kafka-python's `send` 27.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, Literal, NamedTuple, ParamSpec, TypeVar

from usageledger.sdk.producer import ownership, segments
from usageledger.sdk.producer.segments import PARKED_SUFFIX, SEGMENT_SUFFIX, Message, Segment

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")

Durability = Literal["process", "power"]
"""What a recorded event survives: any end of its process, or the machine's power loss as well."""


class SpoolError(Exception):
    """The event could not be written to disk: it is NOT recorded. The message says what to do.

    ``retriable``: recording it again can succeed once the disk works.
    """

    retriable = True


class SpoolFull(SpoolError):
    """There is no room for the event: it is NOT recorded. The message says what to do."""


class Files:
    """The two calls by which bytes reach the disk. Tests substitute a failing disk."""

    def write(self, fd: int, data: bytes, offset: int) -> int:
        """Write at ``offset`` and return how many bytes were written."""
        return os.pwrite(fd, data, offset)

    def sync(self, fd: int) -> None:
        """Return once all written bytes are on the medium."""
        os.fsync(fd)


class SpoolFigures(NamedTuple):
    """How many messages wait, their bytes on disk, and how many messages are parked."""

    waiting: int
    waiting_bytes: int
    parked: int


class _Totals:
    """The sums over a spool's segments. Remove a segment, change it, and add it again."""

    def __init__(self) -> None:
        self.waiting = self.waiting_bytes = self.parked = self.file_bytes = 0

    def add(self, segment: Segment, sign: Literal[1, -1] = 1) -> None:
        """Add a segment's figures, or remove them with ``sign=-1``."""
        self.file_bytes += sign * segment.size
        if segment.parked:
            self.parked += sign * segment.pending
        else:
            self.waiting += sign * segment.pending
            self.waiting_bytes += sign * segment.pending_bytes


def _with_lock(
    method: Callable[Concatenate[Spool, _P], _R],
) -> Callable[Concatenate[Spool, _P], _R]:
    """Run a method with the spool's lock held.

    Python runs a signal handler in the main thread, between any two steps of that thread. A handler
    that calls the spool half-way through another of its thread's calls gets SpoolError, because
    waiting for the lock would never end.
    """

    @functools.wraps(method)
    def locked(self: Spool, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self._lock:
            # The lock is re-entrant, so this is true only for a call from within a call.
            if self._is_busy:
                raise SpoolError(
                    "the event is NOT recorded, nothing is flushed or closed: the meter was called "
                    "by a signal handler that interrupted it. In a handler raise SystemExit: "
                    "all recorded events are on disk, and the end of the process sends them"
                )
            self._is_busy = True
            try:
                return method(self, *args, **kwargs)
            finally:
                self._is_busy = False

    return locked


class Spool:
    """The messages of one topic that this process has to send: its own, and those it adopted.

    ``bytes_max`` bounds the files, ``count_max`` the messages. ``durability="power"`` costs an
    fsync for each append (milliseconds on most disks). Raises SpoolError if the directory cannot be
    used.
    """

    def __init__(
        self,
        directory: Path,
        *,
        bytes_max: int = 1 << 30,
        count_max: int = 5_000_000,
        durability: Durability = "process",
        segment_bytes: int = 4 << 20,
        files: Files | None = None,
    ) -> None:
        self.directory = directory
        self._bytes_max, self._count_max = bytes_max, count_max
        # A segment needs its room until its last message is done. Small segments keep that a small
        # share of the bound.
        self._segment_bytes = max(1, min(segment_bytes, bytes_max // 8))
        self._is_synced = durability == "power"
        self._is_closed = False
        self._files = files or Files()
        self._lock = threading.RLock()
        self._is_busy = False
        self._unread: deque[Segment] = deque()
        self._active: Segment | None = None
        self._active_parked: Segment | None = None
        self._parts: dict[Path, ownership.Part] = {}
        self._totals = _Totals()
        self._segments_made = 0
        try:
            ownership.require_flock()
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._own = ownership.new_part(directory)
            self._sync_directories(directory, directory.parent)
        except OSError as error:
            raise _as_spool_error(error, directory) from error
        self._parts[self._own.path] = self._own

    def append(self, key: bytes, value: bytes, *, now_ms: int | None = None) -> None:
        """Write a message. Once this returns, it is on disk.

        Raises SpoolFull or SpoolError, and then nothing of the message is on disk.
        """
        written_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        self._append_frame(segments.pack(key, value, "", written_ms))

    @_with_lock
    def read(self, count_max: int, bytes_max: int) -> list[Message]:
        """Give out the next messages, oldest first, each once.

        Returns at least one if there is one, and none that begins beyond ``bytes_max``.
        """
        messages: list[Message] = []
        while self._unread and len(messages) < count_max and bytes_max > 0:
            segment = self._unread[0]
            if segment.read_offset < segment.size:
                for message in self._read_chunk(segment, count_max - len(messages), bytes_max):
                    messages.append(message)
                    bytes_max -= message.frame_bytes
            elif segment.sealed:
                self._unread.popleft()
                self._remove_if_used_up(segment)
            else:
                break
        return messages

    @_with_lock
    def acknowledge(self, message: Message) -> None:
        """Remove a message that Kafka has. A repeat changes nothing."""
        self._finish(message)

    def park(self, message: Message, reason: str) -> None:
        """Set a message aside with the broker's reason, so that later messages can be sent.

        Raises SpoolError if it cannot be written; then it still waits as before.
        """
        self._park_frame(
            message, segments.pack(message.key, message.value, reason, message.written_ms)
        )

    @_with_lock
    def unpark(self) -> int:
        """Let parked messages be read again, after all that wait. Return how many there are."""
        segment, self._active_parked = self._active_parked, None
        if segment is None:
            return 0
        self._totals.add(segment, -1)
        segment.parked, segment.sealed, segment.is_retry = False, True, True
        self._totals.add(segment)
        self._seal_active()
        self._unread.append(segment)
        return segment.pending

    def adopt(self) -> int:
        """Take over the parts of dead processes; their messages are read before all others.

        Returns how many messages these parts hold.
        """
        adopted: list[Segment] = []
        for path in ownership.part_paths(self.directory):
            if path in self._parts:
                continue
            try:
                adopted += self._adopt_part(path)
            except OSError as error:
                log.error(
                    "could not adopt the events that an earlier process left in %s: %s", path, error
                )
        self._read_first(adopted)
        return sum(segment.pending for segment in adopted)

    @_with_lock
    def roll(self) -> frozenset[Path]:
        """Seal the files that hold messages so far, and return them.

        Once these files are `gone`, each of their messages was acknowledged or parked.
        """
        self._seal_active()
        return frozenset(segment.path for segment in self._segments() if not segment.parked)

    @_with_lock
    def gone(self, paths: frozenset[Path]) -> bool:
        """Whether none of these files exists any more."""
        return not any(path in part.segments for part in self._parts.values() for path in paths)

    @_with_lock
    def holds_refused(self) -> bool:
        """Whether it holds a message that the broker has refused and not accepted since.

        That includes a message that is being retried, and therefore is not parked now.
        """
        return any(
            segment.pending > 0 and (segment.parked or segment.is_retry)
            for segment in self._segments()
        )

    @_with_lock
    def figures(self) -> SpoolFigures:
        """Return how many messages wait or are parked now."""
        totals = self._totals
        return SpoolFigures(totals.waiting, totals.waiting_bytes, totals.parked)

    @_with_lock
    def next_written_ms(self) -> int | None:
        """Return when the next message to be read was appended (ms since 1970), or None."""
        for segment in self._unread:
            written_ms = segments.read_written_ms(segment)
            if written_ms is not None:
                return written_ms
        return None

    @_with_lock
    def close(self) -> None:
        """Release all parts. Waiting messages stay on disk for another process to adopt."""
        self._is_closed = True
        self._active = self._active_parked = None
        self._unread.clear()
        for part in self._parts.values():
            for segment in part.segments.values():
                segment.close()
                if segment.pending == 0:
                    _remove_file(segment.path)
            part.remove()
        self._parts.clear()

    def before_fork(self) -> bool:
        """Keep all threads out until `after_fork_in_parent`: a child then finds no half-made step.

        Returns False, and locks nothing, if a thread does not finish its step within a second. The
        same holds if a signal handler forks that interrupted a step.
        """
        if not self._lock.acquire(timeout=1.0):
            return False
        if self._is_busy:
            self._lock.release()
            return False
        self._is_busy = True
        return True

    def after_fork_in_parent(self) -> None:
        """End what `before_fork` began."""
        self._is_busy = False
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Close the child's copies of the parent's locks and files."""
        ownership.close_locks_of_parent()
        for segment in self._segments():
            segment.close()

    @_with_lock
    def _append_frame(self, frame: bytes) -> None:
        if self._is_closed:
            raise SpoolError("the event is NOT recorded: the meter is closed. Make another meter")
        self._check_room(len(frame))
        try:
            self._write(self._segment_for(len(frame)), frame)
        except OSError as error:
            raise _as_spool_error(error, self.directory) from error

    @_with_lock
    def _park_frame(self, message: Message, frame: bytes) -> None:
        try:
            if self._active_parked is None:
                self._active_parked = self._new_segment(PARKED_SUFFIX)
            self._write(self._active_parked, frame)
        except OSError as error:
            raise _as_spool_error(error, self.directory) from error
        self._finish(message)

    def _adopt_part(self, path: Path) -> list[Segment]:
        """Return the waiting segments of a dead process; none if it lives. Raises OSError.

        The files are read without the lock: they can hold a gigabyte.
        """
        part = self._lock_part(path)
        if part is None:
            return []
        try:
            found = self._scan_part(part)
        except OSError:
            self._give_back(part)
            raise
        self._take_over(part, found)
        return [segment for segment in found if segment.pending]

    def _scan_part(self, part: ownership.Part) -> list[Segment]:
        found = []
        for path in sorted(part.path.iterdir()):
            if path.suffix in (SEGMENT_SUFFIX, PARKED_SUFFIX):
                segment, is_damaged = segments.scan(path)
                found.append(segment)
                if is_damaged:
                    _keep_damaged(path, self.directory, None)
        return found

    @_with_lock
    def _lock_part(self, path: Path) -> ownership.Part | None:
        part = ownership.lock_orphan(path)
        if part is not None:
            self._parts[path] = part
        return part

    @_with_lock
    def _give_back(self, part: ownership.Part) -> None:
        del self._parts[part.path]
        part.unlock()

    @_with_lock
    def _take_over(self, part: ownership.Part, found: list[Segment]) -> None:
        """Count an adopted part's segments, and remove those in which nothing waits."""
        part.segments.update((segment.path, segment) for segment in found)
        for segment in found:
            self._totals.add(segment)
        for segment in found:
            if segment.pending == 0:
                segment.read_offset = segment.size
                self._remove_if_used_up(segment)
        if not part.segments and part.path in self._parts:
            del self._parts[part.path]
            part.remove()

    @_with_lock
    def _read_first(self, adopted: list[Segment]) -> None:
        self._unread.extendleft(reversed(adopted))

    # Everything below is called with the lock held.

    def _segments(self) -> list[Segment]:
        return [segment for part in self._parts.values() for segment in part.segments.values()]

    def _check_room(self, frame_bytes: int) -> None:
        totals = self._totals
        messages = totals.waiting + totals.parked
        if messages < self._count_max and totals.file_bytes + frame_bytes <= self._bytes_max:
            return
        raise SpoolFull(
            f"the event is NOT recorded: the spool in {self.directory} is full ({messages} of at "
            f"most {self._count_max} events, {totals.file_bytes} of at most {self._bytes_max} "
            "bytes). It empties by itself as soon as Kafka can be reached: waiting().last_error "
            "says why sending fails. Until then stop generating, or raise spool_bytes_max."
        )

    def _segment_for(self, frame_bytes: int) -> Segment:
        if (
            self._active is not None
            and self._active.size > 0
            and self._active.size + frame_bytes > self._segment_bytes
        ):
            self._seal_active()
        if self._active is None:
            self._active = self._new_segment(SEGMENT_SUFFIX)
            self._unread.append(self._active)
        return self._active

    def _seal_active(self) -> None:
        segment, self._active = self._active, None
        if segment is not None:
            segment.sealed = True
            if segment.read_offset == 0:
                # The reader opens it again. A long backlog must not keep many files open.
                segment.close()
            self._remove_if_used_up(segment)

    def _new_segment(self, suffix: str) -> Segment:
        self._segments_made += 1
        segment = Segment(
            path=self._own.path / f"{self._segments_made:06d}{suffix}",
            parked=suffix == PARKED_SUFFIX,
        )
        segment.create()
        try:
            self._sync_directories(self._own.path)
        except OSError:
            segment.close()
            _remove_file(segment.path)
            raise
        self._own.segments[segment.path] = segment
        return segment

    def _write(self, segment: Segment, frame: bytes) -> None:
        """Append a whole frame, or leave the segment as it was and raise OSError."""
        fd = segment.open()
        try:
            written = self._files.write(fd, frame, segment.size)
            if written != len(frame):
                raise OSError(errno.ENOSPC, "only a part of the event was written")
            if self._is_synced:
                self._files.sync(fd)
        except OSError:
            os.ftruncate(fd, segment.size)
            raise
        self._totals.add(segment, -1)
        segment.size += len(frame)
        segment.pending += 1
        segment.pending_bytes += len(frame)
        self._totals.add(segment)

    def _read_chunk(self, segment: Segment, count_max: int, bytes_max: int) -> list[Message]:
        """Read on in a segment that has more.

        Returns some messages; or none, and then the segment's ``read_offset`` has advanced.
        """
        start = segment.read_offset
        messages: list[Message] = []
        try:
            chunk = os.pread(segment.open(), min(segments.CHUNK_BYTES, segment.size - start), start)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EIO, errno.ESTALE):
                raise
            # An unreadable file must not hold up the messages after it.
            chunk = b""
        for frame in segments.frames(chunk):
            if len(messages) == count_max or bytes_max <= 0:
                break
            segment.read_offset = start + frame.offset + frame.size
            if not frame.is_done:
                messages.append(
                    Message(
                        frame.key,
                        frame.value,
                        frame.written_ms,
                        segment,
                        start + frame.offset,
                        frame.size,
                    )
                )
                bytes_max -= frame.size
        segment.given_out += len(messages)
        segment.given_out_bytes += sum(message.frame_bytes for message in messages)
        if segment.read_offset == start or (
            segment.read_offset >= segment.size and segment.given_out < segment.pending
        ):
            self._set_damaged_aside(segment)
        return messages

    def _finish(self, message: Message) -> None:
        """Mark a message as done, in memory and on disk. A repeat changes nothing."""
        if message.is_done:
            return
        message.is_done = True
        segment = message.segment
        try:
            self._files.write(segment.open(), segments.DONE, message.offset)
        except OSError as error:
            # If this process dies before the file is removed, the event is sent once more under its
            # own id, and the ledger counts it once.
            if not segment.is_mark_missing:
                log.warning("could not mark events in %s as acknowledged: %s", segment.path, error)
            segment.is_mark_missing = True
        self._totals.add(segment, -1)
        segment.pending -= 1
        segment.pending_bytes -= message.frame_bytes
        segment.given_out -= 1
        segment.given_out_bytes -= message.frame_bytes
        self._totals.add(segment)
        self._remove_if_used_up(segment)

    def _remove_if_used_up(self, segment: Segment) -> None:
        part = self._parts[segment.path.parent]
        if not segment.is_used_up or segment.path not in part.segments:
            return
        del part.segments[segment.path]
        self._totals.add(segment, -1)
        if segment in self._unread:
            self._unread.remove(segment)
        segment.close()
        _remove_file(segment.path)
        if not part.segments and part is not self._own:
            del self._parts[part.path]
            part.remove()

    def _set_damaged_aside(self, segment: Segment) -> None:
        """Skip the rest of a file that was written whole and cannot be read: the disk's fault.

        The file is kept in ``damaged``.
        """
        _keep_damaged(segment.path, self.directory, segment.pending - segment.given_out)
        self._totals.add(segment, -1)
        segment.pending, segment.pending_bytes = segment.given_out, segment.given_out_bytes
        self._totals.add(segment)
        if segment is self._active:
            self._active = None
        segment.read_offset, segment.sealed = segment.size, True

    def _sync_directories(self, *directories: Path) -> None:
        """Sync directories: after a power loss, a file exists only if its directory was synced."""
        for directory in directories if self._is_synced else ():
            fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._files.sync(fd)
            finally:
                os.close(fd)


def _keep_damaged(path: Path, directory: Path, lost: int | None) -> None:
    kept = directory / ownership.DAMAGED / f"{path.parent.name}-{path.name}"
    log.error(
        "a part of %s cannot be read: %s events are NOT sent, the file is kept as %s",
        path,
        "some" if lost is None else lost,
        kept,
    )
    try:
        kept.parent.mkdir(exist_ok=True, mode=0o700)
        os.link(path, kept)
    except FileExistsError:
        return
    except OSError as error:
        log.error("%s could not be kept: %s", path, error)


def _remove_file(path: Path) -> None:
    """Remove a file whose messages are all done.

    If it cannot be removed, it is adopted later, and its done messages are not sent again.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s is no longer needed and could not be removed: %s", path, error)


def _as_spool_error(error: OSError, directory: Path) -> SpoolError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpoolFull(
            f"the event is NOT recorded: the disk of {directory} is full. Make room; the spool "
            "itself shrinks as Kafka acknowledges events"
        )
    return SpoolError(
        f"the event is NOT recorded: the spool in {directory} cannot be written ({error}). "
        "Repair the disk or name another spool_directory"
    )
