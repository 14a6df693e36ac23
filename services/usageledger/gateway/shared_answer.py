"""An answer that many may ask for at once, and that costs something: looked for once, and shared
for a moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

FRESH_FOR_S = 1.0

_T = TypeVar("_T")


class Fresh(Generic[_T]):
    """An answer that counts for a second: who asks meanwhile, or while it is being asked for, is
    given the same.
    """

    def __init__(self, ask: Callable[[], Awaitable[_T]]) -> None:
        self._ask = ask
        self._turn = asyncio.Lock()
        self._answer: tuple[float, _T] | None = None

    async def get(self) -> _T:
        """The answer, a second old at most."""
        async with self._turn:
            if self._answer is None or time.monotonic() - self._answer[0] > FRESH_FOR_S:
                answer = await self._ask()
                self._answer = (time.monotonic(), answer)
            return self._answer[1]
