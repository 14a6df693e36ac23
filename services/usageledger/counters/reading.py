"""What readers take from a view: the CLI, the gateway, the audit. They never move it.

A stored account is as of the last entry that touched it: who shows it calls ``at(now)`` on its
state first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, NamedTuple

from usageledger.counters.calling import ask
from usageledger.counters.connection import AsyncClient, Client
from usageledger.counters.keys import PartitionKeys
from usageledger.counters.replies import REDIS_FAILURES, head_of, view_error
from usageledger.counters.scripts import Word
from usageledger.counters.view import StoredHead

VERIFIED_LATELY = timedelta(seconds=5)
"""An owner verifies its head about once a second.

Older than this, it is away, or the store has lost it.
"""

_HEAD_FIELDS = ["token", "value", "verified_at_ms"]


class AccountReading(NamedTuple):
    """A view's head and one account's encoded state, of one moment; None where the view has
    nothing. ``held``: see `ReadAccount`.
    """

    head: StoredHead | None
    account: bytes | None
    held: int = 0
    open_holds: int = 0


@dataclass(frozen=True, slots=True)
class ReadAccount:
    """Read the head, one account, what its open holds have reserved at that moment (micro-credits),
    and how many they are.
    """

    script: ClassVar[str] = "read_account"
    account: str

    def keys(self, partition: PartitionKeys) -> Sequence[str]:
        return [
            partition.head,
            partition.accounts,
            partition.holds(self.account),
            partition.hold_ends(self.account),
        ]

    def words(self) -> Sequence[Word]:
        return [self.account]

    def answer(self, reply: Any) -> AccountReading:
        token, value, verified_at_ms, state, held, open_holds = reply
        return AccountReading(head_of(token, value, verified_at_ms), state, held, open_holds)


@dataclass(frozen=True, slots=True)
class ReadAccounts:
    """Read the head and several accounts of its partition at one moment, each as `ReadAccount`
    does.
    """

    script: ClassVar[str] = "read_accounts"
    accounts: Sequence[str]

    def keys(self, partition: PartitionKeys) -> Sequence[str]:
        of_holds = (
            key
            for account in self.accounts
            for key in (partition.holds(account), partition.hold_ends(account))
        )
        return [partition.head, partition.accounts, *of_holds]

    def words(self) -> Sequence[Word]:
        return list(self.accounts)

    def answer(self, reply: Any) -> list[AccountReading]:
        token, value, verified_at_ms, states, sums, counts = reply
        head = head_of(token, value, verified_at_ms)
        return [AccountReading(head, *found) for found in zip(states, sums, counts, strict=True)]


def read_account(redis: Client, prefix: str, partition: int, account: str) -> AccountReading:
    """Read the head and one account in one call. Raises ViewError."""
    return ask(redis, PartitionKeys(prefix, partition), ReadAccount(account))


def read_heads(
    redis: Client, prefix: str, partitions: Iterable[int]
) -> dict[int, StoredHead | None]:
    """Read the heads of several partitions in one round trip (to each node); no moment is common to
    all of them. Raises ViewError.
    """
    wanted = list(partitions)
    pipeline = redis.pipeline(transaction=False)
    for partition in wanted:
        pipeline.hmget(PartitionKeys(prefix, partition).head, _HEAD_FIELDS)
    try:
        replies = pipeline.execute()
    except REDIS_FAILURES as error:
        raise view_error(error) from error
    return {partition: head_of(*reply) for partition, reply in zip(wanted, replies, strict=True)}


async def read_heads_async(
    redis: AsyncClient, prefix: str, partitions: Iterable[int]
) -> dict[int, StoredHead | None]:
    """As ``read_heads``, with an asynchronous client."""
    wanted = list(partitions)
    pipeline = redis.pipeline(transaction=False)
    for partition in wanted:
        pipeline.hmget(PartitionKeys(prefix, partition).head, _HEAD_FIELDS)
    try:
        replies = await pipeline.execute()
    except REDIS_FAILURES as error:
        raise view_error(error) from error
    return {partition: head_of(*reply) for partition, reply in zip(wanted, replies, strict=True)}


def as_of(head: StoredHead, now: datetime) -> datetime | None:
    """When the counters under this head were last known to be all that was decided; None if that
    was lately, so that nothing need be said.

    ``now`` is compared with the store's clock: where the two differ by more than VERIFIED_LATELY,
    more is said than need be, or less.
    """
    at = verified_at(head)
    return None if now - at <= VERIFIED_LATELY else at


def verified_at(head: StoredHead) -> datetime:
    """When the counters under this head were last known to be all that was decided, by the store's
    clock.
    """
    return datetime.fromtimestamp(head.verified_at_ms // 1_000, UTC) + timedelta(
        milliseconds=head.verified_at_ms % 1_000
    )
