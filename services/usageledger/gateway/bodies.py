"""How large the body of a request may be.

Routes read a body before the caller is known, so the bound holds for strangers too.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from usageledger.gateway.problems import problem_response

BYTES_MAX = 1_048_576
_DIGITS_READ = 20
_TOO_LARGE = f"a request has at most {BYTES_MAX} bytes: split it into several"


class BodiesWithinBounds:
    """ASGI middleware: a body that is declared too large is not read.

    A body without a declared length is read up to the bound.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:_DIGITS_READ]) > BYTES_MAX:
            return await problem_response("too_large", _TOO_LARGE)(scope, receive, send)
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > BYTES_MAX:
                # While FastAPI reads a body, it passes on no other exception than this one.
                raise HTTPException(413, _TOO_LARGE)
            return message

        await self._app(scope, bounded, send)
