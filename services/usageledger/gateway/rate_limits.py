"""How often somebody may ask. Kept in this process: what protects a gateway, not what apps are billed by."""

from __future__ import annotations

import math
import time

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from usageledger.gateway.access import Caller
from usageledger.gateway.problems import Problem

PER_KEY_AND_SECOND = 5_000
PER_ACCOUNT_TOKEN_AND_SECOND = 50
"""Of one account's tokens together: a page that shows a meter asks a few times a minute."""
FAILURES_PER_ADDRESS_AND_MINUTE = 60


class RateLimits:
    """Counts requests by key, by account token, and attempts with wrong keys by address. Raises Problem `rate_limited`."""

    def __init__(self, *, per_key: int = PER_KEY_AND_SECOND, per_account: int = PER_ACCOUNT_TOKEN_AND_SECOND) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._by_key = RateLimitItemPerSecond(per_key)
        self._by_account = RateLimitItemPerSecond(per_account)
        self._failures = RateLimitItemPerMinute(FAILURES_PER_ADDRESS_AND_MINUTE)

    def count(self, caller: Caller) -> None:
        """Count a request of this caller."""
        if caller.account is None:
            self._hit(self._by_key, "key", caller.key_id)
        else:
            self._hit(self._by_account, "account", f"{caller.key_id}/{caller.account}")

    def count_failure(self, address: str) -> None:
        """Count an attempt with a key or a token that does not work."""
        self._limiter.hit(self._failures, "failures", address)

    def refuse_guessing(self, address: str) -> None:
        """Refuse who has tried too many keys that do not work."""
        if not self._limiter.test(self._failures, "failures", address):
            raise self._refusal(self._failures, "failures", address)

    def _hit(self, item: RateLimitItem, kind: str, name: str) -> None:
        if not self._limiter.hit(item, kind, name):
            raise self._refusal(item, kind, name)

    def _refusal(self, item: RateLimitItem, kind: str, name: str) -> Problem:
        resets_at = self._limiter.get_window_stats(item, kind, name).reset_time
        wait_s = max(1, math.ceil(resets_at - time.time()))
        return Problem("rate_limited", f"at most {item}: wait {wait_s} s", headers={"Retry-After": str(wait_s)})
