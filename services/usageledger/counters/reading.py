"""How readers read a view: the CLI, the gateway, the audit. They never change it.

A stored account is as of its last entry: `domain.balance.balance_at` rolls it to the present.
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

If the last time is longer ago than this, the owner is gone, or the store has lost its writes.
"""

_HEAD_FIELDS = ["token", "value", "verified_at_ms"]


class AccountReading(NamedTuple):
    """A view's head and one account's encoded state at one moment, None for what does not exist.

    ``held`` is what its open holds reserve, in micro-credits, and ``open_holds`` their number.
    ``read_at_ms`` is that moment, in ms since 1970 by the store's clock. It is None where several
    accounts are read: readers that watch accounts compare these readings with earlier ones.
    """

    head: StoredHead | None
    account: bytes | None
    held: int = 0
    open_holds: int = 0
    read_at_ms: int | None = None

    @property
    def unverified_ms(self) -> int:
        """How long ago the head was verified, by the store's clock alone; 0 if not known."""
        if self.head is None or self.read_at_ms is None:
            return 0
        return self.read_at_ms - self.head.verified_at_ms


@dataclass(frozen=True, slots=True)
class ReadAccount:
    """Read the head, one account and its open holds at one moment."""

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
        token, value, verified_at_ms, *rest = reply
        return AccountReading(head_of(token, value, verified_at_ms), *rest)


@dataclass(frozen=True, slots=True)
class ReadAccounts:
    """Read the head and several accounts of its partition at one moment, as `ReadAccount` does."""

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
    """Read the heads of several partitions in one round trip to each node. Raises ViewError.

    They are not of one moment.
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
    """When a view was last known to be complete; None within VERIFIED_LATELY.

    ``now`` is compared with the store's clock. If the two clocks differ by more than
    VERIFIED_LATELY, a time is returned that was not needed, or none that was.
    """
    at = verified_at(head)
    return None if now - at <= VERIFIED_LATELY else at


def verified_at(head: StoredHead) -> datetime:
    """When a view was last known to be complete, by the store's clock."""
    return datetime.fromtimestamp(head.verified_at_ms // 1_000, UTC) + timedelta(
        milliseconds=head.verified_at_ms % 1_000
    )
