"""What a gate is asked, looked at before anybody is troubled with it: the same complaints,
whichever way the gate asks.
"""

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
Asked = tuple[str, str | None, Quantity] | Mapping[str, Any]
"""A use in a quote: feature, model, quantity; or a mapping that names them."""


def account_named(account: str) -> str:
    """An account's name. Raises InvalidUse."""
    return _checked("account", account)


def hold_named(hold_id: str) -> str:
    """A hold's id. Raises InvalidUse."""
    return _checked("id", hold_id)


def use_asked(feature: str, model: str | None, quantity: Quantity) -> Use:
    """A use. Raises InvalidUse."""
    try:
        named = (
            check_name("feature", feature),
            None if model is None else check_name("model", model),
        )
        return Use(feature=named[0], model=named[1], quantity=parse_quantity(quantity))
    except ValueError as error:
        raise InvalidUse(str(error)) from None


def uses_asked(uses: Iterable[Asked]) -> list[Use]:
    """The uses of a quote. Raises InvalidUse."""
    found = []
    for place, use in enumerate(uses):
        if not isinstance(use, Mapping):
            found.append(use_asked(*use))
            continue
        strange = use.keys() - {"feature", "model", "quantity"}
        if strange or "feature" not in use:
            raise InvalidUse(
                f"use {place} names feature, model and quantity, unlike {sorted(map(str, use))}"
            )
        found.append(use_asked(use["feature"], use.get("model"), use.get("quantity", 1)))
    if not 1 <= len(found) <= USES_MAX:
        raise InvalidUse(f"a quote has 1 to {USES_MAX} uses, not {len(found)}")
    return found


def life_s_of(expires_in: timedelta | None) -> int:
    """For how many seconds a hold is to count, a part of one counted whole. Raises InvalidUse."""
    asked = EXPIRES_IN_DEFAULT if expires_in is None else expires_in
    if not isinstance(asked, timedelta) or not EXPIRES_IN_MIN <= asked <= EXPIRES_IN_MAX:
        raise InvalidUse(f"expires_in is a timedelta from 1 second to 24 hours, not {expires_in!r}")
    return -(-asked // timedelta(seconds=1))


def _checked(field: str, value: str) -> str:
    try:
        return check_name(field, value)
    except ValueError as error:
        raise InvalidUse(str(error)) from None
