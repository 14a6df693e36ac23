"""How large a request's body may be.

Routes read theirs before they know who asks, so a stranger's counts too.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from usageledger.gateway.problems import problem_response

BYTES_MAX = 1_048_576
_DIGITS_READ = 20
_TOO_LARGE = f"a request has at most {BYTES_MAX} bytes: send what it holds in several"


class BodiesWithinBounds:
    """ASGI middleware: a body that says that it is too large is not read at all, and one that says
    nothing only as far as it may be.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:_DIGITS_READ]) > BYTES_MAX:
            return await problem_response("too_large", _TOO_LARGE)(scope, receive, send)
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > BYTES_MAX:
                # FastAPI hands on what is raised while it reads a body only where it is this.
                raise HTTPException(413, _TOO_LARGE)
            return message

        await self._app(scope, bounded, send)
