"""`AsyncLimitSubscriber`: a `LimitSubscriber` for asyncio programs.

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

A `LimitSubscriber` reads Kafka in a thread. It hands each event to the event loop and waits until
the event's handlers have returned. Order, repeats, retries and commits are therefore the same.
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

from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.limits.errors import SubscriberFailed
from usageledger.sdk.limits.handlers import Handler
from usageledger.sdk.limits.limit_event import LimitEvent
from usageledger.sdk.limits.subscriber import LimitSubscriber

# How soon the thread notices that the event loop which should call a handler has closed.
LOOP_CHECK_S = 1.0


class AsyncLimitSubscriber:
    """Calls an app's handlers on its event loop, and knows which accounts are blocked.

    Its arguments and promises are those of `LimitSubscriber`. A handler may be a coroutine
    function, which is awaited before the next event is handed over. It may also be a plain
    function, which must not block the loop. Handlers run on the event loop of `start`, `run` or
    ``async with``.
    """

    def __init__(
        self,
        *,
        kafka: KafkaConnection | str | None = None,
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
        """Decorator: call this when an account has used a share (80 %, say) of its credits."""
        self._subscriber.on_threshold(self._on_the_loop(handler))
        return handler

    def on_reached(self, handler: Handler) -> Handler:
        """Decorator: call this when an account becomes blocked: out of credits, or suspended."""
        self._subscriber.on_reached(self._on_the_loop(handler))
        return handler

    def on_cleared(self, handler: Handler) -> Handler:
        """Decorator: call this when a blocked account is freed."""
        self._subscriber.on_cleared(self._on_the_loop(handler))
        return handler

    def is_blocked(self, account: str) -> bool:
        """Whether the account is out of credits or suspended. Answers from memory.

        Raises SubscriberFailed once the subscriber has ended by itself, RuntimeError before
        `wait_ready` has returned and after `close`.
        """
        return self._subscriber.is_blocked(account)

    def why_blocked(self, account: str) -> LimitEvent | None:
        """Return the event that blocked the account, with the upgrade that frees it, or None.

        Raises as `is_blocked` does.
        """
        return self._subscriber.why_blocked(account)

    def blocked(self) -> set[str]:
        """Return all blocked accounts. Raises as `is_blocked` does."""
        return self._subscriber.blocked()

    async def run(self) -> None:
        """Call handlers until `close` is called, or the task that runs this is cancelled.

        A cancellation waits for the handlers that are being called. Raises HandlerFailed and
        SubscriberFailed, and RuntimeError if it ran before.
        """
        ended = self._begin()
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            self._subscriber.close()
            await asyncio.wait({ended})
            raise

    async def start(self) -> AsyncLimitSubscriber:
        """Call handlers in the background. Raises RuntimeError if it ran before."""
        self._begin()
        return self

    async def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until it knows every account that was blocked when it started.

        Raises TimeoutError after ``timeout_s`` seconds; otherwise as `is_blocked` does.
        """
        await _in_a_thread(functools.partial(self._subscriber.wait_ready, timeout_s))

    async def close(self, timeout_s: float = 30.0) -> None:
        """End, once the handlers that are being called have returned.

        A handler may call this. Then it does not wait, because it would wait for itself.

        Raises SubscriberFailed if the subscriber had ended by itself, TimeoutError if a handler did
        not return within ``timeout_s`` seconds.
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
        """Wrap ``handler`` for the reading thread: it runs on the loop, and the thread waits."""

        def call(event: LimitEvent) -> None:
            loop = self._loop
            assert loop is not None, "handlers are called by a subscriber that has begun"
            called = self._call(handler, event)
            try:
                answer = asyncio.run_coroutine_threadsafe(called, loop)
            except RuntimeError:  # the loop is closed
                called.close()
                raise
            # The wait needs a bound: a loop can close before it runs the handler.
            while not concurrent.futures.wait([answer], LOOP_CHECK_S).done:
                if loop.is_closed():
                    called.close()
                    raise RuntimeError("the event loop was closed before the handler returned")
            answer.result()

        # HandlerFailed names the handler by this.
        call.__qualname__ = getattr(handler, "__qualname__", repr(handler))
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
    """Make a blocking call in a daemon thread, and return its outcome as a future."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[None] = loop.create_future()
    # The app's next call raises this error. Asyncio must not also log that nobody retrieved it.
    outcome.add_done_callback(lambda done: done.cancelled() or done.exception())

    def resolve(error: BaseException | None) -> None:
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
            loop.call_soon_threadsafe(resolve, failure)

    threading.Thread(target=run, name="usageledger-limits", daemon=True).start()
    return outcome
