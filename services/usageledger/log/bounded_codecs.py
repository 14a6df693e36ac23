"""Decompressing batches within a bound, for aiokafka and kafka-python alike.

One MiB of a topic can decompress to gigabytes, and neither library has a limit. Inside
`decoding_within` both of them decode by the functions of this module, which stop at a bound.
Outside of it both work as they always do, so the other consumers of an app's process are left
alone.

The wiring replaces the names under which each library's record modules know their decoders.
`tests/unit/log/test_bounded_codecs.py` fails if a release of either library calls others.

Needs kafka-python alone: the SDKs use it.
"""

from __future__ import annotations

import importlib
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

MIB = 1024 * 1024

BATCH_BYTES_MAX = 8 * MIB
"""The most that a batch may decompress to, in bytes.

No topic accepts a larger batch before compression: our own writers count bytes before they
compress, and an input topic's broker decompresses what it receives and then measures it.
"""

READ_BYTES_MAX = 16 * MIB
"""The most that one read of a consumer decompresses, over all partitions, beside its last batch."""

FETCH_BYTES_MAX = 16 * MIB
"""The most that a broker sends for one fetch, over all partitions. Kafka's default is 50 MiB."""

LIBRARIES = {"snappy": "python-snappy", "lz4": "lz4", "zstd": "zstandard"}
"""The distribution that decodes a codec; gzip needs none."""

_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16

_wiring = threading.Lock()

# A module of each library, and the codecs that it decodes by names of its own. The first ones are
# missing where a library's extension in C is.
_WIRED: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "aiokafka": (
        ("aiokafka.record._crecords.default_records", ("gzip", "snappy", "lz4", "zstd")),
        ("aiokafka.record._crecords.legacy_records", ("gzip", "snappy", "lz4")),
        ("aiokafka.record.default_records", ("gzip", "snappy", "lz4", "zstd")),
        ("aiokafka.record.legacy_records", ("gzip", "snappy", "lz4")),
    ),
    "kafka": (
        ("kafka.record.default_records", ("gzip", "snappy", "lz4", "zstd")),
        ("kafka.record.legacy_records", ("gzip", "snappy", "lz4")),
    ),
}


class BatchUnreadable(Exception):
    """A batch cannot be decompressed: it is broken, too large, or there is no library for it."""


class ReadFull(Exception):
    """This read has decompressed as much as it may. The next one goes on with this batch."""


class Unreadable(NamedTuple):
    """Where a partition cannot be read on, and why.

    ``last_offset`` is the last one of the batch there; None where its header is broken too.
    """

    offset: int
    why: str
    last_offset: int | None = None


class Decoding:
    """How much one read has decompressed, and the partitions that it could not read."""

    def __init__(self) -> None:
        self.unreadable: dict[tuple[str, int], Unreadable] = {}
        """By topic and partition."""
        self._spent_bytes = 0

    def decode(self, codec: str, payload: Any) -> bytes:
        """Decompress one batch's payload. Raises BatchUnreadable, ReadFull."""
        if self._spent_bytes >= READ_BYTES_MAX:
            raise ReadFull
        data = decode(codec, payload)
        self._spent_bytes += len(data)
        return data

    def note(
        self,
        place: tuple[str, int],
        offset: int,
        error: Exception,
        last_offset: int | None = None,
    ) -> None:
        """Note why a topic's partition cannot be read on from ``offset``: see `Unreadable`."""
        self.unreadable[place] = Unreadable(offset, reason_of(error), last_offset)


_current: ContextVar[Decoding | None] = ContextVar("usageledger_decoding", default=None)


@contextmanager
def decoding_within(library: str, decoding: Decoding) -> Iterator[Decoding]:
    """Within the block ``library``, "aiokafka" or "kafka", decodes by this module."""
    _wire(library)
    before = _current.set(decoding)
    try:
        yield decoding
    finally:
        _current.reset(before)


def current_decoding() -> Decoding | None:
    """The read that is under way in this context."""
    return _current.get()


def decode(codec: str, payload: Any, bytes_max: int = BATCH_BYTES_MAX) -> bytes:
    """Decompress a payload to at most ``bytes_max`` bytes. Raises BatchUnreadable."""
    try:
        return _DECODERS[codec](payload, bytes_max)
    except ImportError as error:
        raise BatchUnreadable(
            f"no library decodes {codec} here: pip install {LIBRARIES[codec]}"
        ) from error
    except (BatchUnreadable, MemoryError):
        raise
    except Exception as error:
        # Each library has errors of its own, and none of them has a common base.
        raise BatchUnreadable(f"a {codec} batch is broken ({error})") from error


def reason_of(error: Exception) -> str:
    """Why a batch could not be read, in a few words."""
    if isinstance(error, BatchUnreadable):
        return str(error)
    words = str(error) or type(error).__name__
    if type(error).__name__ == "UnsupportedCodecError":
        return f'{words}: pip install "usageledger[codecs]"'
    return f"the batch is broken ({words})"


def _gzip(payload: Any, bytes_max: int) -> bytes:
    return _frames(
        lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), "gzip", payload, bytes_max
    )


def _lz4(payload: Any, bytes_max: int) -> bytes:
    from lz4.frame import LZ4FrameDecompressor  # type: ignore[import-untyped] # has no types

    return _frames(LZ4FrameDecompressor, "lz4", payload, bytes_max)


def _frames(new: Callable[[], Any], codec: str, payload: Any, bytes_max: int) -> bytes:
    """All frames of a payload. The two libraries' decompressors have the same attributes."""
    found = bytearray()
    rest = bytes(payload)
    while rest:
        decompressor = new()
        found += decompressor.decompress(rest, bytes_max - len(found) + 1)
        _require_within(codec, len(found), bytes_max)
        if not decompressor.eof:
            raise BatchUnreadable(f"a {codec} batch is broken (it ends too early)")
        rest = decompressor.unused_data or b""
    return bytes(found)


def _zstd(payload: Any, bytes_max: int) -> bytes:
    import zstandard

    decompressor = zstandard.ZstdDecompressor()
    with decompressor.stream_reader(bytes(payload), read_across_frames=True) as reader:
        found = reader.read(bytes_max + 1)
    _require_within("zstd", len(found), bytes_max)
    return found


def _snappy(payload: Any, bytes_max: int) -> bytes:
    """A plain block, or the blocks with their lengths that Java's library writes."""
    data = bytes(payload)
    if not data.startswith(_XERIAL_MAGIC):
        return _snappy_block(data, bytes_max)
    found = bytearray()
    start = _XERIAL_HEADER_BYTES
    while start < len(data):
        (length,) = struct.unpack_from(">I", data, start)
        start += 4
        found += _snappy_block(data[start : start + length], bytes_max - len(found))
        start += length
    return bytes(found)


def _snappy_block(block: bytes, bytes_max: int) -> bytes:
    """A block begins with its length before compression, as a varint of up to five bytes."""
    import snappy  # type: ignore[import-untyped] # has no types

    length = 0
    for index, byte in enumerate(block[:5]):
        length |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            break
    _require_within("snappy", length, bytes_max)
    return bytes(snappy.decompress(block))


def _require_within(codec: str, length: int, bytes_max: int) -> None:
    if length > bytes_max:
        raise BatchUnreadable(
            f"a {codec} batch decompresses to more than {BATCH_BYTES_MAX:,} bytes"
        )


_DECODERS: dict[str, Callable[[Any, int], bytes]] = {
    "gzip": _gzip,
    "snappy": _snappy,
    "lz4": _lz4,
    "zstd": _zstd,
}


def _wire(library: str) -> None:
    """Have a library's record modules ask here first. Does nothing the second time."""
    with _wiring:
        for name, codecs in _WIRED.pop(library, ()):
            try:
                module = importlib.import_module(name)
            except ImportError:
                continue
            for codec in codecs:
                original = getattr(module, f"{codec}_decode")
                setattr(module, f"{codec}_decode", partial(_decode_here_or_there, codec, original))


def _decode_here_or_there(codec: str, original: Callable[[Any], bytes], payload: Any) -> bytes:
    decoding = _current.get()
    return original(payload) if decoding is None else decoding.decode(codec, payload)
