"""Sealing: a draft entry gets its address, the hash of the one before it and its own, and becomes
the bytes that the log holds.

The value is a CloudEvent whose ``data`` is the entry; its last field, ``hash``, is the SHA-256 of
the data's bytes without that field. ``previous_hash`` is among those bytes, so the hashes chain a
partition's entries from the first to the last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from usageledger.domain.entry import InputAddress, LedgerEntry
from usageledger.domain.head import Head, advance

_encoder = msgspec.json.Encoder(decimal_format="string")
_decoder = msgspec.json.Decoder(LedgerEntry)
_BEFORE_DATA = b'"datacontenttype":"application/json","data":'
_ENVELOPE = (
    b'{"specversion":"1.0","type":"ledger.entry","source":"/usageledger/ledger/%d","id":"%d-%d"'
    b'%s,"time":%s,%s'
)
_HASH_FIELD_BYTES = len(b',"hash":""}') + 64


class SealedEntry(NamedTuple):
    """An entry in its place, and the record value that says so."""

    entry: LedgerEntry
    hash: str
    value: bytes


CLAIM_TYPE = "ledger.claim"


class _Envelope(msgspec.Struct):
    type: str
    data: msgspec.Raw


_envelope_decoder = msgspec.json.Decoder(_Envelope)

UNREADABLE = (ValueError, RecursionError)
"""What decoding raises for bytes that are not what they should be: msgspec's own errors, and those
of text and of nesting beside them.
"""


def seal(
    drafts: Sequence[LedgerEntry], head: Head, partition: int, decided: InputAddress | None = None
) -> tuple[list[SealedEntry], Head]:
    """Seal drafts one after another behind ``head``; return them and the head after them.

    ``decided`` is the input that they decide on.
    """
    sealed: list[SealedEntry] = []
    for draft in drafts:
        address = decided or draft.input
        entry = replace(
            draft,
            partition=partition,
            offset=head.next_offset,
            input=address,
            previous_hash=head.hash,
        )
        unhashed = _encoder.encode(entry)
        hash_ = hashlib.sha256(unhashed).hexdigest()
        value = b"%s%s%s}" % (_before_data_of(entry), unhashed[:-1], _hash_field(hash_))
        sealed.append(SealedEntry(entry, hash_, value))
        head = advance(head, entry, hash_)
    return sealed, head


class NotAnEntry(ValueError):
    """A record's value is neither a claim nor an entry, or its bytes do not have the hash it
    states.
    """


def unseal(value: bytes) -> SealedEntry | None:
    """Read a record's value back: None for a claim. Raises NotAnEntry for bytes that `seal` did not
    write.
    """
    try:
        return _unsealed(value)
    except NotAnEntry:
        if _type_of(value) == CLAIM_TYPE:
            return None
        raise


def entry_at(offset: int, value: bytes | None) -> SealedEntry | None:
    """The reader's rule: an entry is valid if it lies at the offset that it names.

    None for claims and for what lies elsewhere.

    What a predecessor appends after another worker's claim lies further on than it names, so for
    every reader it does not exist.
    """
    sealed = unseal(value) if value is not None else None
    return sealed if sealed is not None and sealed.entry.offset == offset else None


def _unsealed(value: bytes) -> SealedEntry:
    begin = value.find(_BEFORE_DATA) + len(
        _BEFORE_DATA
    )  # no string holds these bytes, for it would escape their quotes
    data = value[begin:-1]
    hash_ = hashlib.sha256(data[:-_HASH_FIELD_BYTES] + b"}").hexdigest()
    if not data.endswith(_hash_field(hash_)):
        raise NotAnEntry("the entry's bytes do not have the hash that it states")
    try:
        entry = _decoder.decode(data)
    except UNREADABLE as error:
        raise NotAnEntry(f"not a ledger entry: {error}") from None
    if value[:begin] != _before_data_of(entry) or value[-1:] != b"}":
        raise NotAnEntry("the CloudEvent around the entry does not say what the entry does")
    return SealedEntry(entry, hash_, value)


def _type_of(value: bytes) -> str:
    try:
        return _envelope_decoder.decode(value).type
    except UNREADABLE as error:
        raise NotAnEntry(f"not a ledger record: {error}") from None


def _hash_field(hash_: str) -> bytes:
    """The end of an entry's data, in place of the closing brace of what was hashed."""
    return b',"hash":"%s"}' % hash_.encode()


def _before_data_of(entry: LedgerEntry) -> bytes:
    # An entry of no account has no subject, because CloudEvents forbids an empty one.
    subject = b',"subject":%s' % _encoder.encode(entry.account) if entry.account else b""
    return _ENVELOPE % (
        entry.partition,
        entry.partition,
        entry.offset,
        subject,
        _encoder.encode(entry.appended_at),
        _BEFORE_DATA,
    )
