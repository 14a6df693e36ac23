"""Credits are integers of micro-credits: 1 credit = 1,000,000 micro-credits.

Apps and people read decimal strings of credits.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

MICROCREDITS_PER_CREDIT = 1_000_000
# JavaScript and Lua hold numbers as doubles. Within this bound, amounts are exact there too.
MICROCREDITS_MAX = 2**53 - 1

_CREDITS = re.compile(r"-?[0-9]{1,10}(\.[0-9]{1,6})?", re.ASCII)


def parse_credits(text: str | int) -> int:
    """Turn decimal credits (``"14"``, ``"0.5"``, ``14``) into micro-credits.

    Raises ValueError for a float, more than 6 decimal places, or more than 2**53 - 1 micro-credits.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise ValueError(
            f"credits are a decimal string or an integer, not {type(text).__name__}: {text!r}"
        )
    if not _CREDITS.fullmatch(str(text)):
        raise ValueError(
            f"credits are a decimal with at most 6 places, such as 14 or 0.5, not {text!r}"
        )
    amount = int(Decimal(text) * MICROCREDITS_PER_CREDIT)
    if abs(amount) > MICROCREDITS_MAX:
        raise ValueError(
            f"credits of {text} are beyond what the ledger counts (2**53 micro-credits)"
        )
    return amount


def format_credits(microcredits: int) -> str:
    """Write micro-credits as a decimal string of credits, without trailing zeros.

    14_000_000 is ``"14"``, and 500_000 is ``"0.5"``.
    """
    whole, fraction = divmod(abs(microcredits), MICROCREDITS_PER_CREDIT)
    sign = "-" if microcredits < 0 else ""
    return f"{sign}{whole}.{fraction:06d}".rstrip("0").rstrip(".")


def round_up(value: Decimal) -> int:
    """Round towards positive infinity to an integer.

    This is the ledger's only rounding. It is in the seller's favour, as the rate card states.
    """
    return int(value.to_integral_value(rounding=ROUND_CEILING))
