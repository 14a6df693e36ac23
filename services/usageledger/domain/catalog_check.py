"""The defects that make a catalog unusable. ``catalog_lint`` finds those that do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import NoReturn, get_args

from usageledger.domain.catalog import Catalog, Feature, Model, Plan, Rate, Rounding
from usageledger.domain.credits import MICROCREDITS_MAX
from usageledger.domain.quantity import check_name, parse_quantity
from usageledger.domain.thresholds import threshold_defects

PRICE_CENTS_MAX = 2**53 - 1


class UnusableCatalog(ValueError):
    """A catalog by which nothing can be decided.

    ``defects`` are sentences, each of which begins with its path in the document.
    """

    def __init__(self, defects: Sequence[str]) -> None:
        super().__init__("the catalog cannot be used: " + "; ".join(defects))
        self.defects = tuple(defects)


def check_catalog(catalog: Catalog) -> None:
    """Raise UnusableCatalog with every defect found."""
    defects = list(_defects(catalog))
    if defects:
        refuse(defects)


def refuse(defects: Sequence[str]) -> NoReturn:
    """Raise UnusableCatalog."""
    raise UnusableCatalog(defects)


def _defects(catalog: Catalog) -> Iterator[str]:
    yield from _name_defects("version", catalog.version)
    if catalog.effective_from.utcoffset() != timedelta(0):
        yield "effective_from: is not in UTC"
    yield from _repetition_defects("plans", catalog.plans)
    for plan in catalog.plans:
        yield from _plan_defects(f"plans.{plan.id}", plan)
    free = [plan.id for plan in catalog.plans if not plan.renews]
    if len(free) != 1:
        found = ", ".join(free) or "none"
        yield (
            "plans: exactly one plan does not renew, the free one that every account begins with; "
            f"found {found}"
        )
    yield from _repetition_defects("features", catalog.features)
    for feature in catalog.features:
        yield from _feature_defects(f"features.{feature.id}", feature)
    yield from _threshold_defects("thresholds", catalog.thresholds)


def _plan_defects(where: str, plan: Plan) -> Iterator[str]:
    yield from _name_defects(f"{where}.id", plan.id)
    yield from _name_defects(f"{where}.name", plan.name)
    yield from _range_defects(f"{where}.price_cents", plan.price_cents, PRICE_CENTS_MAX)
    yield from _range_defects(f"{where}.credits", plan.allotment, MICROCREDITS_MAX)
    if not plan.renews and plan.price_cents != 0:
        yield (
            f"{where}: a plan that does not renew costs nothing, there is no rule for one that is "
            "paid once"
        )
    yield from _threshold_defects(f"{where}.thresholds", plan.thresholds or ())


def _feature_defects(where: str, feature: Feature) -> Iterator[str]:
    yield from _name_defects(f"{where}.id", feature.id)
    yield from _name_defects(f"{where}.name", feature.name)
    if feature.rate is not None:
        yield from _rate_defects(f"{where}.rate", feature.rate)
    if feature.stated_range is not None:
        lowest, highest = feature.stated_range
        yield from _range_defects(f"{where}.stated_range", lowest, MICROCREDITS_MAX)
        yield from _range_defects(f"{where}.stated_range", highest, MICROCREDITS_MAX)
        if lowest > highest:
            yield f"{where}.stated_range: begins above its end"
    yield from _repetition_defects(f"{where}.models", feature.models)
    for model in feature.models:
        yield from _name_defects(f"{where}.models.{model.id}.id", model.id)
        yield from _name_defects(f"{where}.models.{model.id}.name", model.name)
        yield from _rate_defects(f"{where}.models.{model.id}.rate", model.rate)


def _rate_defects(where: str, rate: Rate) -> Iterator[str]:
    yield from _range_defects(f"{where}.credits", rate.credits, MICROCREDITS_MAX)
    yield from _name_defects(f"{where}.unit", rate.unit)
    if rate.rounding not in get_args(Rounding):
        yield f"{where}.rounding: is 'up' or 'exact', not {rate.rounding!r}"
    if rate.per <= 0:
        yield f"{where}.per: is more than 0, not {rate.per}"
    else:
        yield from _quantity_defects(f"{where}.per", rate.per)


def _threshold_defects(where: str, thresholds: Sequence[Decimal]) -> Iterator[str]:
    return (f"{where}: {defect}" for defect in threshold_defects(thresholds))


def _repetition_defects(where: str, items: Iterable[Plan | Feature | Model]) -> Iterator[str]:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            yield f"{where}: the id {item.id!r} is there twice"
        seen.add(item.id)


def _name_defects(where: str, name: str) -> Iterator[str]:
    try:
        check_name("it", name)
    except ValueError as error:
        yield f"{where}: {error}"


def _quantity_defects(where: str, value: Decimal) -> Iterator[str]:
    """Check that it has six decimal places at most: a quantity divided by it then stays exact."""
    try:
        parse_quantity(value)
    except ValueError as error:
        yield f"{where}: {error}"


def _range_defects(where: str, amount: int, highest: int) -> Iterator[str]:
    if amount < 0:
        yield f"{where}: is negative"
    elif amount > highest:
        yield f"{where}: is beyond what the ledger counts (2**53 micro-credits)"
