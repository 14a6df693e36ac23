"""The oddities of a catalog: parts that do not fit together, though it can be used.

The lint refuses nothing: the published table has some findings itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import msgspec

from usageledger.domain.catalog import Catalog, Feature, Rate
from usageledger.domain.credits import format_credits


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something worth a look: the lint's rule, the path in the catalog, and a sentence why."""

    code: str
    where: str
    message: str


def lint(catalog: Catalog) -> list[Finding]:
    """All findings, plans first, in the catalog's own order."""
    return [
        *_plan_findings(catalog),
        *(finding for feature in catalog.features for finding in _feature_findings(feature)),
    ]


def _plan_findings(catalog: Catalog) -> Iterator[Finding]:
    for lower, higher in pairwise(catalog.plans):
        where = f"plans.{higher.id}"
        if higher.price_cents < lower.price_cents:
            yield _finding(
                "price_below_lower_plan",
                where,
                f"{higher.name} costs less than {lower.name}, the level below it",
            )
        if higher.allotment < lower.allotment:
            yield _finding(
                "allotment_below_lower_plan",
                where,
                f"{higher.name} brings fewer credits than {lower.name}, the level below it",
            )
        elif higher.allotment == lower.allotment:
            yield _finding(
                "allotment_as_lower_plan",
                where,
                f"{higher.name} brings as many credits as {lower.name}, the level below it",
            )
    for plan in catalog.plans:
        if plan.thresholds == ():
            yield _finding(
                "no_thresholds",
                f"plans.{plan.id}.thresholds",
                f"{plan.name} announces nothing before the limit itself",
            )
        if catalog.next_plan(plan.id) is None:
            yield _finding(
                "no_next_plan",
                f"plans.{plan.id}",
                f"{plan.name} is the highest level: there is no upgrade to offer",
            )


def _feature_findings(feature: Feature) -> Iterator[Finding]:
    where = f"features.{feature.id}"
    if feature.rate is None and not feature.models:
        yield _finding(
            "feature_without_rate",
            where,
            f"{feature.name} has neither a rate nor models: every use of it is refused",
        )
    if feature.rate is None and feature.models and feature.stated_range is None:
        yield _finding(
            "models_without_line",
            where,
            f"{feature.name} has models, but no line of its own states what it costs",
        )
    for path, name, rate in _rates(feature):
        if rate.credits == 0:
            yield _finding("zero_rate", f"{where}{path}", f"{name} costs nothing")
    if feature.stated_range is not None:
        yield from _range_findings(feature, feature.stated_range)


def _range_findings(feature: Feature, stated_range: tuple[int, int]) -> Iterator[Finding]:
    lowest, highest = stated_range
    stated = (
        f"the {format_credits(lowest)} to {format_credits(highest)} credits that {feature.name} "
        "states"
    )
    for path, name, rate in _rates(feature):
        if not lowest <= rate.credits <= highest:
            message = f"{name} costs {format_credits(rate.credits)} credits, outside {stated}"
            yield _finding("model_outside_stated_range", f"features.{feature.id}{path}", message)
    reached = {rate.credits for _, _, rate in _rates(feature)}
    for bound in sorted({lowest, highest} - reached):
        message = f"nothing costs {format_credits(bound)} credits, a bound of {stated}"
        yield _finding("stated_bound_not_reached", f"features.{feature.id}.stated_range", message)


def _rates(feature: Feature) -> Iterator[tuple[str, str, Rate]]:
    """Each rate of a feature: its path below the feature, what has the rate, and the rate."""
    if feature.rate is not None:
        yield ".rate", feature.name, feature.rate
    for model in feature.models:
        yield f".models.{model.id}", model.name, model.rate


def _finding(code: str, where: str, message: str) -> Finding:
    return Finding(code=code, where=where, message=message)
