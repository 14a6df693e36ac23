"""An answer that costs something and that many clients may ask for at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

SHARED_FOR_S = 1.0

_T = TypeVar("_T")


class SharedAnswer(Generic[_T]):
    """One answer for everybody who asks within a second, or while it is being looked up."""

    def __init__(self, ask: Callable[[], Awaitable[_T]]) -> None:
        self._ask = ask
        self._turn = asyncio.Lock()
        self._answer: tuple[float, _T] | None = None

    async def get(self) -> _T:
        """The answer, a second old at most. Raises whatever asking raises."""
        async with self._turn:
            if self._answer is None or time.monotonic() - self._answer[0] > SHARED_FOR_S:
                answer = await self._ask()
                self._answer = (time.monotonic(), answer)
            return self._answer[1]
