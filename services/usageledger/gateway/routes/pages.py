"""Routes of our own pages: the usage meter, alone and in a page, and the operator's console.

Static files, and no data of anybody.
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

# Our pages run our own scripts and ask our own origin; nothing that slips into one could load, send
# or frame anything else.
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
    """Who opens the gateway's address in a browser wants to see something."""
    return RedirectResponse("/console")


@router.get("/console", response_class=Response)
async def console(request: Request) -> Response:
    """The operator's console. It asks the API as its reader, who signs in with a key."""
    return _answer(request, "console.html")


@router.get("/accounts/{account:segment}/meter", response_class=Response)
async def meter_page(account: AccountPath, request: Request) -> Response:
    """The usage meter of an account, on a page of its own.

    The page reads in its address whose it is.
    """
    return _answer(request, "meter.html")


@router.get("/usage-meter.{rest}", response_class=Response)
async def component(rest: str, request: Request) -> Response:
    """The component that apps embed, its looks and its words.

    A browser fetches them for another site's page only where that is said.
    """
    return _answer(
        request,
        f"usage-meter.{rest}",
        {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"},
    )


@router.get("/pages/{name}", response_class=Response)
async def page_file(name: str, request: Request) -> Response:
    """A script or a style sheet of our pages."""
    return _answer(request, name)


def _answer(request: Request, name: str, more: Mapping[str, str] = _NOTHING_MORE) -> Response:
    """A file, or that the browser's copy is still the same: a release changes all of them at once,
    so they are asked for each time.
    """
    found = _files().get(name)
    if found is None:
        raise Problem("not_found", f"there is no page {name!r}: /console is where to begin")
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
    """Every file there is, by name: what is not among them is not served, whatever a path says."""
    files = {}
    for entry in resources.files("usageledger").joinpath("web").iterdir():
        content = entry.read_bytes()
        media_type = _MEDIA_TYPES[entry.name.rpartition(".")[2]]
        # Weak, for the same file goes out in two encodings.
        etag = f'W/"{hashlib.sha256(content).hexdigest()[:20]}"'
        files[entry.name] = _File(
            content, gzip.compress(content, mtime=0), f"{media_type}; charset=utf-8", etag
        )
    return files
