"""Messages on disk between `record` and Kafka's acknowledgement.

::

    <directory>/<part>/lock              held (flock) by the live process that owns this part
                      /000001.segment    messages in the order they were appended
                      /000002.parked     messages that the broker refused, with its reason
    <directory>/damaged/                 unreadable files, kept for a person to look at

A part is one process's. Whoever finds a part whose lock is free (its process died) adopts it. Any
thread appends; one thread, the sender's, reads, settles, parks and adopts. A segment goes when it
is sealed and all in it is settled.

An append is one write to one file: 3 µs here, where a row in SQLite (WAL, synchronous=NORMAL) took
58 µs and kafka-python's `send` 27.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Literal, NamedTuple

from usageledger.sdk.producer import ownership, segments
from usageledger.sdk.producer.segments import PARKED_SUFFIX, SEGMENT_SUFFIX, Message, Segment

log = logging.getLogger("usageledger.sdk.producer")

Durability = Literal["process", "power"]
"""What an event survives once `record` has returned: the end of the process, however it ends, or
the end of the machine as well.
"""


class SpoolError(Exception):
    """The disk did not take the event: it is NOT recorded.

    ``retriable``: recording it again can succeed once the disk works.
    """

    retriable = True


class SpoolFull(SpoolError):
    """There is no room for the event: it is NOT recorded. The message says what to do."""


class Files:
    """The two calls by which bytes reach the disk; tests put a failing disk in their place."""

    def write(self, fd: int, data: bytes, offset: int) -> int:
        """Write at ``offset`` and return how many bytes were taken."""
        return os.pwrite(fd, data, offset)

    def sync(self, fd: int) -> None:
        """Return when what was written is on the medium."""
        os.fsync(fd)


class SpoolFigures(NamedTuple):
    """How many messages wait, their bytes on disk, and how many messages are parked."""

    waiting: int
    waiting_bytes: int
    parked: int


class Spool:
    """The messages of one topic that this process has in its care: its own, and those it adopted.

    ``bytes_max`` bounds the files, ``count_max`` the messages. ``durability="power"`` costs an
    fsync each (milliseconds on most disks). Raises SpoolError if the directory cannot be used.
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
        # A segment takes room until all of it is settled: small ones keep that a small share of the
        # bound.
        self._segment_bytes = max(1, min(segment_bytes, bytes_max // 8))
        self._is_synced = durability == "power"
        self._is_closed = False
        self._files = files or Files()
        self._lock = threading.RLock()
        self._unread: deque[Segment] = deque()
        self._active: Segment | None = None
        self._active_parked: Segment | None = None
        self._parts: dict[Path, ownership.Part] = {}
        self._count = self._bytes = self._parked_count = self._file_bytes = self._segments_made = 0
        try:
            ownership.require_flock()
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._own = ownership.new_part(directory)
            self._sync_directories(directory, directory.parent)
        except OSError as error:
            raise _as_spool_error(error, directory) from error
        self._parts[self._own.path] = self._own

    def append(self, key: bytes, value: bytes, *, now_ms: int | None = None) -> None:
        """Write a message.

        Once this returns it is on disk. Raises SpoolFull or SpoolError, and then nothing of it is
        there.
        """
        frame = segments.pack(
            key, value, "", time.time_ns() // 1_000_000 if now_ms is None else now_ms
        )
        with self._alone():
            if self._is_closed:
                raise SpoolError("the event is NOT recorded: the meter is closed")
            self._check_room(len(frame))
            try:
                self._write(self._segment_for(len(frame)), frame)
            except OSError as error:
                raise _as_spool_error(error, self.directory) from error
            self._count += 1
            self._bytes += len(frame)

    def read(self, count_max: int, bytes_max: int) -> list[Message]:
        """Give out the next messages, oldest first, each once.

        At least one if there is one; none that begins beyond ``bytes_max``.
        """
        messages: list[Message] = []
        with self._alone():
            while self._unread and len(messages) < count_max and bytes_max > 0:
                segment = self._unread[0]
                if segment.read_offset < segment.size:
                    for message in self._read_chunk(segment, count_max - len(messages), bytes_max):
                        messages.append(message)
                        bytes_max -= message.frame_bytes
                elif segment.sealed:
                    self._unread.popleft()
                    self._remove_if_done(segment)
                else:
                    break
        return messages

    def settle(self, message: Message) -> None:
        """Let a message go: Kafka has it. Settling twice is settling once."""
        with self._alone():
            self._settle(message)

    def park(self, message: Message, reason: str) -> None:
        """Set a message aside with the broker's reason, so that those behind it go on.

        Raises SpoolError if the disk does not take it.
        """
        frame = segments.pack(message.key, message.value, reason, message.written_ms)
        with self._alone():
            try:
                if self._active_parked is None:
                    self._active_parked = self._new_segment(PARKED_SUFFIX)
                self._write(self._active_parked, frame)
            except OSError as error:
                raise _as_spool_error(error, self.directory) from error
            self._parked_count += 1
            self._settle(message)

    def unpark(self) -> int:
        """Give out once more what is parked, behind all that waits.

        Returns how many messages that are.
        """
        with self._alone():
            segment, self._active_parked = self._active_parked, None
            if segment is None:
                return 0
            segment.parked, segment.sealed, segment.is_retry = False, True, True
            self._parked_count -= segment.pending
            self._count += segment.pending
            self._bytes += segment.pending_bytes
            self._seal_active()
            self._unread.append(segment)
            return segment.pending

    def adopt(self) -> int:
        """Take over parts whose process has died; what they hold is read before anything else.

        Returns how many messages that are.
        """
        adopted: list[Segment] = []
        for path in ownership.part_paths(self.directory):
            if path in self._parts:
                continue
            try:
                adopted += self._adopted_from(path)
            except OSError as error:
                log.error("could not adopt what an earlier process left in %s: %s", path, error)
        with self._alone():
            self._unread.extendleft(reversed(adopted))
        return sum(segment.pending for segment in adopted)

    def roll(self) -> frozenset[Path]:
        """Seal what was appended so far and return its files: when they are `gone`, all of it was
        acknowledged or parked.
        """
        with self._alone():
            self._seal_active()
            every = [segment for part in self._parts.values() for segment in part.segments.values()]
            return frozenset(segment.path for segment in every if not segment.parked)

    def gone(self, paths: frozenset[Path]) -> bool:
        """Whether none of these files is there any more."""
        with self._alone():
            return not any(path in part.segments for part in self._parts.values() for path in paths)

    def holds_refused(self) -> bool:
        """Whether there is a message that the broker has refused and not taken since: one that is
        tried again is not parked meanwhile.
        """
        with self._alone():
            every = [segment for part in self._parts.values() for segment in part.segments.values()]
            return any(
                segment.pending > 0 and (segment.parked or segment.is_retry) for segment in every
            )

    def figures(self) -> SpoolFigures:
        """What waits now."""
        with self._alone():
            return SpoolFigures(self._count, self._bytes, self._parked_count)

    def next_written_ms(self) -> int | None:
        """When the next message to be given out was appended (ms since 1970), None if there is
        none.
        """
        with self._alone():
            for segment in self._unread:
                written_ms = segments.read_written_ms(segment)
                if written_ms is not None:
                    return written_ms
        return None

    def close(self) -> None:
        """Give up everything.

        What waits is there for the next process that looks; what is empty is removed.
        """
        with self._alone():
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
        """Hold still, so that a child finds nothing half-made.

        Returns whether that was possible; `after_fork_in_parent` ends it.
        """
        return not self._is_called_within() and self._lock.acquire(timeout=1.0)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Let go of the parent's files."""
        ownership.let_go_of_the_parents()
        for part in self._parts.values():
            for segment in part.segments.values():
                segment.close()

    def _alone(self) -> threading.RLock:
        """The lock.

        Python runs a signal handler in the main thread, in the middle of whatever that is at: what
        it asks of a spool that is half-way through something is refused, where waiting for the lock
        would be for ever.
        """
        if self._is_called_within():
            raise SpoolError(
                "the event is NOT recorded, nothing is flushed or closed: the meter was called by "
                "a signal handler that interrupted it. "
                "In a handler raise SystemExit; what was recorded is on disk, and the end of the "
                "process sends it"
            )
        return self._lock

    def _is_called_within(self) -> bool:
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]

    # All below is called with the lock held, but for `_adopted_from` and `_take_over`.

    def _check_room(self, frame_bytes: int) -> None:
        messages = self._count + self._parked_count
        if messages < self._count_max and self._file_bytes + frame_bytes <= self._bytes_max:
            return
        raise SpoolFull(
            f"the event is NOT recorded: the spool in {self.directory} is full ({messages} of at "
            f"most {self._count_max} events, "
            f"{self._file_bytes} of at most {self._bytes_max} bytes). See whether Kafka can be "
            "reached (waiting().last_error says why "
            "sending fails): the spool empties by itself once it can. Until then stop generating, "
            "or raise spool_bytes_max."
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
                # The reader opens it in its turn: a long backlog is not a long list of open files.
                segment.close()
            self._remove_if_done(segment)

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
            taken = self._files.write(fd, frame, segment.size)
            if taken != len(frame):
                raise OSError(errno.ENOSPC, "the disk took only a part of it")
            if self._is_synced:
                self._files.sync(fd)
        except OSError:
            os.ftruncate(fd, segment.size)
            raise
        segment.size += len(frame)
        segment.pending += 1
        segment.pending_bytes += len(frame)
        self._file_bytes += len(frame)

    def _read_chunk(self, segment: Segment, count_max: int, bytes_max: int) -> list[Message]:
        """Read on in a segment that has more: some messages, or none and the segment's
        ``read_offset`` is further on.
        """
        start = segment.read_offset
        messages: list[Message] = []
        try:
            chunk = os.pread(segment.open(), min(segments.CHUNK_BYTES, segment.size - start), start)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EIO, errno.ESTALE):
                raise
            # What cannot be read must not hold up what comes after it.
            chunk = b""
        for frame in segments.frames(chunk):
            if len(messages) == count_max or bytes_max <= 0:
                break
            segment.read_offset = start + frame.offset + frame.size
            if not frame.is_settled:
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

    def _settle(self, message: Message) -> None:
        if message.settled:
            return
        message.settled = True
        segment = message.segment
        try:
            self._files.write(segment.open(), segments.SETTLED, message.offset)
        except OSError as error:
            # If this process dies before the file goes, the event is sent once more, under its own
            # id, and counted once.
            if not segment.is_note_missed:
                log.warning(
                    "could not note in %s that events were acknowledged: %s", segment.path, error
                )
            segment.is_note_missed = True
        segment.pending -= 1
        segment.pending_bytes -= message.frame_bytes
        segment.given_out -= 1
        segment.given_out_bytes -= message.frame_bytes
        self._count -= 1
        self._bytes -= message.frame_bytes
        self._remove_if_done(segment)

    def _remove_if_done(self, segment: Segment) -> None:
        part = self._parts[segment.path.parent]
        if not segment.is_done or segment.path not in part.segments:
            return
        del part.segments[segment.path]
        self._file_bytes -= segment.size
        if segment in self._unread:
            self._unread.remove(segment)
        segment.close()
        _remove_file(segment.path)
        if not part.segments and part is not self._own:
            del self._parts[part.path]
            part.remove()

    def _set_damaged_aside(self, segment: Segment) -> None:
        """Go past what cannot be read although it was written whole: the disk's fault.

        The file is kept.
        """
        lost, lost_bytes = (
            segment.pending - segment.given_out,
            segment.pending_bytes - segment.given_out_bytes,
        )
        _keep_damaged(segment.path, self.directory, lost)
        segment.pending, segment.pending_bytes = segment.given_out, segment.given_out_bytes
        self._count -= lost
        self._bytes -= lost_bytes
        if segment is self._active:
            self._active = None
        segment.read_offset, segment.sealed = segment.size, True

    def _adopted_from(self, path: Path) -> list[Segment]:
        """What a part holds whose process is dead, none where it lives. Raises OSError."""
        with self._alone():
            part = ownership.lock_orphan(path)
            if part is None:
                return []
            self._parts[path] = part
        try:
            return self._take_over(part)
        except OSError:
            with self._alone():
                del self._parts[path]
                part.let_go()
            raise

    def _take_over(self, part: ownership.Part) -> list[Segment]:
        """Count what a part holds and take it into our care.

        What was parked there is tried again: its reason may be mended by now.
        """
        found = []
        for path in sorted(part.path.iterdir()):
            if path.suffix in (SEGMENT_SUFFIX, PARKED_SUFFIX):
                segment, is_damaged = segments.scan(path)
                found.append(segment)
                if is_damaged:
                    _keep_damaged(path, self.directory, None)
        with self._alone():
            part.segments.update((segment.path, segment) for segment in found)
            self._count += sum(segment.pending for segment in found)
            self._bytes += sum(segment.pending_bytes for segment in found)
            self._file_bytes += sum(segment.size for segment in found)
            for segment in [segment for segment in found if segment.pending == 0]:
                segment.read_offset = segment.size
                found.remove(segment)
                self._remove_if_done(segment)
            if not part.segments and part.path in self._parts:
                del self._parts[part.path]
                part.remove()
        return found

    def _sync_directories(self, *directories: Path) -> None:
        """In a machine that loses power a file is there only if its directory was synced too."""
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
    """Remove a file of which nothing is needed any more.

    One that stays is adopted later: what is settled in it is not sent again.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s is not needed any more and could not be removed: %s", path, error)


def _as_spool_error(error: OSError, directory: Path) -> SpoolError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpoolFull(
            f"the event is NOT recorded: the disk of {directory} is full. Make room: the spool "
            "shrinks as Kafka takes events"
        )
    return SpoolError(
        f"the event is NOT recorded: the spool in {directory} cannot be written ({error})"
    )
