"""An event loop that is a whole cluster: processes, one virtual clock, and a seed.

A process can be frozen or killed. It runs its ready callbacks in asyncio's own order, and the seed
decides which process runs next. Time advances a little with each resumption, and jumps when no
process has anything to do. So waits cost nothing, and a run depends on its seed alone.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from math import inf
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

_DEADLOCK = "every task waits for something that will never come"


class Process:
    """Tasks that are frozen or killed as one: those started in it, and those that they start."""

    __slots__ = ("frozen_until", "is_alive", "name", "ready")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: deque[asyncio.Handle] = deque()
        self.frozen_until = 0.0
        self.is_alive = True


class SimulatedLoop(asyncio.BaseEventLoop):
    """Nothing may wait for the world outside the simulation: no sockets, no threads.

    Without a ``random`` there is one process, and nothing is random.
    """

    def __init__(self, random: Random | None = None) -> None:
        super().__init__()
        self.outside = Process("outside")
        self.steps = 0
        self.failure: BaseException | None = None
        """The first uncaught exception."""
        self._chance = random.random if random is not None else None
        self._now_s = 0.0
        self._place: ContextVar[Process] = ContextVar("process", default=self.outside)
        self._processes = [self.outside]
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Process]] = []
        self._timer_count = 0

    def time(self) -> float:
        return self._now_s

    @property
    def process(self) -> Process:
        """The one that is running."""
        return self._place.get()

    def start_in(self, process: Process, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin a task in a process."""
        return self.create_task(work, context=self.context_of(process))

    def context_of(self, process: Process) -> Context:
        """A context whose callbacks run in that process."""
        if process not in self._processes:
            self._processes.append(process)
        context = copy_context()
        context.run(self._place.set, process)
        return context

    def forget(self, process: Process) -> None:
        """Remove a process that is dead and has ended."""
        if process in self._processes:
            self._processes.remove(process)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        context = copy_context() if context is None else context
        handle = asyncio.Handle(callback, args, self, context)
        context.get(self._place, self.outside).ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        context = copy_context() if context is None else context
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timer_count += 1
        heapq.heappush(
            self._timers, (when, self._timer_count, handle, context.get(self._place, self.outside))
        )
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if self.failure is None and error is not None:
            self.failure = error
            self.stop()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: the loop skips a cancelled timer when its time comes."""

    def _run_once(self) -> None:
        """One resumption: the next callback of one process."""
        self._wake()
        now = self._now_s
        runnable = [
            process for process in self._processes if process.ready and process.frozen_until <= now
        ]
        if not runnable:
            self._jump()
            return
        chance = self._chance
        if chance is None:
            process = runnable[0]
        else:
            process = runnable[int(chance() * len(runnable))]
            self._now_s = now + chance() * 0.0002
        handle = process.ready.popleft()
        if not handle.cancelled():
            self.steps += 1
            handle._run()

    def _wake(self) -> None:
        timers, now = self._timers, self._now_s
        while timers and timers[0][0] <= now:
            _, _, handle, process = heapq.heappop(timers)
            if not handle.cancelled():
                process.ready.append(handle)

    def _jump(self) -> None:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        thaw = min(
            (process.frozen_until for process in self._processes if process.ready), default=inf
        )
        at = min(thaw, self._timers[0][0] if self._timers else inf)
        if at == inf:
            raise RuntimeError(_DEADLOCK)
        self._now_s = max(self._now_s, at)


def run_virtually(work: Coroutine[Any, Any, T], *, deadline_s: float) -> T:
    """Run to the end, within a deadline on the virtual clock; no task may be left over."""
    loop = SimulatedLoop()
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
