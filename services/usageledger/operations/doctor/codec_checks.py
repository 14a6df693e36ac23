"""Whether this installation reads every codec that a producer may compress with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec

from usageledger.log.bounded_codecs import (
    LIBRARIES,
    Decoding,
    decoding_within,
    reason_of,
)
from usageledger.operations.doctor.finding import Finding

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
"""The codecs of Kafka's record batches, by their numbers there."""

MODULES = {"python-snappy": "snappy", "zstandard": "zstandard", "lz4": "lz4", "cramjam": "cramjam"}

_VALUE = b"a record of an event " * 20


def codec_findings() -> Iterator[Finding]:
    """The codecs that one of the two Kafka libraries cannot read here, with what to install."""
    for library, round_trip in (("aiokafka", _by_aiokafka), ("kafka-python", _by_kafka_python)):
        for codec, number in CODECS.items():
            problem = _problem_of(round_trip, number)
            if problem is not None:
                yield Finding(
                    area="codecs",
                    what=f"{library} cannot read {codec}: {problem}",
                    why="a producer that compresses with it stops the partitions that it writes to",
                    mend=_command(library, codec),
                )


def _problem_of(round_trip: Callable[[int], bytes | None], number: int) -> str | None:
    try:
        found = round_trip(number)
    except Exception as error:  # noqa: BLE001 - whatever a library raises is what is wrong with it
        return reason_of(error)
    return None if found == _VALUE else "it reads another value than was written"


def _by_aiokafka(number: int) -> bytes | None:
    """Write a batch with one record and read it, as aiokafka's producer and consumer do."""
    from aiokafka.record.default_records import DefaultRecordBatchBuilder
    from aiokafka.record.memory_records import MemoryRecords

    builder = DefaultRecordBatchBuilder(2, number, 0, -1, -1, -1, len(_VALUE) * 2)
    builder.append(0, 0, None, _VALUE, [])
    with decoding_within("aiokafka", Decoding()):
        (record,) = list(MemoryRecords(bytes(builder.build())).next_batch())
    value: bytes | None = record.value
    return value


def _by_kafka_python(number: int) -> bytes | None:
    """Write a batch with one record and read it, as kafka-python's producer and consumer do."""
    with warnings.catch_warnings():
        # kafka-python reads its message schemas by a call that Python 3.11 and 3.12 deprecate.
        warnings.simplefilter("ignore", DeprecationWarning)
        from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

    builder = MemoryRecordsBuilder(magic=2, compression_type=number, batch_size=len(_VALUE) * 2)
    builder.append(timestamp=0, key=None, value=_VALUE, headers=[])
    builder.close()
    with decoding_within("kafka", Decoding()):
        (record,) = list(MemoryRecords(builder.buffer()).next_batch())
    value: bytes | None = record.value
    return value


def _command(library: str, codec: str) -> str:
    needed = [LIBRARIES[codec]] if codec in LIBRARIES else []
    if library == "aiokafka" and codec in LIBRARIES:
        needed.append("cramjam")
    missing = [name for name in needed if not _is_there(MODULES[name])]
    if not missing:
        return f"pip install --force-reinstall {' '.join(needed) or library}"
    return f"pip install {' '.join(missing)}"


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:
        # It was imported in an unusual way, or kept from being imported.
        return False
