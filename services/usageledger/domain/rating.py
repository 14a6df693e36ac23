"""Rating: turning a use into micro-credits."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, Context, Decimal

import msgspec

from usageledger.domain.catalog import Catalog, Plan, Rate, UnknownRate
from usageledger.domain.credits import round_up

# A product has at most 16 + 16 digits (amounts below 2**53, quantities of at most 10 + 6), so it is
# exact. A quotient that is a whole number is exact too. Any other quotient, rounded up at the 60th
# digit, is still strictly between two whole numbers. The context is our own, because a caller may
# have changed the thread's.
_EXACT = Context(prec=60, rounding=ROUND_CEILING)
_ONE = Decimal(1)


def rate_usage(rate: Rate, quantity: Decimal) -> int:
    """The micro-credits that ``quantity`` units cost. Every rounding is up, in the seller's favour.

    ``up`` charges each multiple of ``per`` that was begun as a whole: 2.1 seconds at 8 credits a
    second are 24 credits. This is the meaning of "per second" and "per user message" in the
    published table. ``exact`` charges in proportion, rounded up once, to the micro-credit. A
    quantity of 0 costs 0. The result can exceed MICROCREDITS_MAX; the caller checks that.
    """
    if rate.rounding == "up":
        multiples = quantity if rate.per == _ONE else _EXACT.divide(quantity, rate.per)
        return rate.credits * round_up(multiples)
    return round_up(_EXACT.divide(_EXACT.multiply(Decimal(rate.credits), quantity), rate.per))


class QuoteLine(msgspec.Struct, frozen=True, kw_only=True):
    """One use and what it costs, in micro-credits."""

    feature: str
    model: str | None
    quantity: Decimal
    rate: Rate
    credits: int


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of some uses together, in micro-credits, and the plans whose allotment covers it."""

    lines: tuple[QuoteLine, ...]
    total: int
    fits: tuple[Plan, ...]
    """The plans, lowest level first. One that does not renew covers the total only once."""

    @property
    def lowest(self) -> Plan | None:
        """The lowest plan that covers the total, or None if no plan does."""
        return self.fits[0] if self.fits else None


def quote(catalog: Catalog, uses: Sequence[tuple[str, str | None, Decimal]]) -> Quote:
    """Rate uses, each a (feature, model, quantity), and find the plans that they fit on.

    Raises ValueError that names a feature or model without a rate.
    """
    lines = tuple(_line(catalog, feature, model, quantity) for feature, model, quantity in uses)
    total = sum(line.credits for line in lines)
    return Quote(
        lines=lines,
        total=total,
        fits=tuple(plan for plan in catalog.plans if plan.allotment >= total),
    )


def _line(catalog: Catalog, feature: str, model: str | None, quantity: Decimal) -> QuoteLine:
    rate = catalog.rate(feature, model)
    if isinstance(rate, UnknownRate):
        use = _use_name(feature, model)
        raise ValueError(f"{rate.reason}: catalog {catalog.version!r} has no rate for {use}")
    return QuoteLine(
        feature=feature,
        model=model,
        quantity=quantity,
        rate=rate,
        credits=rate_usage(rate, quantity),
    )


def _use_name(feature: str, model: str | None) -> str:
    return (
        f"feature {feature!r} with no model named"
        if model is None
        else f"model {model!r} of feature {feature!r}"
    )
