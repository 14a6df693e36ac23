"""uvicorn's HTTP protocol with deadlines and bounds, which uvicorn itself does not have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from usageledger.gateway.access.strangers import pause_s
from usageledger.gateway.connections.caps import Caps
from usageledger.gateway.metrics import CONNECTIONS_CUT
from usageledger.gateway.problems import problem_response

HEAD_WITHIN_S = 10.0
"""From the connection, or from the first byte of a later request, to the end of its head."""
BODY_WITHIN_S = 15.0
REST_WITHIN_S = 2.0
"""For the rest of a body whose request has been answered already."""
READ_WITHIN_S = 20.0
"""A client that does not read its answer for this long is disconnected."""
HEAD_BYTES_MAX = 32_768
REST_BYTES_MAX = 65_536


class _HeadTooLarge(Exception):
    """A request's head has more than HEAD_BYTES_MAX bytes."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. ``on_lost`` is called when it has ended.

    Whoever answers early (401, 413) leaves the rest of a body unread. A little of it is read and
    dropped, so that clients can finish their request and use the connection again.
    """

    def __init__(
        self,
        *,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        caps: Caps,
        is_proxy: bool,
        on_lost: Callable[[], None],
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._caps = caps
        self._is_proxy = is_proxy
        self._on_lost = on_lost
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._rest_bytes = 0
        self._unended_bytes = 0
        self._is_in_body = False
        self._is_head_too_large = False

    def make_room(self) -> None:
        """Close this connection, which waits for a request, because another needs its place."""
        self._cut("room")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._disarm()
        self._caps.waiting.pop(self, None)
        if self._write_deadline is not None:
            self._write_deadline.cancel()
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        was_in_body, before = self._is_in_body, self.cycle
        super().data_received(data)
        if was_in_body or self.cycle is not before or self.transport.is_closing():
            return
        # A header that has not ended yet has reached no callback.
        self._unended_bytes += len(data)
        if self._unended_bytes > HEAD_BYTES_MAX:
            self._is_head_too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = self._rest_bytes = 0
        self._arm(HEAD_WITHIN_S, "head")

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unended_bytes, self._is_in_body = 0, True
        self._caps.waiting.pop(self, None)
        self._arm(BODY_WITHIN_S, "body")
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self.cycle.on_response = partial(self._on_response_of, self.cycle)

    def on_body(self, body: bytes) -> None:
        if not self.cycle.response_complete:
            return super().on_body(body)
        self._rest_bytes += len(body)
        if self._rest_bytes > REST_BYTES_MAX:
            self._cut("rest")

    def on_message_complete(self) -> None:
        self._is_in_body = False
        self._disarm()
        super().on_message_complete()
        if self.cycle.response_complete:
            self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()
        elif self._is_in_body:
            self._arm(REST_WITHIN_S, "rest")
        elif self.cycle.response_complete:
            self._await_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.call_later(READ_WITHIN_S, self._abort, "unread")

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._abort_later()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that cannot be read, and close the connection."""
        if self._is_head_too_large:
            self._refuse(
                "head_too_large", f"the request's head has more than {HEAD_BYTES_MAX} bytes"
            )
        else:
            self._refuse("malformed_request", "that is not HTTP/1.1: see GET /openapi.json")

    def _on_response_of(self, cycle: RequestResponseCycle) -> None:
        wait_s = 0.0 if self._is_proxy else pause_s(dict(cycle.scope))
        if not wait_s or self.transport.is_closing():
            return self.on_response_complete()
        # The answer is sent. The next request on this connection has to wait.
        self.flow.pause_reading()
        self.loop.call_later(wait_s, self.on_response_complete)

    def _await_head(self) -> None:
        self._caps.waiting[self] = None
        self._arm(HEAD_WITHIN_S, "head")

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > HEAD_BYTES_MAX:
            self._is_head_too_large = True
            # The parser ends with an error, and uvicorn then calls `send_400_response`.
            raise _HeadTooLarge

    def _arm(self, within_s: float, what: str) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(within_s, self._cut, what)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut(self, why: str) -> None:
        """End the connection. A client in the middle of a body learns why."""
        CONNECTIONS_CUT.labels(why).inc()
        self._caps.waiting.pop(self, None)
        if why == "body" and not self.cycle.response_started:
            self._refuse("too_slow", f"the body did not arrive within {BODY_WITHIN_S:.0f} s")
        elif not self.transport.is_closing():
            self.transport.close()
        self._abort_later()

    def _refuse(self, code: str, detail: str) -> None:
        answer = problem_response(code, detail, headers={"Connection": "close"})
        headers = [*self.server_state.default_headers, *answer.raw_headers]
        lines = [f"HTTP/1.1 {answer.status_code} {code}".encode()]
        lines += [name + b": " + value for name, value in headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(answer.body)]))
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        """Make sure that the connection ends, even if the client does not read its answer."""
        self.loop.call_later(READ_WITHIN_S, self.transport.abort)

    def _abort(self, why: str) -> None:
        CONNECTIONS_CUT.labels(why).inc()
        self.transport.abort()
