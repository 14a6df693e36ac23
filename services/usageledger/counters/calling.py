"""The calls that readers and holders of credits make: each is one call of a script.

A call says which keys and arguments it sends and what the reply means, once for blocking and for
asyncio clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from usageledger.counters import scripts
from usageledger.counters.connection import AsyncClient, Client
from usageledger.counters.keys import PartitionKeys
from usageledger.counters.replies import REDIS_FAILURES, view_error

T_co = TypeVar("T_co", covariant=True)

CALLS_AT_ONCE_MAX = 64
"""How many calls one client may have under way at a time.

A pool of redis-py has 100 connections. It refuses a call beyond these instead of letting it wait:
of 200 workers that called at once, some got the error that there is no Redis.
"""


class Call(Protocol[T_co]):
    """One call of a script."""

    script: ClassVar[str]

    def keys(self, partition: PartitionKeys) -> Sequence[str]:
        """The keys that the script touches, all of one partition."""
        ...

    def words(self) -> Sequence[scripts.Word]:
        """The script's arguments."""
        ...

    def answer(self, reply: Any) -> T_co:
        """The answer in the script's reply."""
        ...


def ask(redis: Client, partition: PartitionKeys, call: Call[T_co]) -> T_co:
    """Make a call and wait for its answer. Raises ViewError."""
    try:
        reply = scripts.run_blocking(redis, call.script, call.keys(partition), call.words())
    except REDIS_FAILURES as error:
        raise view_error(error) from error
    return call.answer(reply)


async def ask_async(redis: AsyncClient, partition: PartitionKeys, call: Call[T_co]) -> T_co:
    """As ``ask``, with an asynchronous client."""
    try:
        reply = await scripts.run(redis, call.script, call.keys(partition), call.words())
    except REDIS_FAILURES as error:
        raise view_error(error) from error
    return call.answer(reply)
