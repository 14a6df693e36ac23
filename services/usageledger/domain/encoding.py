"""Accounts, identities and heads as bytes in the view: JSON, the same bytes for the same value."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from usageledger.domain.account import AccountState
from usageledger.domain.head import Head
from usageledger.domain.identity import IdentityRecord

_T = TypeVar("_T")

_encoder = msgspec.json.Encoder(decimal_format="string")
_account = msgspec.json.Decoder(AccountState)
_identity = msgspec.json.Decoder(IdentityRecord)
_head = msgspec.json.Decoder(Head)


def encode(value: AccountState | IdentityRecord | Head) -> bytes:
    """Write a value as bytes."""
    return _encoder.encode(value)


def decode_account(blob: bytes) -> AccountState:
    """Read an account back. Raises msgspec.MsgspecError for other bytes."""
    return _decode(_account, blob)


def decode_identity(blob: bytes) -> IdentityRecord:
    """Read an identity's record back. Raises msgspec.MsgspecError for other bytes."""
    return _decode(_identity, blob)


def decode_head(blob: bytes) -> Head:
    """Read a head back. Raises msgspec.MsgspecError for other bytes."""
    return _decode(_head, blob)


def _decode(decoder: msgspec.json.Decoder[_T], blob: bytes) -> _T:
    try:
        return decoder.decode(blob)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None
