"""`AsyncLimitSubscriber`: a `LimitSubscriber` for programs that run on asyncio.

Needs kafka-python alone.

::

    subscriber = AsyncLimitSubscriber(kafka="localhost:9092", group="editor")

    @subscriber.on_reached
    async def stop(event):
        await sessions.stop(event.account, because=event.reason, offer=event.upgrade)

    async with subscriber:
        ...
        if subscriber.is_blocked("acct_4821"):
            ...

Kafka is read in a thread, by a `LimitSubscriber`; each event is handed to the event loop, and the
thread waits until its handlers have returned. So order, repeats, retries and what is committed when
are the same by construction.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from types import TracebackType

from usageledger.sdk.limits.limit_event import Handler, LimitEvent, SubscriberFailed
from usageledger.sdk.limits.subscriber import LimitSubscriber

# How soon the thread notices that the loop which should call a handler is no more.
LOOP_CHECK_S = 1.0


class AsyncLimitSubscriber:
    """Calls an app's handlers on its event loop, one event at a time, and keeps a view of who is
    blocked.

    Its promises are those of `LimitSubscriber`, and so are its arguments. A handler is a coroutine
    function, awaited before the next event is handed over, or a plain function, which must not
    block the loop. It runs on one event loop, that of `start`, `run` or ``async with``.
    """

    def __init__(
        self,
        *,
        kafka: str | None = None,
        prefix: str | None = None,
        group: str | None = None,
        from_beginning: bool = False,
        kafka_options: Mapping[str, object] | None = None,
    ) -> None:
        self._subscriber = LimitSubscriber(
            kafka=kafka,
            prefix=prefix,
            group=group,
            from_beginning=from_beginning,
            kafka_options=kafka_options,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._handling: asyncio.Task[object] | None = None

    def on_threshold(self, handler: Handler) -> Handler:
        """Decorator: call this when an account's use comes to a share (80 %, say) of what its
        period has.
        """
        self._subscriber.on_threshold(self._on_the_loop(handler))
        return handler

    def on_reached(self, handler: Handler) -> Handler:
        """Decorator: call this when an account comes to be blocked: nothing remains to it, or it is
        suspended.
        """
        self._subscriber.on_reached(self._on_the_loop(handler))
        return handler

    def on_cleared(self, handler: Handler) -> Handler:
        """Decorator: call this when an account that was blocked is so no longer."""
        self._subscriber.on_cleared(self._on_the_loop(handler))
        return handler

    def is_blocked(self, account: str) -> bool:
        """Whether nothing remains to the account, or it is suspended.

        Asks nobody, so it may be called anywhere.

        Raises SubscriberFailed, and RuntimeError while there is no view to answer from: before
        `wait_ready` has returned, after `close`.
        """
        return self._subscriber.is_blocked(account)

    def why_blocked(self, account: str) -> LimitEvent | None:
        """The event by which the account came to be blocked; None if it is not.

        Raises as `is_blocked` does.
        """
        return self._subscriber.why_blocked(account)

    def blocked(self) -> set[str]:
        """All accounts that are blocked. Raises as `is_blocked` does."""
        return self._subscriber.blocked()

    async def run(self) -> None:
        """Call handlers until `close` is called, or the task that runs this is cancelled.

        Raises HandlerFailed and SubscriberFailed.

        A cancellation waits for the handlers that are being called.
        """
        ended = self._begin()
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            self._subscriber.close()
            await asyncio.wait({ended})
            raise

    async def start(self) -> AsyncLimitSubscriber:
        """Call handlers in the background."""
        self._begin()
        return self

    async def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until the view holds all that had been announced at the start.

        Raises TimeoutError; otherwise as `is_blocked` does.
        """
        await _in_a_thread(functools.partial(self._subscriber.wait_ready, timeout_s))

    async def close(self, timeout_s: float = 30.0) -> None:
        """End, after the handlers that are being called.

        Raises SubscriberFailed if the subscriber had ended by itself, TimeoutError.

        Called by a handler it does not wait, for it would wait for itself.
        """
        self._subscriber.close()
        ended = self._ended
        if ended is None or asyncio.current_task() is self._handling:
            return
        done, _ = await asyncio.wait({ended}, timeout=timeout_s)
        if not done:
            raise TimeoutError(f"a handler did not return within {timeout_s:g} s")
        failure = ended.exception()
        if failure is not None:
            raise SubscriberFailed(f"the subscriber has ended: {failure}") from failure

    async def __aenter__(self) -> AsyncLimitSubscriber:
        self._begin()
        try:
            await self.wait_ready()
        except BaseException:
            self._subscriber.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except SubscriberFailed:
            if error is None:
                raise

    def _begin(self) -> asyncio.Future[None]:
        if self._ended is not None:
            raise RuntimeError("a subscriber runs once: make another one")
        self._loop = asyncio.get_running_loop()
        self._ended = _in_a_thread(self._subscriber.run)
        return self._ended

    def _on_the_loop(self, handler: Handler) -> Handler:
        """What the reading thread calls: returns, or raises, as ``handler`` does on the loop."""

        def call(event: LimitEvent) -> None:
            loop = self._loop
            assert loop is not None, "handlers are called by a subscriber that has begun"
            called = self._call(handler, event)
            try:
                answer = asyncio.run_coroutine_threadsafe(called, loop)
            except RuntimeError:  # the loop is closed
                called.close()
                raise
            # A loop that ends before it comes to this would be waited for without end.
            while not concurrent.futures.wait([answer], LOOP_CHECK_S).done:
                if loop.is_closed():
                    called.close()
                    raise RuntimeError("the event loop was closed before the handler returned")
            answer.result()

        call.__qualname__ = getattr(
            handler, "__qualname__", repr(handler)
        )  # by which HandlerFailed names it
        return call

    async def _call(self, handler: Handler, event: LimitEvent) -> None:
        self._handling = asyncio.current_task()
        try:
            result = handler(event)
            if inspect.isawaitable(result):
                await result
        finally:
            self._handling = None


def _in_a_thread(call: Callable[[], None]) -> asyncio.Future[None]:
    """Make a blocking call in a thread of its own, which keeps no interpreter from ending, and
    return its outcome as a future.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[None] = loop.create_future()
    # Whoever asks next is told what went wrong: asyncio need not log that nobody has looked.
    outcome.add_done_callback(lambda done: done.cancelled() or done.exception())

    def settle(error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is None:
            outcome.set_result(None)
        else:
            outcome.set_exception(error)

    def run() -> None:
        failure: BaseException | None = None
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - it is raised where the outcome is awaited
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(settle, failure)

    threading.Thread(target=run, name="usageledger-limits", daemon=True).start()
    return outcome
