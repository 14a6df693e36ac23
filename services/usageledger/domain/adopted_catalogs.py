"""The catalogs that a ledger partition has adopted, and which of them rates a use."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from datetime import datetime
from functools import cached_property

import msgspec

from usageledger.domain.catalog import Catalog, Rate, UnknownRate


class RatedBy(msgspec.Struct, frozen=True):
    """A use's rate, and the catalog version that has it."""

    catalog: Catalog
    rate: Rate


# dict=True gives an instance the __dict__ in which cached_property keeps the look-up tables.
class AdoptedCatalogs(msgspec.Struct, frozen=True, dict=True):
    """The catalogs that a ledger partition has adopted, in the order of adoption.

    Decisions see these and no others.
    """

    catalogs: tuple[Catalog, ...] = ()

    def __post_init__(self) -> None:
        versions = [catalog.version for catalog in self.catalogs]
        if len(set(versions)) != len(versions):
            raise ValueError(f"a catalog version is adopted once, unlike in {', '.join(versions)}")

    def __len__(self) -> int:
        return len(self.catalogs)

    def __iter__(self) -> Iterator[Catalog]:
        return iter(self.catalogs)

    def version(self, version: str) -> Catalog | None:
        """The adopted catalog of that version, or None."""
        return self._versions.get(version)

    def adopt(self, catalog: Catalog) -> AdoptedCatalogs:
        """These catalogs and ``catalog``; the same ones if it is adopted already.

        Raises ValueError if its version is adopted with other content.
        """
        known = self.version(catalog.version)
        if known is None:
            return AdoptedCatalogs((*self.catalogs, catalog))
        if known != catalog:
            raise ValueError(
                f"catalog version {catalog.version!r} is adopted already, with other content: a "
                "version never changes, so publish another one"
            )
        return self

    def in_force(self, at: datetime) -> Catalog:
        """The version with the greatest ``effective_from <= at``; before all of them, the earliest.

        On a tie it is the one adopted later. Raises ValueError if none is adopted.
        """
        return self._by_effect[self._index_in_force(at)]

    def rate_for(self, feature: str, model: str | None, at: datetime) -> RatedBy | UnknownRate:
        """The rate of a use by the version in force at ``at``.

        If that version does not have it, the first version adopted later that does gives the rate.
        An event that was refused for an unknown model can therefore be sent again. Raises
        ValueError if none is adopted.
        """
        index = self._index_in_force(at)
        rated = self._rates[index].get((feature, model))
        if rated is not None:
            return rated
        is_known = any(catalog.feature(feature) for catalog in self._from(index))
        return UnknownRate("unknown_model" if is_known else "unknown_feature")

    def _index_in_force(self, at: datetime) -> int:
        """The index in ``_by_effect`` of the version in force at ``at``."""
        if not self.catalogs:
            raise ValueError("no catalog has been adopted, so nothing can be rated")
        effects = self._effects
        return bisect_right(effects, max(at, effects[0])) - 1

    @cached_property
    def _rates(self) -> list[dict[tuple[str, str | None], RatedBy]]:
        """For each index in ``_by_effect``, every rate that applies while that version is in force.

        This is on the hot path, so it is made once.
        """
        tables: list[dict[tuple[str, str | None], RatedBy]] = []
        for index in range(len(self._by_effect)):
            rates: dict[tuple[str, str | None], RatedBy] = {}
            for catalog in reversed(self._from(index)):
                rates |= {key: RatedBy(catalog, rate) for key, rate in catalog.rates.items()}
            tables.append(rates)
        return tables

    def _from(self, index: int) -> tuple[Catalog, ...]:
        """The version at that index of ``_by_effect``, and those adopted after it."""
        return self.catalogs[self.catalogs.index(self._by_effect[index]) :]

    @cached_property
    def _by_effect(self) -> list[Catalog]:
        return sorted(self.catalogs, key=lambda catalog: catalog.effective_from)

    @cached_property
    def _effects(self) -> list[datetime]:
        return [catalog.effective_from for catalog in self._by_effect]

    @cached_property
    def _versions(self) -> dict[str, Catalog]:
        return {catalog.version: catalog for catalog in self.catalogs}
