"""Sealing: a draft entry gets its address and hashes, and becomes the bytes in the log.

The value is a CloudEvent whose ``data`` is the entry. Its last field, ``hash``, is the SHA-256 of
the data's bytes without that field. ``previous_hash``, the hash of the entry before, is among those
bytes. The hashes therefore chain a partition's entries from the first to the last.
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
    """An entry with its address, its hash, and the value of its record."""

    entry: LedgerEntry
    hash: str
    value: bytes


CLAIM_TYPE = "ledger.claim"


class _Envelope(msgspec.Struct):
    type: str
    data: msgspec.Raw


_envelope_decoder = msgspec.json.Decoder(_Envelope)

UNREADABLE = (ValueError, RecursionError)
"""The exceptions that decoding raises for wrong bytes.

They are msgspec's own (which are ValueErrors), and those for invalid UTF-8 and too deep nesting.
"""


def seal(
    drafts: Sequence[LedgerEntry], head: Head, partition: int, decided: InputAddress | None = None
) -> tuple[list[SealedEntry], Head]:
    """Seal drafts one after another behind ``head``, and return them with the head after them.

    ``decided`` is the address of the input that they decide.
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
    """A record's value is neither a claim nor an entry, or it states a wrong hash."""


def unseal(value: bytes) -> SealedEntry | None:
    """Read a record's value back. The result is None for a claim.

    Raises NotAnEntry for bytes that `seal` did not write.
    """
    try:
        return _unseal_entry(value)
    except NotAnEntry:
        if _type_of(value) == CLAIM_TYPE:
            return None
        raise


def entry_at(offset: int, value: bytes | None) -> SealedEntry | None:
    """The reader's rule: an entry is valid if it is at the offset that it names.

    The result is None for everything else: a claim, bytes that are no entry, an entry elsewhere.
    An entry that a predecessor appends after another worker's claim is at a later offset than it
    names. For every reader it therefore does not exist. See also `ledger.reader_rule`.
    """
    try:
        sealed = unseal(value) if value is not None else None
    except NotAnEntry:
        return None
    return sealed if sealed is not None and sealed.entry.offset == offset else None


def _unseal_entry(value: bytes) -> SealedEntry:
    # No string contains these bytes, because their quotes would be escaped in it.
    begin = value.find(_BEFORE_DATA) + len(_BEFORE_DATA)
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
    """The end of an entry's data. It replaces the closing brace of the bytes that were hashed."""
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
