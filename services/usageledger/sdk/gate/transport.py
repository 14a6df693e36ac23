"""The transports by which a gate asks: Redis directly, the gateway over HTTP, or memory in tests.

Each raises GateUnavailable if no answer comes in time, and GateMisconfigured if none ever will.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from usageledger.domain.checking import Use
from usageledger.sdk.gate.answers import CheckAnswer, HoldAnswer, QuoteAnswer, ReleaseAnswer


class Transport(Protocol):
    """A blocking transport."""

    def prepare(self) -> None: ...

    def check(self, account: str, use: Use) -> CheckAnswer: ...

    def quote(self, uses: Sequence[Use]) -> QuoteAnswer: ...

    def hold(self, account: str, hold_id: str, use: Use, life_s: int) -> HoldAnswer: ...

    def release(self, account: str, hold_id: str) -> ReleaseAnswer: ...

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """A transport for asyncio."""

    async def prepare(self) -> None: ...

    async def check(self, account: str, use: Use) -> CheckAnswer: ...

    async def quote(self, uses: Sequence[Use]) -> QuoteAnswer: ...

    async def hold(self, account: str, hold_id: str, use: Use, life_s: int) -> HoldAnswer: ...

    async def release(self, account: str, hold_id: str) -> ReleaseAnswer: ...

    async def close(self) -> None: ...
