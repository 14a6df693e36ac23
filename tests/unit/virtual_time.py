"""An event loop whose clock jumps to the next thing that waits: seconds of back-off cost nothing, and a run depends on its seed alone."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_DEADLOCK = "every task waits for something that will never come"


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Nothing outside the process may be waited for: no sockets, no threads."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._now_s

    def jump(self, seconds: float) -> None:
        """Let time pass."""
        self._now_s += seconds


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError(_DEADLOCK)
        self._loop.jump(max(0.0, timeout))
        return super().select(0)


def run_virtually(work: Coroutine[Any, Any, T], *, deadline_s: float) -> T:
    """Run to the end, within a deadline on the virtual clock; no task may be left over."""
    loop = VirtualTimeLoop()
    try:
        result = loop.run_until_complete(asyncio.wait_for(work, deadline_s))
        left_over = asyncio.all_tasks(loop)
        assert not left_over, f"still running: {left_over}"
        return result
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
