from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from usageledger.runtime.tasks import cancel_and_wait, is_being_cancelled, raise_first_failure


async def _swallow_cancellations(count: int) -> None:
    """Behave like a client library whose answer arrives together with a cancellation."""
    while count:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            count -= 1
    await asyncio.Event().wait()


def _within(seconds: float, test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(seconds):
            await test()

    asyncio.run(run())


def test_a_task_that_swallows_cancellations_ends_all_the_same() -> None:
    async def test() -> None:
        task = asyncio.create_task(_swallow_cancellations(2))
        await asyncio.sleep(0)
        assert await cancel_and_wait([task], again_after_s=0.001) == set()
        assert task.cancelled()

    _within(5.0, test)


def test_tasks_that_do_not_end_in_time_are_returned() -> None:
    async def test() -> None:
        unwilling = asyncio.create_task(_swallow_cancellations(3))
        willing = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(0)
        running = await cancel_and_wait([unwilling, willing], again_after_s=0.001, timeout_s=0.0015)
        assert running == {unwilling}
        await cancel_and_wait([unwilling], again_after_s=0.001)

    _within(5.0, test)


def test_a_cancellation_of_the_waiter_is_raised_once_the_tasks_have_ended() -> None:
    async def test() -> None:
        task = asyncio.create_task(_swallow_cancellations(3))
        waiter = asyncio.create_task(cancel_and_wait([task], again_after_s=0.001))
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert task.cancelled()

    _within(5.0, test)


def test_the_first_failure_of_several_tasks_is_raised() -> None:
    async def fail() -> None:
        raise OSError("the first to fail")

    async def test() -> None:
        tasks = [asyncio.create_task(asyncio.Event().wait()), asyncio.create_task(fail())]
        with pytest.raises(OSError, match="the first to fail"):
            await raise_first_failure(tasks)
        await cancel_and_wait(tasks)

    _within(5.0, test)


def test_a_cancellation_that_nobody_asked_for_is_told_apart() -> None:
    answers: list[bool] = []

    async def ask_when(cancellation: asyncio.Future[None]) -> None:
        try:
            await cancellation
        except asyncio.CancelledError:
            answers.append(is_being_cancelled())

    async def test() -> None:
        loop = asyncio.get_running_loop()
        library_answer: asyncio.Future[None] = loop.create_future()
        library_answer.cancel()
        await ask_when(library_answer)
        task = asyncio.create_task(ask_when(loop.create_future()))
        await asyncio.sleep(0)
        task.cancel()
        await task

    _within(5.0, test)
    assert answers == [False, True]


def test_tasks_are_cancelled_in_the_order_given() -> None:
    """Incident: a set of tasks is ordered by their addresses.

    The same seed of the simulation then had one digest in some processes and another in others.
    """
    ended: list[int] = []

    async def end_noting(number: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(number)

    async def cancel_many() -> None:
        tasks = [asyncio.create_task(end_noting(number)) for number in range(50)]
        await asyncio.sleep(0)
        await cancel_and_wait(tasks)

    asyncio.run(cancel_many())
    assert ended == list(range(50))
