"""Thresholds: shares of a period's credits whose crossing is announced.

Needs the standard library alone: the SDKs use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import pairwise

from usageledger.domain.bounds import THRESHOLDS_MAX
from usageledger.domain.quantity import format_quantity, parse_quantity


def parse_thresholds(written: Sequence[object]) -> tuple[Decimal, ...]:
    """Read an account's own thresholds: decimal strings (or Decimals) between 0 and 1, ascending.

    ``"0.8"`` and ``"0.80"`` are the same share. Raises ValueError that names every defect.
    """
    if len(written) > THRESHOLDS_MAX:
        raise ValueError(
            f"thresholds: an account has at most {THRESHOLDS_MAX} of its own, not {len(written)}"
        )
    shares = tuple(_share(share) for share in written)
    defects = list(threshold_defects(shares))
    if defects:
        raise ValueError("; ".join(f"thresholds: {defect}" for defect in defects))
    return shares


def threshold_defects(shares: Sequence[Decimal]) -> Iterator[str]:
    """Yield everything that is wrong with thresholds, whoever sets them.

    Shares have six places at most, like quantities, so that their product with credits is exact.
    """
    for share in shares:
        if not 0 < share < 1:
            yield (
                f"a share lies between 0 and 1, unlike {share} (the limit itself is always "
                "announced)"
            )
            continue
        try:
            parse_quantity(share)
        except ValueError as error:
            yield str(error)
    if any(higher <= lower for lower, higher in pairwise(shares)):
        yield f"ascend without repeating, unlike {', '.join(map(str, shares))}"


def _share(written: object) -> Decimal:
    if not isinstance(written, (str, Decimal)):
        raise ValueError(
            f"thresholds: a share is a decimal string such as '0.8', not {type(written).__name__}"
        )
    try:
        return Decimal(format_quantity(parse_quantity(written)))
    except ValueError:
        raise ValueError(
            "thresholds: a share is a decimal with at most 6 places, such as '0.8', unlike "
            f"{str(written)[:40]!r}"
        ) from None
