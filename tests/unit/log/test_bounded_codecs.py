"""Batches are decompressed within a bound, by both Kafka libraries."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import codec as aiokafka_codec
from kafka import codec as kafka_python_codec

from usageledger.log import bounded_codecs
from usageledger.log.bounded_codecs import (
    BATCH_BYTES_MAX,
    READ_BYTES_MAX,
    BatchUnreadable,
    Decoding,
    ReadFull,
    decode,
    decoding_within,
)

Encode = Callable[[bytes], Any]

ENCODERS = {
    f"{codec} by {name}": (codec, getattr(library, f"{codec}_encode"))
    for name, library in (("aiokafka", aiokafka_codec), ("kafka-python", kafka_python_codec))
    for codec in ("gzip", "snappy", "lz4", "zstd")
} | {"plain snappy": ("snappy", lambda data: aiokafka_codec.snappy_encode(data, False))}

every_encoder = pytest.mark.parametrize(
    ("codec", "encode"), list(ENCODERS.values()), ids=list(ENCODERS)
)


@every_encoder
def test_what_either_library_compresses_is_read(codec: str, encode: Encode) -> None:
    data = bytes(range(256)) * 1_000
    assert decode(codec, memoryview(encode(data))) == data


@every_encoder
def test_a_batch_of_exactly_the_bound_is_read_and_one_byte_more_is_not(
    codec: str, encode: Encode
) -> None:
    assert len(decode(codec, encode(bytes(BATCH_BYTES_MAX)))) == BATCH_BYTES_MAX
    with pytest.raises(BatchUnreadable, match=f"a {codec} batch decompresses to more than"):
        decode(codec, encode(bytes(BATCH_BYTES_MAX + 1)))


@every_encoder
def test_a_batch_that_ends_too_early_is_no_batch(codec: str, encode: Encode) -> None:
    whole = bytes(encode(bytes(range(256)) * 1_000))
    if codec == "zstd":
        # zstd gives what it has; a record that is cut short is found by its length.
        assert len(decode(codec, whole[:-10])) < 256_000
    else:
        with pytest.raises(BatchUnreadable, match="broken"):
            decode(codec, whole[:-10])


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd", "snappy"])
def test_bytes_of_another_kind_are_no_batch(codec: str) -> None:
    with pytest.raises(BatchUnreadable, match=codec):
        decode(codec, b"\xff\xff\xff\x00 no batch at all")


@pytest.mark.parametrize("codec", ["gzip", "zstd", "lz4"])
def test_frames_one_after_another_count_together(codec: str) -> None:
    frame = bytes(getattr(aiokafka_codec, f"{codec}_encode")(bytes(BATCH_BYTES_MAX // 2)))
    assert len(decode(codec, frame * 2)) == BATCH_BYTES_MAX
    with pytest.raises(BatchUnreadable):
        decode(codec, frame * 3)


def test_a_snappy_block_that_claims_gigabytes_is_refused_by_its_claim() -> None:
    claim = b"\xff\xff\xff\xff\x0f"
    with pytest.raises(BatchUnreadable, match="more than"):
        decode("snappy", claim + b"\x00")
    block = claim + b"\x00"
    xerial = b"\x82SNAPPY\x00" + bytes(8) + struct.pack(">I", len(block)) + block
    with pytest.raises(BatchUnreadable, match="more than"):
        decode("snappy", xerial)


def test_a_read_that_has_decompressed_enough_leaves_the_next_batch() -> None:
    read = Decoding()
    batch = bytes(aiokafka_codec.zstd_encode(bytes(BATCH_BYTES_MAX)))
    for _ in range(READ_BYTES_MAX // BATCH_BYTES_MAX):
        read.decode("zstd", batch)
    with pytest.raises(ReadFull):
        read.decode("zstd", batch)
    assert read.unreadable == {}


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("aiokafka", ["aiokafka.record._crecords.default_records"]),
        ("aiokafka", ["aiokafka.record.default_records", "aiokafka.record.legacy_records"]),
        ("kafka", ["kafka.record.default_records", "kafka.record.legacy_records"]),
    ],
)
def test_the_names_by_which_a_library_decodes_are_ours(library: str, modules: list[str]) -> None:
    """A release of a library that calls other names would decompress without a bound."""
    with decoding_within(library, Decoding()):
        pass
    for name in modules:
        module = importlib.import_module(name)
        decoders = [each for each in dir(module) if each.endswith("_decode")]
        assert decoders
        for each in decoders:
            assert "_decode_here_or_there" in repr(getattr(module, each)), f"{name}.{each}"


@pytest.mark.parametrize("library", ["aiokafka", "kafka"])
def test_an_apps_own_consumers_keep_their_librarys_decoders(library: str) -> None:
    with decoding_within(library, Decoding()):
        pass
    module = importlib.import_module(f"{library}.record.default_records")
    batch = bytes(aiokafka_codec.gzip_encode(bytes(BATCH_BYTES_MAX + 1)))
    assert len(module.gzip_decode(batch)) == BATCH_BYTES_MAX + 1
    with decoding_within(library, Decoding()), pytest.raises(BatchUnreadable):
        module.gzip_decode(batch)


@pytest.mark.parametrize("codec", ["snappy", "lz4", "zstd"])
def test_a_codec_without_its_library_names_what_to_install(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"snappy": "snappy", "lz4": "lz4.frame", "zstd": "zstandard"}[codec]
    monkeypatch.setitem(importlib.import_module("sys").modules, module, None)
    with pytest.raises(BatchUnreadable, match=f"pip install {bounded_codecs.LIBRARIES[codec]}"):
        decode(codec, b"anything")
