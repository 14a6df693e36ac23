"""Redis's replies as the view's types, and its failures as the view's errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redis import exceptions

from usageledger.counters.view import Position, StoredHead, ViewError

REDIS_FAILURES = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
"""Everything that a client of redis-py raises when a call fails."""

# Failures of a server that may do later what it refuses now. It is down, is loading, fails over,
# moves slots, or is out of memory.
_TRANSIENT = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ClusterError,
    exceptions.RedisClusterException,
    exceptions.TryAgainError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    OSError,
)
_PERMANENT = (exceptions.AuthenticationError, exceptions.AuthorizationError)
# Transient failures for which redis-py has no class: a script runs too long, the disk is full, too
# few replicas are connected.
_TRANSIENT_CODES = ("BUSY ", "MISCONF ", "NOREPLICAS ")


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
    """A client's failure as a ViewError that says whether the same call can succeed later."""
    is_transient = isinstance(error, _TRANSIENT) or str(error).startswith(_TRANSIENT_CODES)
    return ViewError(
        f"redis: {error or type(error).__name__}",
        retriable=is_transient and not isinstance(error, _PERMANENT),
    )
