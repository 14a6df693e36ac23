"""The scopes of app keys and account tokens: what their holder may ask the gateway for.

Needs the standard library alone. The gateway and the CLI have the same list.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeVar, get_args

Scope = Literal["report", "check", "hold", "read", "admin"]
TokenScope = Literal["check", "hold", "read"]

SCOPES: tuple[Scope, ...] = get_args(Scope)
"""The scopes of keys. ``admin`` includes the others."""

TOKEN_SCOPES: tuple[TokenScope, ...] = get_args(TokenScope)
"""The scopes of account tokens: those that a path of one account asks for."""

_T = TypeVar("_T", bound=str)


def checked_scopes(asked: Collection[str], known: tuple[_T, ...], of: str) -> tuple[_T, ...]:
    """The scopes of ``known`` that were asked for, in its order.

    Raises ValueError if none was, or another one. ``of`` says in words whose scopes they are.
    """
    if isinstance(asked, str):
        raise ValueError(f"scopes are a list, such as [{asked!r}], not one text")
    unknown = sorted(set(asked) - set(known))
    if unknown or not asked:
        raise ValueError(
            f"the scopes of {of} are one or more of {', '.join(known)}, "
            f"not {unknown[0] if unknown else 'none'!r}"
        )
    return tuple(scope for scope in known if scope in asked)
