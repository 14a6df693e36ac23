"""Ending asyncio tasks whatever the libraries below them do with a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

CANCEL_AGAIN_AFTER_S = 0.5


async def cancel_and_wait(
    tasks: Iterable[asyncio.Task[Any]],
    *,
    again_after_s: float = CANCEL_AGAIN_AFTER_S,
    timeout_s: float | None = None,
) -> set[asyncio.Task[Any]]:
    """Cancel tasks again and again until all have ended; return those that have not in time.

    A client library can swallow a cancellation that arrives together with its answer, hence the
    repetition every ``again_after_s``. Without ``timeout_s`` there is no bound, and nothing is
    left. Errors of the tasks are dropped. A cancellation of the caller is raised at the end.
    """
    tasks = list(tasks)  # cancelled in this order: a set's order would differ from run to run
    clock = asyncio.get_running_loop().time
    deadline_s = None if timeout_s is None else clock() + timeout_s
    cancelled: asyncio.CancelledError | None = None
    while running := [task for task in tasks if not task.done()]:
        left_s = again_after_s if deadline_s is None else deadline_s - clock()
        if left_s <= 0:
            break
        for task in running:
            task.cancel()
        try:
            await asyncio.wait(running, timeout=min(again_after_s, left_s))
        except asyncio.CancelledError as error:
            cancelled = error
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # retrieved, or asyncio would log it as never retrieved
    if cancelled is not None:
        raise cancelled
    return set(running)


async def raise_first_failure(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Wait until the first task ends, and raise what it failed with."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task in done:
            task.result()


def is_being_cancelled() -> bool:
    """Whether somebody has asked the current task to end.

    False for a `CancelledError` of a client library's own: one that is closed cancels its answers.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
