"""Serve an ASGI app on a free port for the length of a test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from tests.examples.ledger import wait_for
from usageledger.local.ports import LOOPBACK, free_port


@contextmanager
def running_app(app: ASGIApp, port: int | None = None) -> Iterator[str]:
    """The app's URL. ``port`` is the one that another program already knows."""
    port = free_port() if port is None else port
    server = uvicorn.Server(uvicorn.Config(app, host=LOOPBACK, port=port, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        assert wait_for(lambda: server.started, bool), "the app did not start"
        yield f"http://{LOOPBACK}:{port}"
    finally:
        server.should_exit = True
        thread.join(10.0)
        assert not thread.is_alive()
