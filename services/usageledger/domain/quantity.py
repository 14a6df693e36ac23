"""The quantities and names that events may have.

Needs the standard library alone: the SDKs use it.
"""

from __future__ import annotations

import re
from decimal import Decimal

from usageledger.domain.bounds import NAME_LENGTH_MAX, QUANTITY_MAX

_QUANTITY = re.compile(r"[0-9]{1,10}(\.[0-9]{1,6})?", re.ASCII)
# No control characters, no spaces at the ends: names are printed in logs and on pages, and compared
# byte by byte.
_NAME = re.compile(r"[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?")


def parse_quantity(value: object) -> Decimal:
    """Read a quantity: a decimal of at least 0 with at most 6 places, and never a float.

    It can be a string, an integer or a Decimal; ``"1"``, ``"1.0"`` and ``1`` are equal quantities.
    Raises ValueError that says what is wrong with it.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        raise ValueError(
            f"quantity is a decimal string or an integer, not {type(value).__name__} ({value!r})"
        )
    text = (
        value
        if isinstance(value, str)
        else "huge"
        if _is_huge(value)
        else format(value, "f" if isinstance(value, Decimal) else "d")
    )
    if not _QUANTITY.fullmatch(text):
        raise ValueError(
            f"quantity is a decimal from 0 to {QUANTITY_MAX} with at most 6 places, not "
            f"{_short_repr(value)}"
        )
    quantity = Decimal(text)
    if quantity > QUANTITY_MAX:
        raise ValueError(f"quantity is at most {QUANTITY_MAX}, not {_short_repr(value)}")
    return quantity


def format_quantity(quantity: Decimal) -> str:
    """Write a quantity in its one canonical form: no exponent, no trailing zeros."""
    text = format(quantity, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def check_name(field: str, value: object) -> str:
    """Return ``value`` if it can name an account, a source, an event, a feature or a model.

    Raises ValueError that names the field otherwise.
    """
    if not isinstance(value, str):
        raise ValueError(f"{field} is a string, not {type(value).__name__}")
    if value.isprintable() and 1 <= len(value) <= NAME_LENGTH_MAX and value[0] != " " != value[-1]:
        return value  # nearly every name: the rules below refuse no other printable text
    if not 1 <= len(value) <= NAME_LENGTH_MAX:
        raise ValueError(f"{field} has 1 to {NAME_LENGTH_MAX} characters, not {len(value)}")
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"{field} has no control characters and no spaces at its ends, unlike {value!r}"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{field} is not valid Unicode: {value!r}") from None
    return value


def _is_huge(value: object) -> bool:
    return isinstance(value, int) and abs(value) > 10**20


def _short_repr(value: object) -> str:
    text = "a number of over 20 digits" if _is_huge(value) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
