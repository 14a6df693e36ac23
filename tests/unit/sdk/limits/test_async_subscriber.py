"""AsyncLimitSubscriber hands events to an event loop as LimitSubscriber hands them to a thread.

The consumer of Kafka is a fake here.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest

from usageledger.contracts.examples import examples
from usageledger.sdk.limits import async_subscriber
from usageledger.sdk.limits.async_subscriber import AsyncLimitSubscriber
from usageledger.sdk.limits.errors import HandlerFailed, SubscriberFailed
from usageledger.sdk.limits.handlers import Handler, Handlers
from usageledger.sdk.limits.limit_event import LimitEvent

THRESHOLD, REACHED, CLEARED = (
    examples()[f"limit.{kind}"][0] for kind in ("threshold", "reached", "cleared")
)
DEADLINE_S = 20.0


class FakeSubscriber:
    """A `LimitSubscriber` that is given events instead of reading them, and calls handlers by the
    same rules.
    """

    def __init__(self, **_settings: object) -> None:
        self.events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.handled: list[str] = []
        self.failure: BaseException | None = None
        self.thread: threading.Thread | None = None
        self._handlers = Handlers(pause=lambda _seconds: None)
        self._is_ready = threading.Event()

    def on_threshold(self, handler: Handler) -> None:
        self._handlers.add("threshold", handler)

    def on_reached(self, handler: Handler) -> None:
        self._handlers.add("reached", handler)

    def on_cleared(self, handler: Handler) -> None:
        self._handlers.add("cleared", handler)

    def run(self) -> None:
        self.thread = threading.current_thread()
        self._is_ready.set()
        try:
            while (event := self.events.get(timeout=DEADLINE_S)) is not None:
                self._handlers.hand_over(event)
                self.handled.append(event["type"])
        except BaseException as error:
            self.failure = error
            raise

    def wait_ready(self, timeout_s: float) -> None:
        if not self._is_ready.wait(timeout_s):
            raise TimeoutError("the limit events could not be read")
        if self.failure is not None:
            raise SubscriberFailed("the subscriber has ended") from self.failure

    def close(self) -> None:
        self.events.put(None)


Made = tuple[AsyncLimitSubscriber, FakeSubscriber]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    fake = FakeSubscriber()
    monkeypatch.setattr(async_subscriber, "LimitSubscriber", lambda **_settings: fake)
    return AsyncLimitSubscriber(kafka="nowhere:9"), fake


def run(main: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(main(), DEADLINE_S))


def test_a_coroutine_is_awaited_before_the_next_event_is_handed_over(made: Made) -> None:
    subscriber, fake = made
    told: list[str] = []

    @subscriber.on_threshold
    async def prompt(event: LimitEvent) -> None:
        told.append(f"{event.kind} begins")
        for _ in range(3):
            await asyncio.sleep(0)
        told.append(f"{event.kind} ends")

    @subscriber.on_reached
    async def stop(event: LimitEvent) -> None:
        told.append(event.kind)

    async def main() -> None:
        async with subscriber:
            for event in (THRESHOLD, REACHED, THRESHOLD):
                fake.events.put(event)

    run(main)
    assert told == [
        "threshold begins",
        "threshold ends",
        "reached",
        "threshold begins",
        "threshold ends",
    ]
    assert fake.handled == ["limit.threshold", "limit.reached", "limit.threshold"]


def test_every_handler_is_called_on_the_event_loop_a_plain_function_too(made: Made) -> None:
    subscriber, fake = made
    threads: list[threading.Thread] = []

    @subscriber.on_cleared
    def note(_event: LimitEvent) -> None:
        threads.append(threading.current_thread())
        asyncio.get_running_loop()

    async def main() -> None:
        async with subscriber:
            fake.events.put(CLEARED)

    run(main)
    assert threads == [threading.current_thread()] and fake.thread not in threads


def test_a_decorated_handler_is_still_the_apps_function(made: Made) -> None:
    def handler(_event: LimitEvent) -> None: ...

    subscriber, _ = made
    assert (
        subscriber.on_threshold(handler)
        is subscriber.on_reached(handler)
        is subscriber.on_cleared(handler)
        is handler
    )


def test_a_handler_that_fails_is_called_again_and_then_succeeds(made: Made) -> None:
    subscriber, fake = made
    attempts: list[str] = []

    @subscriber.on_reached
    async def stop(event: LimitEvent) -> None:
        attempts.append(event.id)
        if len(attempts) < 3:
            raise OSError("the session service is away")

    async def main() -> None:
        async with subscriber:
            fake.events.put(REACHED)

    run(main)
    assert attempts == ["3-1042-1"] * 3 and fake.handled == ["limit.reached"]


def test_a_handler_that_keeps_failing_ends_the_subscriber_and_is_named(
    made: Made,
) -> None:
    subscriber, fake = made

    @subscriber.on_reached
    async def stop_session(_event: LimitEvent) -> None:
        raise OSError("the session service is away")

    async def main() -> None:
        fake.events.put(REACHED)
        with pytest.raises(
            HandlerFailed, match="stop_session failed 3 times with limit event 3-1042-1"
        ) as raised:
            await subscriber.run()
        assert isinstance(raised.value.__cause__, OSError)
        with pytest.raises(SubscriberFailed, match="has ended"):
            await subscriber.close()

    run(main)
    assert fake.handled == []


@pytest.mark.parametrize(
    ("error", "raised"), [(None, SubscriberFailed), (ZeroDivisionError(), ZeroDivisionError)]
)
def test_a_failed_subscriber_raises_at_the_blocks_end(
    made: Made, error: Exception | None, raised: type[Exception]
) -> None:
    """It does not hide an error that the block itself raised."""
    subscriber, fake = made

    @subscriber.on_reached
    async def fail(_event: LimitEvent) -> None:
        raise OSError("the session service is away")

    async def main() -> None:
        async with subscriber:
            fake.events.put(REACHED)
            if error is not None:
                raise error

    with pytest.raises(raised):
        run(main)


def test_a_subscriber_runs_once(made: Made) -> None:
    subscriber, _ = made

    async def main() -> None:
        async with subscriber:
            with pytest.raises(RuntimeError, match="runs once"):
                await subscriber.start()

    run(main)


def test_cancelling_run_waits_for_the_handler_that_is_being_called(made: Made) -> None:
    subscriber, fake = made
    told: list[str] = []

    async def main() -> None:
        is_called, may_return = asyncio.Event(), asyncio.Event()

        @subscriber.on_reached
        async def stop(_event: LimitEvent) -> None:
            is_called.set()
            await may_return.wait()
            told.append("stopped")

        running = asyncio.create_task(subscriber.run())
        fake.events.put(REACHED)
        await is_called.wait()
        running.cancel()
        await asyncio.sleep(0)
        assert not running.done()
        may_return.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert told == ["stopped"] and fake.handled == ["limit.reached"]

    run(main)


def test_a_handler_can_close_the_subscriber_that_calls_it(made: Made) -> None:
    subscriber, fake = made

    @subscriber.on_threshold
    async def close(_event: LimitEvent) -> None:
        await subscriber.close()

    async def main() -> None:
        fake.events.put(THRESHOLD)
        await subscriber.run()

    run(main)
    assert fake.handled == ["limit.threshold"]


def test_closing_gives_up_on_a_handler_that_does_not_return(made: Made) -> None:
    subscriber, fake = made

    async def main() -> None:
        is_called, may_return = asyncio.Event(), asyncio.Event()

        @subscriber.on_reached
        async def hang(_event: LimitEvent) -> None:
            is_called.set()
            await may_return.wait()

        await subscriber.start()
        fake.events.put(REACHED)
        await is_called.wait()
        with pytest.raises(TimeoutError, match="a handler did not return"):
            await subscriber.close(timeout_s=0)
        may_return.set()
        await subscriber.close()

    run(main)
    assert fake.handled == ["limit.reached"]


def test_a_loop_that_ends_leaves_no_thread_waiting_and_the_event_unhandled(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_subscriber, "LOOP_CHECK_S", 0.01)
    subscriber, fake = made

    async def main() -> None:
        is_called = asyncio.Event()

        @subscriber.on_reached
        async def hang(_event: LimitEvent) -> None:
            is_called.set()
            await asyncio.Event().wait()

        await subscriber.start()
        fake.events.put(REACHED)
        await is_called.wait()

    run(main)
    assert fake.thread is not None
    fake.thread.join(DEADLINE_S)
    assert not fake.thread.is_alive() and fake.handled == []
    assert isinstance(fake.failure, HandlerFailed)


def test_closing_what_never_began_does_nothing(made: Made) -> None:
    subscriber, _ = made
    run(subscriber.close)


def test_what_it_cannot_start_with_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USAGELEDGER_KAFKA", raising=False)
    with pytest.raises(ValueError, match="USAGELEDGER_KAFKA"):
        AsyncLimitSubscriber()
    subscriber = AsyncLimitSubscriber(kafka="localhost:9")
    for ask in (subscriber.is_blocked, subscriber.why_blocked):
        with pytest.raises(RuntimeError, match="wait_ready"):
            ask("acct")
    with pytest.raises(RuntimeError, match="wait_ready"):
        subscriber.blocked()
