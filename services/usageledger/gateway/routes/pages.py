"""Routes of our own pages: the usage meter, as a component and as a page, and the console.

They serve static files without anybody's data.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from usageledger.gateway.dependencies import AccountPath
from usageledger.gateway.problems import Problem

router = APIRouter(include_in_schema=False)

_MEDIA_TYPES = MappingProxyType(
    {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
)

# Our pages run only our own scripts and ask only our own origin. Injected markup could load,
# send or frame nothing else.
_SECURITY = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src "
            "'self' data:; "
            "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
)

_NOTHING_MORE: Mapping[str, str] = MappingProxyType({})


class _File(NamedTuple):
    content: bytes
    compressed: bytes
    media_type: str
    etag: str


@router.get("/", response_class=Response)
async def root() -> RedirectResponse:
    """A browser that opens the gateway's address gets the console."""
    return RedirectResponse("/console")


@router.get("/console", response_class=Response)
async def console(request: Request) -> Response:
    """The operator's console. It asks the API with the session of the person who signed in."""
    return _file_response(request, "console.html")


@router.get("/accounts/{account:segment}/meter", response_class=Response)
async def meter_page(account: AccountPath, request: Request) -> Response:
    """The usage meter of an account, on a page of its own.

    The page's script reads the account in the URL.
    """
    return _file_response(request, "meter.html")


@router.get("/usage-meter.{rest}", response_class=Response)
async def component(rest: str, request: Request) -> Response:
    """The component that apps embed, its style sheet and its texts.

    The headers let pages of other sites load them.
    """
    return _file_response(
        request,
        f"usage-meter.{rest}",
        {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"},
    )


@router.get("/pages/{name}", response_class=Response)
async def page_file(name: str, request: Request) -> Response:
    """A script or a style sheet of our pages."""
    return _file_response(request, name)


def _file_response(
    request: Request, name: str, more: Mapping[str, str] = _NOTHING_MORE
) -> Response:
    """A file, or 304 if the browser's copy is current.

    Browsers ask each time, because a release changes all files at once.
    """
    found = _files().get(name)
    if found is None:
        raise Problem("not_found", f"there is no page {name!r}: open /console")
    headers = {
        **_SECURITY,
        "Cache-Control": "no-cache",
        "ETag": found.etag,
        "Vary": "Accept-Encoding",
        **more,
    }
    if found.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(found.content, media_type=found.media_type, headers=headers)
    return Response(
        found.compressed,
        media_type=found.media_type,
        headers={**headers, "Content-Encoding": "gzip"},
    )


@cache
def _files() -> dict[str, _File]:
    """Every file by name. Only these are served, whatever a path says."""
    files = {}
    for entry in resources.files("usageledger").joinpath("web").iterdir():
        content = entry.read_bytes()
        media_type = _MEDIA_TYPES[entry.name.rpartition(".")[2]]
        # Weak, because the same file is sent in two encodings.
        etag = f'W/"{hashlib.sha256(content).hexdigest()[:20]}"'
        files[entry.name] = _File(
            content, gzip.compress(content, mtime=0), f"{media_type}; charset=utf-8", etag
        )
    return files
