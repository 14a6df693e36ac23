"""A catalog: plans, and what each use costs. Immutable and versioned; which version rates a use is decided by those adopted so far.

Credits are micro-credits, prices cents. A catalog is written for people and on the wire as ``domain.catalog_document`` says.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from importlib import resources
from typing import Literal

import msgspec

Rounding = Literal["up", "exact"]


# No omit_defaults in this module: msgspec compares defaults by identity, so equal rates could be written as different bytes.
class Rate(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a use costs: ``credits`` micro-credits for each ``per`` units."""

    credits: int
    unit: str
    per: Decimal = Decimal(1)
    rounding: Rounding = "up"
    """``up``: whole multiples of ``per`` are charged, rounded up. ``exact``: in proportion, rounded up to the micro-credit."""
    note: str | None = None

    @property
    def a_unit(self) -> str:
        """One unit, in words: ``a second``, ``an edit``."""
        return f"{'an' if self.unit[:1].lower() in 'aeio' or self.unit.lower() == 'hour' else 'a'} {self.unit}"


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model under its feature, with a rate of its own."""

    id: str
    name: str
    rate: Rate


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the rate card. ``rate`` is for uses that name no model; where it is None, they are refused."""

    id: str
    name: str
    section: str
    rate: Rate | None = None
    stated_range: tuple[int, int] | None = None
    """Lowest and highest rate that the line announces, in micro-credits. It charges nothing: ``lint`` compares the models with it."""
    models: tuple[Model, ...] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What an account subscribes to. ``allotment``: micro-credits a billing cycle, or once in an account's life if it does not renew."""

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
    """One version of plans and rates. Equal by value; look-ups take constant time. Made by hand, it wants ``check()``."""

    version: str
    effective_from: datetime
    plans: tuple[Plan, ...]
    """In the order of plan levels, lowest first."""
    features: tuple[Feature, ...]
    thresholds: tuple[Decimal, ...] = ()
    """Shares of what a period has whose crossing is announced, where its plan or account has none of its own: ascending, each between
    0 and 1."""
    unknown_accounts: Literal["free", "refuse"] = "free"
    """What becomes of usage of an account never opened or subscribed: it is on Free from its first event, or the usage is refused."""
    notes: tuple[str, ...] = ()
    """The rules that are published beside the tables, and where each is implemented."""

    def __hash__(self) -> int:
        """Hash the version alone: equal catalogs have equal versions, and hashing every rate would cost a look-up its point."""
        return hash(self.version)

    @cached_property
    def free(self) -> Plan:
        """The plan of an account that subscribes to none: it costs nothing and does not renew. Raises ValueError without one."""
        for plan in self.plans:
            if not plan.renews and plan.price_cents == 0:
                return plan
        raise ValueError(f"catalog {self.version!r} has no plan that costs nothing and does not renew")

    def plan(self, plan_id: str) -> Plan | None:
        """The plan with this id."""
        level = self._levels.get(plan_id)
        return None if level is None else self.plans[level]

    def level(self, plan_id: str) -> int:
        """The plan's level, 0 the lowest. Raises KeyError for a plan that this catalog does not have."""
        return self._levels[plan_id]

    def plans_above(self, plan_id: str) -> tuple[Plan, ...]:
        """The plans of a higher level, lowest first. None are above a plan that this catalog does not have: it has lost its level."""
        level = self._levels.get(plan_id)
        return () if level is None else self.plans[level + 1 :]

    def next_plan(self, plan_id: str) -> Plan | None:
        """The plan one level up; None above the highest, and above a plan that this catalog does not have."""
        return next(iter(self.plans_above(plan_id)), None)

    def thresholds_on(self, plan_id: str) -> tuple[Decimal, ...]:
        """The thresholds of accounts on that plan: the plan's own, otherwise, and for a plan that is not here, the catalog's."""
        plan = self.plan(plan_id)
        return self.thresholds if plan is None or plan.thresholds is None else plan.thresholds

    def feature(self, feature_id: str) -> Feature | None:
        """The feature with this id."""
        return self._features.get(feature_id)

    def rate(self, feature_id: str, model_id: str | None) -> Rate | UnknownRate:
        """The rate of a use. With no model named it is the feature's default rate, if it has one."""
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

    def check(self) -> None:
        """Raise ``UnusableCatalog`` (a ValueError) naming every defect that makes this catalog unusable, and its place."""
        from usageledger.domain.catalog_check import check  # it judges the values above

        check(self)

    @cached_property
    def _levels(self) -> dict[str, int]:
        return {plan.id: level for level, plan in enumerate(self.plans)}

    @cached_property
    def _features(self) -> dict[str, Feature]:
        return {feature.id: feature for feature in self.features}


class RatedBy(msgspec.Struct, frozen=True):
    """A use's rate, and the catalog version that says so."""

    catalog: Catalog
    rate: Rate


class AdoptedCatalogs(msgspec.Struct, frozen=True, dict=True):
    """The catalogs that a ledger partition has adopted, in that order. Decisions see these and no others."""

    catalogs: tuple[Catalog, ...] = ()

    def __post_init__(self) -> None:
        versions = [catalog.version for catalog in self.catalogs]
        if len(set(versions)) != len(versions):
            raise ValueError(f"a catalog version is adopted once, not as in {', '.join(versions)}")

    def __len__(self) -> int:
        return len(self.catalogs)

    def __iter__(self) -> Iterator[Catalog]:
        return iter(self.catalogs)

    def version(self, version: str) -> Catalog | None:
        """The adopted catalog of that version."""
        return self._versions.get(version)

    def adopt(self, catalog: Catalog) -> AdoptedCatalogs:
        """These and ``catalog``. One that is adopted already changes nothing; ValueError where its version has other content."""
        known = self.version(catalog.version)
        if known is None:
            return AdoptedCatalogs((*self.catalogs, catalog))
        if known != catalog:
            raise ValueError(f"catalog version {catalog.version!r} is adopted already, with other content: a version never changes")
        return self

    def in_force(self, at: datetime) -> Catalog:
        """The version with the greatest ``effective_from <= at``, the later adopted on a tie; before all of them, the earliest.

        Raises ValueError when none is adopted.
        """
        return self._by_effect[self._place_in_force(at)]

    def rate_for(self, feature: str, model: str | None, at: datetime) -> RatedBy | UnknownRate:
        """The rate of a use by the version in force at ``at``; where that one does not know it, by the first later one that does.

        Later is by adoption: that is how an event refused for an unknown model, sent again, gets its rate.
        Raises ValueError when none is adopted.
        """
        place = self._place_in_force(at)
        rated = self._rates[place].get((feature, model))
        if rated is not None:
            return rated
        is_known = any(catalog.feature(feature) for catalog in self._from(place))
        return UnknownRate("unknown_model" if is_known else "unknown_feature")

    def _place_in_force(self, at: datetime) -> int:
        """Where in ``_by_effect`` the version in force at ``at`` is."""
        if not self.catalogs:
            raise ValueError("no catalog has been adopted, so nothing can be rated")
        effects = self._effects
        return bisect_right(effects, max(at, effects[0])) - 1

    @cached_property
    def _rates(self) -> list[dict[tuple[str, str | None], RatedBy]]:
        """For each place in ``_by_effect``, every rate that a use finds when that version is in force: the hot path, so made once."""
        found: list[dict[tuple[str, str | None], RatedBy]] = []
        for place in range(len(self._by_effect)):
            rates: dict[tuple[str, str | None], RatedBy] = {}
            for catalog in reversed(self._from(place)):
                rates |= {key: RatedBy(catalog, rate) for key, rate in catalog.rates.items()}
            found.append(rates)
        return found

    def _from(self, place: int) -> tuple[Catalog, ...]:
        """The version at that place of ``_by_effect``, and those adopted after it."""
        return self.catalogs[self.catalogs.index(self._by_effect[place]) :]

    @cached_property
    def _by_effect(self) -> list[Catalog]:
        return sorted(self.catalogs, key=lambda catalog: catalog.effective_from)

    @cached_property
    def _effects(self) -> list[datetime]:
        return [catalog.effective_from for catalog in self._by_effect]

    @cached_property
    def _versions(self) -> dict[str, Catalog]:
        return {catalog.version: catalog for catalog in self.catalogs}


def load_shipped_catalog() -> Catalog:
    """The catalog that comes with the package: the rate card published for Captions, as of November 2026."""
    from usageledger.domain.catalog_document import read_catalog  # it builds the values above

    return read_catalog(resources.files(__package__).joinpath("catalogs/captions_2026_11.json").read_bytes())
