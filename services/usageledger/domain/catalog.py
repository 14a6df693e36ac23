"""A catalog: plans, and what each use costs.

Immutable and versioned; which version rates a use is decided by those adopted so far.

Credits are micro-credits, prices cents. A catalog is written for people and on the wire as
``domain.catalog_document`` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Literal

import msgspec

Rounding = Literal["up", "exact"]


# No omit_defaults in this module: msgspec compares defaults by identity, so equal rates could be
# written as different bytes.
class Rate(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a use costs: ``credits`` micro-credits for each ``per`` units."""

    credits: int
    unit: str
    per: Decimal = Decimal(1)
    rounding: Rounding = "up"
    """``up``: whole multiples of ``per`` are charged, rounded up.

    ``exact``: in proportion, rounded up to the micro-credit.
    """
    note: str | None = None

    @property
    def a_unit(self) -> str:
        """One unit, in words: ``a second``, ``an edit``."""
        return (
            f"{'an' if self.unit[:1].lower() in 'aeio' or self.unit.lower() == 'hour' else 'a'} "
            f"{self.unit}"
        )


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model under its feature, with a rate of its own."""

    id: str
    name: str
    rate: Rate


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the rate card.

    ``rate`` is for uses that name no model; where it is None, they are refused.
    """

    id: str
    name: str
    section: str
    rate: Rate | None = None
    stated_range: tuple[int, int] | None = None
    """Lowest and highest rate that the line announces, in micro-credits.

    It charges nothing: ``lint`` compares the models with it.
    """
    models: tuple[Model, ...] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What an account subscribes to.

    ``allotment``: micro-credits a billing cycle, or once in an account's life if it does not renew.
    """

    id: str
    name: str
    price_cents: int
    allotment: int
    renews: bool
    thresholds: tuple[Decimal, ...] | None = None
    """Its own, where it is not to have the catalog's; an empty tuple announces none."""


class UnknownRate(msgspec.Struct, frozen=True):
    """No rate is known for this use: why it is refused."""

    reason: Literal["unknown_feature", "unknown_model"]


class Catalog(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One version of plans and rates.

    Equal by value; look-ups take constant time. One made by hand wants ``check_catalog``.
    """

    version: str
    effective_from: datetime
    plans: tuple[Plan, ...]
    """In the order of plan levels, lowest first."""
    features: tuple[Feature, ...]
    thresholds: tuple[Decimal, ...] = ()
    """Shares of what a period has whose crossing is announced, where its plan or account has none
    of its own: ascending, each between 0 and 1.
    """
    unknown_accounts: Literal["free", "refuse"] = "free"
    """What becomes of usage of an account never opened or subscribed: it is on Free from its first
    event, or the usage is refused.
    """
    notes: tuple[str, ...] = ()
    """The rules that are published beside the tables, and where each is implemented."""

    def __hash__(self) -> int:
        """Hash the version alone: equal catalogs have equal versions, and hashing every rate would
        cost a look-up its point.
        """
        return hash(self.version)

    @cached_property
    def free(self) -> Plan:
        """The plan of an account that subscribes to none: it costs nothing and does not renew.

        Raises ValueError without one.
        """
        for plan in self.plans:
            if not plan.renews and plan.price_cents == 0:
                return plan
        raise ValueError(
            f"catalog {self.version!r} has no plan that costs nothing and does not renew"
        )

    def plan(self, plan_id: str) -> Plan | None:
        """The plan with this id."""
        level = self._levels.get(plan_id)
        return None if level is None else self.plans[level]

    def level(self, plan_id: str) -> int:
        """The plan's level, 0 the lowest.

        Raises KeyError for a plan that this catalog does not have.
        """
        return self._levels[plan_id]

    def plans_above(self, plan_id: str) -> tuple[Plan, ...]:
        """The plans of a higher level, lowest first.

        None are above a plan that this catalog does not have: it has lost its level.
        """
        level = self._levels.get(plan_id)
        return () if level is None else self.plans[level + 1 :]

    def next_plan(self, plan_id: str) -> Plan | None:
        """The plan one level up; None above the highest, and above a plan that this catalog does
        not have.
        """
        return next(iter(self.plans_above(plan_id)), None)

    def thresholds_on(self, plan_id: str) -> tuple[Decimal, ...]:
        """The thresholds of accounts on that plan: the plan's own, otherwise, and for a plan that
        is not here, the catalog's.
        """
        plan = self.plan(plan_id)
        return self.thresholds if plan is None or plan.thresholds is None else plan.thresholds

    def feature(self, feature_id: str) -> Feature | None:
        """The feature with this id."""
        return self._features.get(feature_id)

    def rate(self, feature_id: str, model_id: str | None) -> Rate | UnknownRate:
        """The rate of a use.

        With no model named it is the feature's default rate, if it has one.
        """
        rate = self.rates.get((feature_id, model_id))
        if rate is not None:
            return rate
        return UnknownRate("unknown_model" if feature_id in self._features else "unknown_feature")

    @cached_property
    def rates(self) -> Mapping[tuple[str, str | None], Rate]:
        """Every rate by feature and model (None: the feature's default)."""
        rates: dict[tuple[str, str | None], Rate] = {}
        for feature in self.features:
            if feature.rate is not None:
                rates[feature.id, None] = feature.rate
            rates.update({(feature.id, model.id): model.rate for model in feature.models})
        return rates

    @cached_property
    def _levels(self) -> dict[str, int]:
        return {plan.id: level for level, plan in enumerate(self.plans)}

    @cached_property
    def _features(self) -> dict[str, Feature]:
        return {feature.id: feature for feature in self.features}
