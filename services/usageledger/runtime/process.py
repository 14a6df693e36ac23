"""A service as a process: it ends cleanly on SIGTERM and SIGINT, non-zero when it fails, and within
a deadline either way.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import NoReturn

STOP_DEADLINE_S = 5.0

COLLECT_AFTER_OBJECTS = 50_000
"""Python looks for cycles after 700 new objects; a chunk of a few hundred events has more than
that, and none of them is in a cycle.
"""

logger = logging.getLogger(__name__)


def run_process(
    service: Callable[[asyncio.Event], Awaitable[None]], *, stop_deadline_s: float = STOP_DEADLINE_S
) -> NoReturn:
    """Run a service to its end and exit: 0 after a signal, 1 after an error, which is logged.

    ``service`` ends soon after its event is set.

    The exit does not wait for threads: a consumer's thread that waits for a broker which is gone
    would keep the process for minutes.
    """
    collect_seldom()
    code = 0
    try:
        asyncio.run(_until_signalled(service, stop_deadline_s))
    except Exception:
        logger.critical("ending after an error", exc_info=True)
        code = 1
    _exit(code)


def collect_seldom() -> None:
    """Look for cycles of objects less often: a tenth of what catching up costs."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS, 20, 20)


async def _until_signalled(
    service: Callable[[asyncio.Event], Awaitable[None]], stop_deadline_s: float
) -> None:
    stop = asyncio.Event()

    def signalled() -> None:
        if not stop.is_set():
            logger.info("stopping")
            stop.set()
            end_after(stop_deadline_s, 0)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    try:
        await service(stop)
    except Exception:
        end_after(stop_deadline_s, 1)
        raise


def end_after(seconds: float, code: int) -> None:
    """End the process when that much time has passed, if it has not ended by then.

    In a thread of its own: what hangs may be the loop, or a call. What must not be lost is in the
    log; Kafka will miss us by itself.
    """

    def overdue() -> None:
        logger.warning("did not stop within %.0f s, ending all the same", seconds)
        _exit(code)

    timer = threading.Timer(seconds, overdue)
    timer.daemon = True
    timer.start()


def _exit(code: int) -> NoReturn:
    logging.shutdown()
    os._exit(code)
