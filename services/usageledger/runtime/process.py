"""A service as a process: it exits cleanly on SIGTERM and SIGINT, and with an error otherwise.

Either way it exits within a deadline.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import NoReturn

STOP_DEADLINE_S = 5.0

COLLECT_AFTER_OBJECTS = 50_000
"""Python looks for cycles after 700 new objects by default.

One fetch of a few hundred events makes more objects than that, and none of them is in a cycle.
"""

SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger(__name__)


def run_process(
    service: Callable[[asyncio.Event], Awaitable[None]],
    *,
    explained: tuple[type[Exception], ...] = (),
    stop_deadline_s: float = STOP_DEADLINE_S,
) -> NoReturn:
    """Run an asyncio service and exit: 0 after a signal, 1 after an error, which is logged.

    ``explained``: errors whose message says all there is to say, logged without a traceback.

    ``service`` must end soon after its event is set. The exit does not wait for threads: a
    consumer's thread that waits for a broker which is gone would keep the process for minutes.
    """
    _run_and_exit(lambda: asyncio.run(_run_until_signal(service, stop_deadline_s)), explained)


def run_threaded_process(
    service: Callable[[threading.Event], None],
    *,
    explained: tuple[type[Exception], ...] = (),
    stop_deadline_s: float = STOP_DEADLINE_S,
) -> NoReturn:
    """As `run_process`, for a service that blocks its thread. Call it in the main thread."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        # Nothing is logged here: the signal may have interrupted a write to the same stream.
        _begin_to_stop(stop, stop_deadline_s)

    for number in SIGNALS:
        signal.signal(number, on_signal)
    _run_and_exit(lambda: service(stop), explained)


def collect_seldom() -> None:
    """Look for cycles of objects less often: by default it costs a tenth of the catch-up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS, 20, 20)


def _run_and_exit(
    service: Callable[[], None], explained: tuple[type[Exception], ...] = ()
) -> NoReturn:
    collect_seldom()
    code = 0
    try:
        service()
    except explained as error:
        log.critical("%s", error)
        code = 1
    except Exception:
        log.critical("ending after an error", exc_info=True)
        code = 1
    _exit(code)


async def _run_until_signal(
    service: Callable[[asyncio.Event], Awaitable[None]], stop_deadline_s: float
) -> None:
    stop = asyncio.Event()

    def on_signal() -> None:
        log.info("stopping")
        _begin_to_stop(stop, stop_deadline_s)

    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    try:
        await service(stop)
    except Exception:
        _exit_after(stop_deadline_s, 1)
        raise


def _begin_to_stop(stop: asyncio.Event | threading.Event, stop_deadline_s: float) -> None:
    if not stop.is_set():
        stop.set()
        _exit_after(stop_deadline_s, 0)


def _exit_after(seconds: float, code: int) -> None:
    """Exit when that much time has passed, if the process has not ended by then.

    A thread of its own does it, because the loop or a blocking call may hang. Nothing is lost:
    what must last is in the log, and Kafka notices by itself that a client is gone.
    """

    def exit_overdue() -> None:
        log.warning("did not stop within %.0f s, exiting all the same", seconds)
        _exit(code)

    timer = threading.Timer(seconds, exit_overdue)
    timer.daemon = True
    timer.start()


def _exit(code: int) -> NoReturn:
    logging.shutdown()
    os._exit(code)
