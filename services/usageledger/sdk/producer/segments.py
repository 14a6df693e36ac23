"""How a spool's files store messages.

A file is a sequence of frames. A frame is a status byte, the body's length and CRC-32, and the
body: when it was appended, key, error, value. When a message is done, its status byte is
overwritten in place, which needs no room on a full disk.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

WAITING, DONE = b"W", b"S"
SEGMENT_SUFFIX, PARKED_SUFFIX = ".segment", ".parked"
# Far above the largest frame: an event of 64 KiB, its key and an error.
CHUNK_BYTES = 1 << 18

_HEAD = struct.Struct(">cII")  # status, length of the body, CRC-32 of the body
_BODY = struct.Struct(">qHH")  # appended at (ms since 1970), length of the key, length of the error
_ERROR_BYTES_MAX = 2_000
# Where a frame can begin: a status, and a length below 1 MiB. A frame's content is text without
# NUL, so this is rare inside one.
_BEGINNING = re.compile(rb"[WS]\x00[\x00-\x0f]", re.DOTALL)


class Frame(NamedTuple):
    """One message as a file stores it, ``offset`` bytes into the data that was read."""

    offset: int
    size: int
    is_done: bool
    written_ms: int
    key: bytes
    value: bytes


@dataclass(slots=True, eq=False)
class Segment:
    """One file.

    ``pending`` counts its messages that are not done, ``given_out`` those of them that were read.
    Everything before ``read_offset`` was read.
    """

    path: Path
    parked: bool
    fd: int = -1
    size: int = 0
    read_offset: int = 0
    pending: int = 0
    pending_bytes: int = 0
    given_out: int = 0
    given_out_bytes: int = 0
    sealed: bool = False
    is_retry: bool = False
    """Whether its messages were parked before."""
    is_mark_missing: bool = False
    """Whether the disk refused to mark a message as done. This is logged once per file."""

    @property
    def is_used_up(self) -> bool:
        """Whether nothing can come from this file any more."""
        return self.sealed and self.pending == 0 and self.read_offset >= self.size

    def open(self) -> int:
        """The open file's descriptor."""
        if self.fd < 0:
            self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        return self.fd

    def create(self) -> None:
        """Make the file. It must not be there yet."""
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        """Close the file; `open` opens it again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(slots=True, eq=False)
class Message:
    """A message given out by the spool; it stays on disk until it is done or parked."""

    key: bytes
    value: bytes
    written_ms: int
    segment: Segment
    offset: int
    frame_bytes: int
    failures: int = 0
    is_done: bool = False


def pack(key: bytes, value: bytes, error: str, written_ms: int) -> bytes:
    """Make the frame of a message that waits."""
    reason = error.encode("utf-8", "replace")[:_ERROR_BYTES_MAX]
    body = b"".join((_BODY.pack(written_ms, len(key), len(reason)), key, reason, value))
    return _HEAD.pack(WAITING, len(body), zlib.crc32(body)) + body


def frames(data: bytes) -> Iterator[Frame]:
    """Yield every frame in ``data`` that is whole and as it was written.

    A damaged frame is skipped, so that the frames after it can be read.
    """
    position = 0
    while True:
        frame = _frame_at(data, position)
        while frame is None:
            beginning = _BEGINNING.search(data, position + 1)
            if beginning is None:
                return
            position = beginning.start()
            frame = _frame_at(data, position)
        yield frame
        position += frame.size


def _frame_at(data: bytes, position: int) -> Frame | None:
    if position + _HEAD.size + _BODY.size > len(data):
        return None
    status, length, checksum = _HEAD.unpack_from(data, position)
    start, end = position + _HEAD.size, position + _HEAD.size + length
    if (
        status not in (WAITING, DONE)
        or end > len(data)
        or length < _BODY.size
        or zlib.crc32(data[start:end]) != checksum
    ):
        return None
    written_ms, key_bytes, error_bytes = _BODY.unpack_from(data, start)
    key_start = start + _BODY.size
    value_start = key_start + key_bytes + error_bytes
    key = data[key_start : key_start + key_bytes]
    return Frame(position, end - position, status == DONE, written_ms, key, data[value_start:end])


def read_written_ms(segment: Segment) -> int | None:
    """When the next message to be read of a segment was appended, None if it has none."""
    if segment.read_offset >= segment.size:
        return None
    head = os.pread(segment.open(), _BODY.size, segment.read_offset + _HEAD.size)
    return int(_BODY.unpack(head)[0]) if len(head) == _BODY.size else None


def scan(path: Path) -> tuple[Segment, bool]:
    """Count the waiting messages in a file that another process wrote.

    Returns the segment, and whether a part of the file cannot be read. Zeros or an incomplete frame
    at the end are an append that did not finish. Its `record` never returned, so no event is lost.
    """
    data = path.read_bytes()
    segment = Segment(path=path, parked=False, sealed=True, is_retry=path.suffix == PARKED_SUFFIX)
    is_damaged = False
    for frame in frames(data):
        is_damaged |= frame.offset != segment.size
        segment.size = frame.offset + frame.size
        if not frame.is_done:
            segment.pending += 1
            segment.pending_bytes += frame.size
    return segment, is_damaged or not _is_unfinished(data[segment.size :])


def _is_unfinished(rest: bytes) -> bool:
    if len(rest) < _HEAD.size or not rest.strip(b"\0"):
        return True
    status, length, _ = _HEAD.unpack_from(rest)
    return bool(status == WAITING and _HEAD.size + length > len(rest))
