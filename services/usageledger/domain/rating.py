"""Rating: turning a use into micro-credits."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, Context, Decimal

import msgspec

from usageledger.domain.catalog import Catalog, Plan, Rate, UnknownRate
from usageledger.domain.credits import round_up

# A product has at most 16 + 16 digits (amounts below 2**53, quantities of at most 10 + 6), so it is
# exact; a quotient that is a whole number is exact as well, and any other lies strictly between two
# of them after rounding up at the 60th digit. Our own context, because a caller may have changed
# the thread's.
_EXACT = Context(prec=60, rounding=ROUND_CEILING)
_ONE = Decimal(1)


def rate_usage(rate: Rate, quantity: Decimal) -> int:
    """The micro-credits that ``quantity`` units cost. Every rounding is up, in the seller's favour.

    ``up`` (what "per second" and "per user message" in the published table mean): each multiple of
    ``per`` that was begun is charged whole, so 2.1 seconds at 8 credits a second are 24 credits.
    ``exact``: in proportion, rounded up once, to the micro-credit. No use costs less than nothing
    and a quantity of 0 costs 0. The result can exceed MICROCREDITS_MAX: who writes it down checks
    that.
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
    """What some uses cost together, in micro-credits, and the plans whose allotment covers that,
    lowest level first.
    """

    lines: tuple[QuoteLine, ...]
    total: int
    fits: tuple[Plan, ...]
    """Those that do not renew among them cover it once, the others in each billing cycle."""

    @property
    def lowest(self) -> Plan | None:
        """The lowest plan that covers it; None where no plan does."""
        return self.fits[0] if self.fits else None


def quote(catalog: Catalog, uses: Sequence[tuple[str, str | None, Decimal]]) -> Quote:
    """What these uses (feature, model, quantity) would cost, and on which plans they fit.

    Raises ValueError naming an unknown one.
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
        raise ValueError(
            f"{rate.reason}: catalog {catalog.version!r} has no rate for {_named(feature, model)}"
        )
    return QuoteLine(
        feature=feature,
        model=model,
        quantity=quantity,
        rate=rate,
        credits=rate_usage(rate, quantity),
    )


def _named(feature: str, model: str | None) -> str:
    return (
        f"feature {feature!r} with no model named"
        if model is None
        else f"model {model!r} of feature {feature!r}"
    )
