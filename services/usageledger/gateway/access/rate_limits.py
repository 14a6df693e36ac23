"""How often a caller may ask.

The counts are in this process's memory: they protect a gateway, and nothing is billed by them.
"""

from __future__ import annotations

import math
import time

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from usageledger.gateway.access.app_keys import Caller
from usageledger.gateway.problems import Problem

PER_KEY_AND_SECOND = 5_000
PER_ACCOUNT_TOKEN_AND_SECOND = 50
"""For all tokens of an account together. A page with a meter asks a few times a minute."""
LISTS_PER_ACCOUNT_TOKEN_AND_SECOND = 25
"""A page of charges costs as much as thirty checks, and any browser with a token may ask."""
FAILURES_PER_ADDRESS_AND_MINUTE = 60
STRANGERS_PER_ADDRESS_AND_SECOND = 100
"""For all requests of an address without a valid credential. A page of ours loads some 20 files."""


class WindowCounts(Storage):
    """Counts in memory, for one thread. Counts whose window has ended are dropped once a second.

    The library's own storage drops them in a thread, a hundred times a second while requests come.
    Answers wait for that thread: it added 3 ms to the slowest hundredth of them.
    """

    STORAGE_SCHEME = None

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, tuple[int, float]] = {}
        self._drop_at_s = 0.0

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """None: nothing here fails."""
        return ()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count in the window, which lasts ``expiry`` seconds from its first count."""
        now_s = time.time()
        if now_s >= self._drop_at_s:
            self._counts = {kept: found for kept, found in self._counts.items() if found[1] > now_s}
            self._drop_at_s = now_s + 1.0
        count, ends_s = self._counts.get(key, (0, 0.0))
        if ends_s <= now_s:
            count, ends_s = 0, now_s + expiry
        self._counts[key] = count + amount, ends_s
        return count + amount

    def get(self, key: str) -> int:
        """The count in the window."""
        count, ends_s = self._counts.get(key, (0, 0.0))
        return count if ends_s > time.time() else 0

    def get_expiry(self, key: str) -> float:
        """When the window ends, in seconds since 1970; now if none has begun."""
        found = self._counts.get(key)
        return time.time() if found is None else found[1]

    def check(self) -> bool:
        """True: it is there."""
        return True

    def reset(self) -> int:
        """Forget all counts."""
        count, self._counts = len(self._counts), {}
        return count

    def clear(self, key: str) -> None:
        """Forget one count."""
        self._counts.pop(key, None)


class RateLimits:
    """Counts requests by key and by account token, and those without a valid one by address.

    Every method but `count_failure` raises Problem `rate_limited`.
    """

    def __init__(
        self,
        *,
        per_key: int = PER_KEY_AND_SECOND,
        per_account: int = PER_ACCOUNT_TOKEN_AND_SECOND,
        per_stranger: int = STRANGERS_PER_ADDRESS_AND_SECOND,
    ) -> None:
        self._limiter = FixedWindowRateLimiter(WindowCounts())
        self._by_key = RateLimitItemPerSecond(per_key)
        self._by_account = RateLimitItemPerSecond(per_account)
        self._lists = RateLimitItemPerSecond(LISTS_PER_ACCOUNT_TOKEN_AND_SECOND)
        self._failures = RateLimitItemPerMinute(FAILURES_PER_ADDRESS_AND_MINUTE)
        self._strangers = RateLimitItemPerSecond(per_stranger)

    def count(self, caller: Caller) -> None:
        """Count a request of this caller."""
        if caller.account is None:
            self._hit(self._by_key, "key", caller.key_id)
        else:
            self._hit(self._by_account, "account", f"{caller.key_id}/{caller.account}")

    def count_list(self, caller: Caller) -> None:
        """Count a request for a list by an account token. Keys have no limit of their own here."""
        if caller.account is not None:
            self._hit(self._lists, "lists", f"{caller.key_id}/{caller.account}")

    def count_events(self, caller: Caller, count: int) -> None:
        """Count the events of one report, if the caller's key has a quota.

        A report that is refused counts nothing. Raises Problem `too_large` for one that no second
        has room for.
        """
        quota = caller.bounds.events_per_second
        if quota is None:
            return
        if count > quota:
            raise Problem(
                "too_large",
                f"this key may report {quota} events a second, and the request has {count}: split "
                "it into several",
            )
        item = RateLimitItemPerSecond(quota)
        if not self._limiter.test(item, "events", caller.key_id, cost=count):
            raise self._refusal(item, "events", caller.key_id)
        self._limiter.hit(item, "events", caller.key_id, cost=count)

    def count_stranger(self, address: str) -> None:
        """Count a request without a valid key, token or session."""
        self._hit(self._strangers, "strangers", address)

    def count_failure(self, address: str) -> None:
        """Count an attempt with a key or a token that does not work."""
        self._limiter.hit(self._failures, "failures", address)

    def refuse_guessing(self, address: str) -> None:
        """Refuse an address that has tried too many credentials that do not work."""
        if not self._limiter.test(self._failures, "failures", address):
            raise self._refusal(self._failures, "failures", address)

    def _hit(self, item: RateLimitItem, kind: str, name: str) -> None:
        if not self._limiter.hit(item, kind, name):
            raise self._refusal(item, kind, name)

    def _refusal(self, item: RateLimitItem, kind: str, name: str) -> Problem:
        resets_at = self._limiter.get_window_stats(item, kind, name).reset_time
        wait_s = max(1, math.ceil(resets_at - time.time()))
        return Problem(
            "rate_limited", f"at most {item}: wait {wait_s} s", headers={"Retry-After": str(wait_s)}
        )
