"""Where a list goes on: for who asks, a cursor is what ``next_cursor`` of the page before says, so
it can become another thing.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

PAGE_DEFAULT, PAGE_MAX = 50, 200

_DESCRIPTION = "`next_cursor` of the page before, as it is."

NameCursor = Annotated[
    str | None, Query(pattern=r"^([0-9a-f]{2}){1,1600}$", description=_DESCRIPTION)
]
NumberCursor = Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$", description=_DESCRIPTION)]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="How many items at most.")]


def cursor_after(name: str) -> str:
    """The cursor of a page that ends with this name.

    In letters and digits alone, for names have others, and a cursor stands in a URL.
    """
    return name.encode().hex()


def name_before(cursor: str | None) -> str:
    """The name after which a page begins."""
    return "" if cursor is None else bytes.fromhex(cursor).decode(errors="replace")
