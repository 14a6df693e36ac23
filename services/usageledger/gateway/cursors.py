"""Pages of a list: where one begins, how many items it has, and how complete the list is.

To a client a cursor is opaque: it is the `next_cursor` of the page before, whatever that is.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Query
from pydantic import Field

PAGE_DEFAULT, PAGE_MAX = 50, 200

CURSOR_DESCRIPTION = "`next_cursor` of the page before, unchanged."

NameCursor = Annotated[
    str | None, Query(pattern=r"^([0-9a-f]{2}){1,1600}$", description=CURSOR_DESCRIPTION)
]
NumberCursor = Annotated[
    str | None, Query(pattern=r"^[0-9]{1,18}$", description=CURSOR_DESCRIPTION)
]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="How many items at most.")]
HistoryAsOf = Annotated[
    datetime | None,
    Field(description="Until when the list is complete; null if it is up to date."),
]


def cursor_after(name: str) -> str:
    """The cursor of a page that ends with this name.

    It is hexadecimal, because names have characters that a URL has not.
    """
    return name.encode().hex()


def name_before(cursor: str | None) -> str:
    """The name after which a page begins."""
    return "" if cursor is None else bytes.fromhex(cursor).decode(errors="replace")
