"""A partition's view in Redis.

It has one hash tag, so it is in one slot, on one node, in one append-only file. It falls back as a
whole or not at all. Each call is one script. A script's writes reach the append-only file and the
replicas as one unit. So whatever a failover loses, what is left is the view as it was after some
earlier commit, and the head says after which.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from usageledger.counters import scripts
from usageledger.counters.connection import AsyncClient
from usageledger.counters.holding import holder_of_source
from usageledger.counters.keys import PartitionKeys
from usageledger.counters.replies import (
    REDIS_FAILURES,
    head_of,
    pairs,
    position_of,
    token_of,
    view_error,
)
from usageledger.counters.view import (
    Fetched,
    HeadMoved,
    Position,
    Snapshot,
    StoredHead,
    ViewChange,
    ViewError,
)

DEFAULT_TIMEOUT_S = 5.0

# A view's set of windows changes about once a month. A caller that sees it change more than twice
# in a row has met another fault.
_WINDOW_ATTEMPTS_MAX = 3
_MS_MAX = 2**53

_encode = msgspec.msgpack.Encoder().encode


class RedisView:
    """See ``counters.view.PartitionView``.

    It keeps nothing in memory. Many views may share one client.
    """

    def __init__(
        self,
        redis: AsyncClient,
        prefix: str,
        partition: int,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self._redis = redis
        self._keys = PartitionKeys(prefix, partition)
        self._timeout_s = timeout_s
        self._beside: RedisView | None = None
        # A pool gives each call a connection of its own, and connections have no common order.
        self._in_order = asyncio.Lock()

    async def head(self) -> StoredHead | None:
        async with self._bounded():
            token, value, verified_at_ms, _ = await self._run("head", [self._keys.head])
        return head_of(token, value, verified_at_ms)

    async def fetch(
        self,
        expected: Position | None,
        accounts: Sequence[str],
        identities: Sequence[tuple[int, bytes]],
    ) -> Fetched:
        by_window = _indexes_by_window(identities)
        order = [index for window in by_window for index in by_window[window]]
        keys = [self._keys.head, self._keys.accounts]
        for window in by_window:
            keys += (self._keys.identities(window), self._keys.identities(window - 1))
        lists = [
            [account.encode() for account in accounts],
            *([identities[index][1] for index in group] for group in by_window.values()),
        ]
        words: list[scripts.Word] = [token_of(expected), *_packed_words(lists)]
        async with self._bounded():
            reply = await self._run("fetch", keys, words)
        _check_head(reply)
        found_accounts: list[bytes | None] = [None] * len(accounts)
        for number, value in pairs(reply[1]):
            found_accounts[number - 1] = value
        found_identities: list[bytes | None] = [None] * len(identities)
        for number, value in pairs(reply[2]):
            found_identities[order[number - 1]] = value
        return Fetched(found_accounts, found_identities)

    async def commit(self, expected: Position | None, change: ViewChange) -> None:
        async with self._bounded():
            reply = await self._commit(expected, change, dropped=())
            if reply[0] == 2:
                reply = await self._commit(
                    expected, change, dropped=[int(window) for window in reply[1]]
                )
        _check_head(reply)
        if reply[0] == 3:
            raise ViewError(
                f"the view has no head and yet {reply[1].decode()}, so it is damaged: usageledger "
                f"rebuild --partition {self._keys.partition}",
                retriable=False,
            )
        if reply[0] != 1:
            raise ViewError("the view's windows changed under the commit; nothing was written")

    async def verify(self, expected: Position) -> None:
        async with self._bounded():
            reply = await self._run("verify", [self._keys.head], [token_of(expected)])
        _check_head(reply)

    async def due(self, expected: Position | None = None) -> Mapping[str, int]:
        async with self._bounded():
            reply = await self._run("due", [self._keys.head, self._keys.due], [token_of(expected)])
        _check_head(reply)
        return _due_of(reply[1])

    async def snapshot(self) -> Snapshot:
        fixed = [self._keys.head, self._keys.accounts, self._keys.due]
        async with self._bounded():
            windows, reply = await self._run_knowing_windows("snapshot", fixed)
        _, (token, value, verified_at_ms, _), accounts, due, counts = reply
        return Snapshot(
            head=head_of(token, value, verified_at_ms),
            accounts={account.decode(): state for account, state in pairs(accounts)},
            due_ms=_due_of(due),
            identities=dict(zip(windows, counts, strict=True)),
        )

    async def clear(self) -> None:
        fixed = [self._keys.head, self._keys.accounts, self._keys.due]
        async with self._bounded():
            await self._run_knowing_windows("clear", fixed, look_for_strays=True)

    def beside(self) -> RedisView:
        if self._beside is None:
            self._beside = RedisView(
                self._redis, self._keys.prefix, self._keys.partition, timeout_s=self._timeout_s
            )
            self._beside._keys = self._keys.beside
        return self._beside

    async def take_over(self, beside: Position) -> None:
        async with self._bounded():
            for _ in range(_WINDOW_ATTEMPTS_MAX):
                reply = await self._take_over(beside)
                if reply[0] != 2:
                    return _check_head(reply)
        raise ViewError("the view's windows kept changing; the one beside did not take over")

    async def _take_over(self, beside: Position) -> Any:
        keys, others = self._keys, self._keys.beside
        listed, windows = await self._windows(keys)
        listed_beside, windows_beside = await self._windows(others)
        own = [keys.identities(window) for window in windows] or await self._stray_windows()
        moved = [
            name
            for window in windows_beside
            for name in (others.identities(window), keys.identities(window))
        ]
        fixed = [keys.head, keys.accounts, keys.due, others.head, others.accounts, others.due]
        return await self._run(
            "take_over", [*fixed, *own, *moved], [token_of(beside), listed, listed_beside, len(own)]
        )

    async def _windows(self, keys: PartitionKeys) -> tuple[bytes, list[int]]:
        """The field that lists a view's windows, and their numbers.

        There are none if the head is not a hash: then it was never a view's.
        """
        try:
            listed = (await self._run("head", [keys.head]))[3] or b""
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            listed = b""
        return listed, [int(window) for window in listed.split()]

    async def _commit(
        self, expected: Position | None, change: ViewChange, *, dropped: Sequence[int]
    ) -> Any:
        before = change.drop_windows_before
        written = {
            w: found
            for w, found in change.identities.items()
            if found and (before is None or w >= before)
        }
        due = {account: ms for account, ms in change.due_ms.items() if ms is not None}
        no_longer_due = [account for account, ms in change.due_ms.items() if ms is None]
        if any(abs(ms) >= _MS_MAX for ms in due.values()):
            raise ValueError("a due time is beyond 2**53 ms")

        settled = _settled_by_account(() if self._keys.is_beside else change.settled_holds)
        keys = [self._keys.head, self._keys.accounts, self._keys.due]
        keys += [self._keys.identities(window) for window in (*written, *dropped)]
        for account in settled:
            keys += (self._keys.holds(account), self._keys.hold_ends(account))
        lists = [
            [
                word
                for account, state in change.accounts.items()
                for word in (account.encode(), state)
            ],
            [word for account, ms in due.items() for word in (b"%d" % ms, account.encode())],
            [account.encode() for account in no_longer_due],
            [b"%d" % window for window in (*written, *dropped)],
            *(list(chain.from_iterable(found.items())) for found in written.values()),
            *([] for _ in dropped),
            *([word.encode() for word in words] for words in settled.values()),
        ]
        words = [
            token_of(expected),
            token_of(change.position),
            change.head,
            "" if before is None else before,
            *_packed_words(lists),
        ]
        return await self._run(
            "commit", keys, [*words, "" if change.as_of_ms is None else change.as_of_ms]
        )

    async def _run_knowing_windows(
        self, name: str, fixed: Sequence[str], *, look_for_strays: bool = False
    ) -> tuple[list[int], Any]:
        """Run a script that needs the keys of all windows, which only the head lists.

        The head is read first, and again if the windows changed before the script ran.
        """
        for _ in range(_WINDOW_ATTEMPTS_MAX):
            token, _, _, listed = await self._run("head", [self._keys.head])
            windows = [int(window) for window in (listed or b"").split()]
            keys = [*fixed, *(self._keys.identities(window) for window in windows)]
            if look_for_strays and token is None:
                keys += await self._stray_windows()
            reply = await self._run(name, keys, [listed or b""])
            if reply[0] != 2:
                return windows, reply
        raise ViewError(f"the view's windows kept changing; {name} gave up")

    async def _stray_windows(self) -> list[str]:
        """Windows that no head lists any more, found by searching the whole server.

        They are left over when somebody has damaged a view.
        """
        # The tag has braces, but no characters that a pattern gives a meaning to.
        return [
            key.decode()
            async for key in self._redis.scan_iter(
                match=f"{self._keys.root}:identities:*", count=1_000
            )
        ]

    async def _run(self, name: str, keys: Sequence[str], words: Sequence[scripts.Word] = ()) -> Any:
        return await scripts.run(self._redis, name, keys, words)

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        """Let one call run at a time, bounded in time; failures are raised as ViewError."""
        async with self._in_order:
            try:
                async with asyncio.timeout(self._timeout_s):
                    yield
            except TimeoutError:
                raise view_error(TimeoutError()) from None
            except REDIS_FAILURES as error:
                raise view_error(error) from error


def _check_head(reply: Any) -> None:
    if reply[0] == 0:
        raise HeadMoved(position_of(reply[1]))


def _indexes_by_window(identities: Sequence[tuple[int, bytes]]) -> dict[int, list[int]]:
    indexes: dict[int, list[int]] = {}
    for index, (window, _) in enumerate(identities):
        indexes.setdefault(window, []).append(index)
    return indexes


def _settled_by_account(holds: Sequence[tuple[str, str, str]]) -> dict[str, list[str]]:
    """For each account: hold id, holder, hold id, holder …, as commit.lua expects them."""
    words: dict[str, list[str]] = {}
    for account, hold, source in dict.fromkeys(holds):
        words.setdefault(account, []).extend((hold, holder_of_source(source)))
    return words


def _packed_words(lists: Sequence[Sequence[bytes]]) -> tuple[bytes, bytes]:
    """Lists of words as two arguments: their lengths, and all words joined.

    ``unpack_words`` in ``scripts/prelude.lua`` is the inverse. MessagePack alone would do if the
    version that servers have could read binary strings.
    """
    return _encode([[len(word) for word in words] for words in lists]), b"".join(
        chain.from_iterable(lists)
    )


def _due_of(flat: Sequence[bytes]) -> dict[str, int]:
    return {account.decode(): int(ms) for account, ms in pairs(flat)}
