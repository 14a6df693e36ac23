"""A catalog: plans, and what each use costs. It is immutable and has a version.

Which version rates a use depends on those adopted so far: see ``domain.adopted_catalogs``. Credits
are micro-credits, prices are cents. ``domain.catalog_document`` has the form that people edit and
that is on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from types import MappingProxyType
from typing import Literal

import msgspec

Rounding = Literal["up", "exact"]


# No omit_defaults in this module: msgspec compares defaults by identity, so equal rates could be
# written as different bytes.
class Rate(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The cost of a use: ``credits`` micro-credits for each ``per`` units."""

    credits: int
    unit: str
    per: Decimal = Decimal(1)
    rounding: Rounding = "up"
    """``up`` charges whole multiples of ``per``, rounded up.

    ``exact`` charges in proportion, rounded up to the micro-credit.
    """
    note: str | None = None


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model under its feature, with a rate of its own."""

    id: str
    name: str
    rate: Rate


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the rate card.

    ``rate`` is for uses that name no model. If it is None, such uses are refused.
    """

    id: str
    name: str
    section: str
    rate: Rate | None = None
    stated_range: tuple[int, int] | None = None
    """The lowest and highest rate that the published line states, in micro-credits.

    It decides no charge. ``lint`` compares the models' rates with it.
    """
    models: tuple[Model, ...] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that accounts can be on.

    ``allotment`` is in micro-credits: for each billing cycle, or once in an account's life if the
    plan does not renew.
    """

    id: str
    name: str
    price_cents: int
    allotment: int
    renews: bool
    thresholds: tuple[Decimal, ...] | None = None
    """The plan's own thresholds, or None for the catalog's. An empty tuple announces none."""


class UnknownRate(msgspec.Struct, frozen=True):
    """Why a use is refused: it has no rate."""

    reason: Literal["unknown_feature", "unknown_model"]


# dict=True gives an instance the __dict__ in which cached_property keeps the look-up tables.
class Catalog(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One version of plans and rates. Catalogs are equal by value; look-ups take constant time.

    A catalog built by hand has to pass ``check_catalog`` before it is used.
    """

    version: str
    effective_from: datetime
    plans: tuple[Plan, ...]
    """In the order of plan levels, lowest first."""
    features: tuple[Feature, ...]
    thresholds: tuple[Decimal, ...] = ()
    """Default thresholds, as shares of a period's credits, for plans and accounts that set none.

    They ascend, and each is between 0 and 1.
    """
    unknown_accounts: Literal["free", "refuse"] = "free"
    """What becomes of usage by an account that was never opened or subscribed.

    ``free`` puts the account on Free from its first event; ``refuse`` refuses the usage.
    """
    notes: tuple[str, ...] = ()
    """The rules that are published beside the tables, and where each is implemented."""

    def __hash__(self) -> int:
        """Hash the version alone: equal catalogs have equal versions, and this is fast."""
        return hash(self.version)

    @cached_property
    def free(self) -> Plan:
        """The plan of an account that subscribes to none: it costs nothing and does not renew.

        Raises ValueError if this catalog has no such plan.
        """
        for plan in self.plans:
            if not plan.renews and plan.price_cents == 0:
                return plan
        raise ValueError(
            f"catalog {self.version!r} has no plan that costs nothing and does not renew"
        )

    def plan(self, plan_id: str) -> Plan | None:
        """The plan with this id, or None."""
        level = self._levels.get(plan_id)
        return None if level is None else self.plans[level]

    def level(self, plan_id: str) -> int:
        """The plan's level. The lowest is 0.

        Raises KeyError for a plan that this catalog does not have.
        """
        return self._levels[plan_id]

    def plans_above(self, plan_id: str) -> tuple[Plan, ...]:
        """The plans of a higher level, lowest first.

        There are none above a plan that this catalog does not have: that plan has lost its level.
        """
        level = self._levels.get(plan_id)
        return () if level is None else self.plans[level + 1 :]

    def next_plan(self, plan_id: str) -> Plan | None:
        """The plan one level up, or None.

        There is none above the highest plan, nor above one that this catalog does not have.
        """
        return next(iter(self.plans_above(plan_id)), None)

    def thresholds_on(self, plan_id: str) -> tuple[Decimal, ...]:
        """The thresholds of accounts on that plan.

        They are the plan's own, or the catalog's if the plan sets none or is not in this catalog.
        """
        plan = self.plan(plan_id)
        return self.thresholds if plan is None or plan.thresholds is None else plan.thresholds

    def feature(self, feature_id: str) -> Feature | None:
        """The feature with this id, or None."""
        return self._features.get(feature_id)

    def rate(self, feature_id: str, model_id: str | None) -> Rate | UnknownRate:
        """The rate of a use. Without a model it is the feature's default rate, if it has one."""
        rate = self.rates.get((feature_id, model_id))
        if rate is not None:
            return rate
        return UnknownRate("unknown_model" if feature_id in self._features else "unknown_feature")

    @cached_property
    def rates(self) -> Mapping[tuple[str, str | None], Rate]:
        """Every rate by feature and model; under None is the feature's default."""
        rates: dict[tuple[str, str | None], Rate] = {}
        for feature in self.features:
            if feature.rate is not None:
                rates[feature.id, None] = feature.rate
            rates.update({(feature.id, model.id): model.rate for model in feature.models})
        return MappingProxyType(rates)

    @cached_property
    def _levels(self) -> dict[str, int]:
        return {plan.id: level for level, plan in enumerate(self.plans)}

    @cached_property
    def _features(self) -> dict[str, Feature]:
        return {feature.id: feature for feature in self.features}
