"""How large the body of a request may be."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from usageledger.gateway.problems import problem_response

BYTES_MAX = 65_536
EVENTS_BYTES_MAX = 1_048_576
"""For reports of events, which come in batches."""
EVENTS = "/v1/events"
_DIGITS_READ = 20


class BodiesWithinBounds:
    """ASGI middleware: a body that is declared too large is not read.

    A body without a declared length is read up to the bound.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        bytes_max = EVENTS_BYTES_MAX if scope["path"] == EVENTS else BYTES_MAX
        too_large = f"the body has more than {bytes_max} bytes: split the request into several"
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:_DIGITS_READ]) > bytes_max:
            return await problem_response("too_large", too_large)(scope, receive, send)
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > bytes_max:
                # While FastAPI reads a body, it passes on no other exception than this one.
                raise HTTPException(413, too_large)
            return message

        await self._app(scope, bounded, send)
