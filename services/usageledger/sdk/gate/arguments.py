"""Checking a gate's arguments before anything is asked: the same for every transport."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

from usageledger.domain.checking import Use
from usageledger.domain.quantity import check_name, parse_quantity
from usageledger.sdk.gate.answers import InvalidUse

EXPIRES_IN_DEFAULT = timedelta(minutes=15)
EXPIRES_IN_MIN = timedelta(seconds=1)
EXPIRES_IN_MAX = timedelta(hours=24)
USES_MAX = 100

Quantity = Decimal | int | str
UseToQuote = tuple[str, str | None, Quantity] | Mapping[str, Any]
"""A use in a quote: feature, model and quantity, or a mapping that names them."""


def valid_account(account: str) -> str:
    """An account's id, checked. Raises InvalidUse."""
    return _valid_name("account", account)


def valid_hold_id(hold_id: str) -> str:
    """A hold's id, checked. Raises InvalidUse."""
    return _valid_name("id", hold_id)


def valid_use(feature: str, model: str | None, quantity: Quantity) -> Use:
    """A use from its parts, checked. Raises InvalidUse."""
    try:
        return Use(
            feature=check_name("feature", feature),
            model=None if model is None else check_name("model", model),
            quantity=parse_quantity(quantity),
        )
    except ValueError as error:
        raise InvalidUse(str(error)) from None


def valid_uses(uses: Iterable[UseToQuote]) -> list[Use]:
    """The uses of a quote, checked. Raises InvalidUse."""
    found = []
    for index, use in enumerate(uses):
        if not isinstance(use, Mapping):
            found.append(valid_use(*use))
            continue
        unknown = use.keys() - {"feature", "model", "quantity"}
        if unknown or "feature" not in use:
            raise InvalidUse(
                f"use {index} names feature, model and quantity, unlike {sorted(map(str, use))}"
            )
        found.append(valid_use(use["feature"], use.get("model"), use.get("quantity", 1)))
    if not 1 <= len(found) <= USES_MAX:
        raise InvalidUse(f"a quote has 1 to {USES_MAX} uses, not {len(found)}")
    return found


def hold_life_s(expires_in: timedelta | None) -> int:
    """For how many whole seconds a hold is to last, rounded up. Raises InvalidUse."""
    life = EXPIRES_IN_DEFAULT if expires_in is None else expires_in
    if not isinstance(life, timedelta) or not EXPIRES_IN_MIN <= life <= EXPIRES_IN_MAX:
        raise InvalidUse(f"expires_in is a timedelta from 1 second to 24 hours, not {expires_in!r}")
    return -(-life // timedelta(seconds=1))


def _valid_name(field: str, value: str) -> str:
    try:
        return check_name(field, value)
    except ValueError as error:
        raise InvalidUse(str(error)) from None
