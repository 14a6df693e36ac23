"""The scripts that Redis runs for us, and how they are called.

They are plain Lua: nothing need be installed on a server beforehand. A script is called by its
digest. It is sent in full only to a server that does not know it, as after a restart, a failover or
a SCRIPT FLUSH. EVAL finds its server by its keys as EVALSHA does, so on a Redis Cluster the right
node learns the script.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Protocol

from redis.exceptions import ConnectionError, NoScriptError

Word = bytes | str | int


class AsyncCommands(Protocol):
    """The part that we use of ``redis.asyncio.Redis`` and ``redis.asyncio.RedisCluster``."""

    async def execute_command(self, *args: Word) -> Any: ...


class Commands(Protocol):
    """The part that we use of ``redis.Redis`` and ``redis.RedisCluster``."""

    def execute_command(self, *args: Word) -> Any: ...


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the digest by which a server that has seen it knows it."""

    text: str
    digest: str


@cache
def script(name: str) -> Script:
    """The script in ``<name>.lua``, with ``prelude.lua`` behind its first line."""
    # The first line is the one that gives the script's flags.
    flags, rest = _lua_text(name).split("\n", 1)
    text = f"{flags}\n{_lua_text('prelude')}{rest}"
    # Redis names scripts by SHA-1; nothing depends on its strength.
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _lua_text(name: str) -> str:
    return resources.files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8")


async def run(
    redis: AsyncCommands, name: str, keys: Sequence[str], words: Sequence[Word] = ()
) -> Any:
    """Run a script and return its reply. Raises redis.RedisError."""
    called = script(name)
    try:
        try:
            return await redis.execute_command("EVALSHA", called.digest, len(keys), *keys, *words)
        except NoScriptError:
            return await redis.execute_command("EVAL", called.text, len(keys), *keys, *words)
    except AttributeError as error:
        # redis-py 8.1: a connection that is closed while it is being made, by a failover, has no
        # writer when it is first written to.
        raise ConnectionError(f"the connection was closed while it was made: {error}") from error


def run_blocking(
    redis: Commands, name: str, keys: Sequence[str], words: Sequence[Word] = ()
) -> Any:
    """As ``run``, with a synchronous client."""
    called = script(name)
    try:
        return redis.execute_command("EVALSHA", called.digest, len(keys), *keys, *words)
    except NoScriptError:
        return redis.execute_command("EVAL", called.text, len(keys), *keys, *words)
