"""Paths whose segments may be any name: the account ``team/7`` is the segment ``team%2F7``."""

from __future__ import annotations

from urllib.parse import quote, unquote

from starlette.convertors import Convertor, register_url_convertor
from starlette.types import ASGIApp, Receive, Scope, Send


class SegmentConvertor(Convertor[str]):
    """``{account:segment}``: one segment of the path as it was sent, decoded afterwards."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return unquote(value, errors="replace")

    def to_string(self, value: str) -> str:
        return quote(value, safe="")


class PathsAsSent:
    """ASGI middleware: routes are matched with the path as it was sent.

    Servers decode it first, and then ``%2F`` would separate two segments.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("raw_path"):
            scope = {
                **scope,
                "path": scope["raw_path"].partition(b"?")[0].decode("ascii", "replace"),
            }
        await self._app(scope, receive, send)


def register() -> None:
    """Make ``:segment`` known to Starlette, before the first route uses it. It may be repeated."""
    register_url_convertor("segment", SegmentConvertor())
