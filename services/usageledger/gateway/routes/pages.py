"""Routes of the files in web/: the usage meter, which other sites embed, and our own pages.

A file's address is its path in web/: the component's files are at the top, those of our pages in
pages/. All of them are static, and none holds data of an account.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from usageledger.gateway.dependencies import AccountPath
from usageledger.gateway.problems import Problem

router = APIRouter(include_in_schema=False)

# Other files of web/ are for its developers, and are not served.
_MEDIA_TYPES = MappingProxyType(
    {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
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

# A browser gives the component to another site's page only if these headers allow it. Modules are
# always requested with CORS, and the script fetches the looks.
_EMBEDDABLE = MappingProxyType(
    {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
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
    return _file_response(request, "pages/console.html")


@router.get("/accounts/{account:segment}/meter", response_class=Response)
async def meter_page(account: AccountPath, request: Request) -> Response:
    """The usage meter of one account. The page reads the account's name from its own address."""
    return _file_response(request, "pages/meter.html")


@router.get("/usage-meter{rest}", response_class=Response)
async def component(rest: str, request: Request) -> Response:
    """The component that apps embed: its scripts, looks and words. Other sites may load each."""
    return _file_response(request, f"usage-meter{rest}", _EMBEDDABLE)


@router.get("/pages/{name}", response_class=Response)
async def page_file(name: str, request: Request) -> Response:
    """A script or a style sheet of our pages. No other site may load it."""
    return _file_response(request, f"pages/{name}")


def _file_response(
    request: Request, name: str, more: Mapping[str, str] = _NOTHING_MORE
) -> Response:
    """The file, or the news that the browser's copy is still current.

    A release changes all files at once, and a new module with an old one beside it would fail. So
    a browser asks for each file each time.
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
    """Every file that is served, by its path in web/. Nothing else is, whatever a path says."""
    web = resources.files("usageledger").joinpath("web")
    folders = {"": web, "pages/": web.joinpath("pages")}
    return {
        f"{prefix}{entry.name}": _read(entry, media_type)
        for prefix, folder in folders.items()
        for entry in folder.iterdir()
        if (media_type := _MEDIA_TYPES.get(PurePosixPath(entry.name).suffix))
    }


def _read(entry: Traversable, media_type: str) -> _File:
    content = entry.read_bytes()
    # Weak, because the same file is sent in two encodings.
    etag = f'W/"{hashlib.sha256(content).hexdigest()[:20]}"'
    compressed = gzip.compress(content, mtime=0)
    return _File(content, compressed, f"{media_type}; charset=utf-8", etag)
