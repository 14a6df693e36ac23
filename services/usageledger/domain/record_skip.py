"""A record skip: an operator says in the log that a record of it is a stranger's.

It changes no entry. A reader looks for it only where a record cannot be read on from, so a valid
entry can never be skipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec

from usageledger.domain.chain import UNREADABLE

SKIP_TYPE = "ledger.record_skipped"
_SKIP_TYPE = SKIP_TYPE.encode()

SkippedTopic = Literal["ledger", "limit"]


class SkippedPlace(msgspec.Struct, frozen=True, gc=False):
    """The record that is skipped.

    ``digest`` is the SHA-256 of its value, so that another record at that offset is not meant.
    """

    topic: SkippedTopic
    partition: int
    offset: int
    digest: str


class RecordSkip(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a record skip."""

    place: SkippedPlace
    reason: str
    operator: str


class _Envelope(msgspec.Struct):
    type: str
    data: msgspec.Raw


def place_of(topic: SkippedTopic, partition: int, offset: int, value: bytes | None) -> SkippedPlace:
    """How a skip names this record."""
    return SkippedPlace(topic, partition, offset, hashlib.sha256(value or b"").hexdigest())


def encode_skip(skip: RecordSkip) -> bytes:
    """Write a skip as the value of its record: a CloudEvent."""
    place = skip.place
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "type": SKIP_TYPE,
            "source": f"/usageledger/ledger/{place.partition}",
            "id": f"skip/{place.topic}/{place.partition}-{place.offset}",
            "datacontenttype": "application/json",
            "data": skip,
        }
    )


def decode_skip(value: bytes | None) -> RecordSkip | None:
    """Read a skip back. The result is None for anything else."""
    if value is None or _SKIP_TYPE not in value:
        return None
    try:
        envelope = msgspec.json.decode(value, type=_Envelope)
        if envelope.type != SKIP_TYPE:
            return None
        return msgspec.json.decode(envelope.data, type=RecordSkip)
    except UNREADABLE:
        return None


def places_skipped(values: Iterable[bytes | None]) -> frozenset[SkippedPlace]:
    """The records that the skips among these values name."""
    skips = map(decode_skip, values)
    return frozenset(skip.place for skip in skips if skip is not None)
