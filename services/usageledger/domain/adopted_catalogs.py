"""The catalogs that a ledger partition has adopted, and which of them rates a use."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from datetime import datetime
from functools import cached_property

import msgspec

from usageledger.domain.catalog import Catalog, Rate, UnknownRate


class RatedBy(msgspec.Struct, frozen=True):
    """A use's rate, and the catalog version that says so."""

    catalog: Catalog
    rate: Rate


class AdoptedCatalogs(msgspec.Struct, frozen=True, dict=True):
    """The catalogs that a ledger partition has adopted, in that order.

    Decisions see these and no others.
    """

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
        """These and ``catalog``.

        One that is adopted already changes nothing; ValueError where its version has other content.
        """
        known = self.version(catalog.version)
        if known is None:
            return AdoptedCatalogs((*self.catalogs, catalog))
        if known != catalog:
            raise ValueError(
                f"catalog version {catalog.version!r} is adopted already, with other content: a "
                "version never changes"
            )
        return self

    def in_force(self, at: datetime) -> Catalog:
        """The version with the greatest ``effective_from <= at``, the later adopted on a tie;
        before all of them, the earliest.

        Raises ValueError when none is adopted.
        """
        return self._by_effect[self._place_in_force(at)]

    def rate_for(self, feature: str, model: str | None, at: datetime) -> RatedBy | UnknownRate:
        """The rate of a use by the version in force at ``at``; where that one does not know it, by
        the first later one that does.

        Later is by adoption: that is how an event refused for an unknown model, sent again, gets
        its rate. Raises ValueError when none is adopted.
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
        """For each place in ``_by_effect``, every rate that a use finds when that version is in
        force: the hot path, so made once.
        """
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
