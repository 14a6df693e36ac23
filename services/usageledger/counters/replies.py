"""Redis's replies as the view's types, and its failures as the view's errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redis import exceptions

from usageledger.counters.troubles import trouble_of
from usageledger.counters.view import Position, StoredHead, ViewError

REDIS_FAILURES = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
"""Everything that a client of redis-py raises when a call fails."""


def token_of(position: Position | None) -> str:
    """A position as the head stores it: ``next_offset:hash``; empty for an empty view."""
    return "" if position is None else f"{position.next_offset}:{position.hash}"


def position_of(token: bytes | None) -> Position | None:
    """The position that a token names."""
    if not token:
        return None
    offset, _, hash_ = token.decode("ascii").partition(":")
    return Position(int(offset), hash_)


def head_of(
    token: bytes | None, value: bytes | None, verified_at_ms: bytes | None
) -> StoredHead | None:
    """The head from its fields. Raises ViewError for fields that no commit can have written."""
    if token is None and value is None and verified_at_ms is None:
        return None
    position = position_of(token)
    if position is None or value is None or verified_at_ms is None:
        raise ViewError(
            "the view's head lacks fields: it was not written by a ledger, or somebody has changed "
            "it; run usageledger rebuild for its partition",
            retriable=False,
        )
    return StoredHead(position, value, int(verified_at_ms))


def pairs(flat: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """The items of a flat list, two by two."""
    return zip(flat[::2], flat[1::2], strict=True)


def view_error(error: Exception) -> ViewError:
    """A client's failure as a ViewError that says why, and whether the call can succeed later."""
    trouble = trouble_of(error)
    if trouble is None:
        return ViewError(f"redis: {error or type(error).__name__}", retriable=False)
    return ViewError(trouble.sentence, retriable=trouble.is_transient, cause=trouble.cause)
