"""Why Redis does not do what it is asked: one cause for each failure, and what to do."""

from __future__ import annotations

from typing import NamedTuple

from redis import exceptions

from usageledger.counters.view import Cause

REFUSING_WRITES: frozenset[Cause] = frozenset(
    ("full", "read_only", "cannot_persist", "too_few_replicas")
)
"""The causes for which Redis still answers reads."""


class Trouble(NamedTuple):
    """Why a call failed. ``sentence`` says what to do."""

    cause: Cause
    sentence: str
    is_transient: bool = True
    """Whether the same call can succeed later without a change of our settings."""


FULL = Trouble("full", "Redis is full and writes nothing: raise its maxmemory, or make room in it")
READ_ONLY = Trouble(
    "read_only",
    "Redis is a read-only replica: wait until it is promoted, or give the address of its master",
)
CANNOT_PERSIST = Trouble(
    "cannot_persist",
    "Redis cannot write its file, and so writes nothing: make room on its disk, then see its log",
)
TOO_FEW_REPLICAS = Trouble(
    "too_few_replicas",
    "Redis has fewer replicas than its min-replicas-to-write, and so writes nothing: start them",
)
LOADING = Trouble("loading", "Redis is loading its file: it answers once that is done")
BUSY = Trouble("busy", "Redis runs a script that does not end: redis-cli SCRIPT KILL")
SLOW = Trouble("slow", "Redis does not answer in time: it is paused, overloaded or cut off")
CLUSTER_DOWN = Trouble(
    "cluster_down",
    "the Redis Cluster is down or lacks slots: redis-cli --cluster check HOST:PORT",
)
SLOTS_MOVE = Trouble("slots_move", "the Redis Cluster is moving slots: wait until they are moved")
TOO_MANY_CLIENTS = Trouble(
    "too_many_clients", "Redis has as many clients as its maxclients: raise it, or end some"
)
UNREACHABLE = Trouble("unreachable", "Redis cannot be reached: start it, or correct its address")
WRONG_PASSWORD = Trouble(
    "wrong_password",
    "Redis refuses the user or the password: correct those in its URL",
    is_transient=False,
)
NO_PERMISSION = Trouble(
    "no_permission",
    "Redis's user lacks a right: give it those that `usageledger acls` prints",
    is_transient=False,
)

# In this order: a class comes before those that it is derived from. Errors of timeouts are OSErrors
# too, and a server that is loading is a ConnectionError to redis-py.
_BY_CLASS: tuple[tuple[tuple[type[Exception], ...], Trouble], ...] = (
    (
        (exceptions.AuthenticationError, exceptions.AuthenticationWrongNumberOfArgsError),
        WRONG_PASSWORD,
    ),
    ((exceptions.AuthorizationError, exceptions.NoPermissionError), NO_PERMISSION),
    ((exceptions.OutOfMemoryError,), FULL),
    ((exceptions.ReadOnlyError, exceptions.MasterDownError), READ_ONLY),
    ((exceptions.BusyLoadingError,), LOADING),
    ((exceptions.TimeoutError, TimeoutError), SLOW),
    ((exceptions.TryAgainError, exceptions.AskError), SLOTS_MOVE),
    ((exceptions.ClusterError, exceptions.RedisClusterException), CLUSTER_DOWN),
    ((exceptions.ConnectionError, OSError), UNREACHABLE),
)
# How answers begin for which redis-py has no class of their own.
_BY_TEXT: tuple[tuple[str, Trouble], ...] = (
    ("MISCONF ", CANNOT_PERSIST),
    ("NOREPLICAS ", TOO_FEW_REPLICAS),
    ("BUSY ", BUSY),
    ("max number of clients reached", TOO_MANY_CLIENTS),
)
_WITH_DETAIL = (UNREACHABLE, CLUSTER_DOWN, NO_PERMISSION)


def trouble_of(error: Exception) -> Trouble | None:
    """The cause of a failure of a redis-py client; None for one that has no common cause."""
    text = str(error)
    for beginning, trouble in _BY_TEXT:
        if text.startswith(beginning):
            return trouble
    for classes, trouble in _BY_CLASS:
        if isinstance(error, classes):
            return _with_detail(trouble, text) if trouble in _WITH_DETAIL and text else trouble
    return None


def full_sentence(used: str, maxmemory: str, policy: str) -> str:
    """That Redis is full, with the figures of its INFO."""
    return (
        f"{FULL.sentence} (it uses {used} of its maxmemory {maxmemory}, maxmemory-policy {policy})"
    )


def _with_detail(trouble: Trouble, text: str) -> Trouble:
    return trouble._replace(sentence=f"{trouble.sentence} ({text.rstrip('.')})")
