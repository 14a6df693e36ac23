"""A catalog as people edit it and as ``catalog.published`` carries it: one JSON shape, credits in
decimal strings or whole numbers.

``catalogs/captions_2026_11.json`` is an example of all of it. Unknown keys are refused: a misspelt
``rounding`` would charge wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from importlib import resources
from typing import Annotated, Literal, TypeVar

import msgspec

from usageledger.domain.catalog import Catalog, Feature, Model, Plan, Rate
from usageledger.domain.catalog_check import check_catalog, refuse
from usageledger.domain.credits import format_credits, parse_credits
from usageledger.domain.quantity import format_quantity, parse_quantity

Amount = str | int
"""Decimal credits or a decimal quantity; never a JSON number with a point, which readers hold as a
double.
"""

_Read = TypeVar("_Read")


class RateDocument(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """``credits`` for each ``per`` units."""

    credits: Amount
    unit: str
    per: Amount = 1
    rounding: Literal["up", "exact"] = "up"
    note: str | None = None


class ModelDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model of a feature."""

    id: str
    name: str
    rate: RateDocument


class FeatureDocument(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A line of the rate card."""

    id: str
    name: str
    section: str
    rate: RateDocument | None = None
    stated_range: tuple[Amount, Amount] | None = None
    models: tuple[ModelDocument, ...] = ()


# omit_defaults: a catalog whose plans have no thresholds of their own is written as it was before
# there were any.
class PlanDocument(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A plan; ``credits`` is its allotment."""

    id: str
    name: str
    price_cents: int
    credits: Amount
    renews: bool
    thresholds: tuple[str, ...] | None = None


class CatalogDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of it. Shares in ``thresholds`` are decimal strings."""

    version: str
    effective_from: Annotated[datetime, msgspec.Meta(tz=True)]
    plans: tuple[PlanDocument, ...]
    features: tuple[FeatureDocument, ...]
    thresholds: tuple[str, ...] = ()
    unknown_accounts: Literal["free", "refuse"] = "free"
    notes: tuple[str, ...] = ()


def read_catalog(document: bytes | str | Mapping[str, object]) -> Catalog:
    """Read a catalog that can be used, from JSON or from what JSON was decoded to.

    Raises UnusableCatalog (a ValueError): for a wrong shape naming the first place, otherwise
    naming every defect and its place.
    """
    try:
        if isinstance(document, (bytes, str)):
            shape = msgspec.json.decode(document, type=CatalogDocument)
        else:
            shape = msgspec.convert(document, CatalogDocument)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        refuse([str(error)])
    catalog = _Reading().catalog(shape)
    check_catalog(catalog)
    return catalog


def catalog_document(catalog: Catalog) -> dict[str, object]:
    """Write a catalog in the shape that ``read_catalog`` reads, as plain JSON values.

    The one canonical form of equal catalogs.
    """
    document = CatalogDocument(
        version=catalog.version,
        effective_from=catalog.effective_from,
        plans=tuple(_plan_document(plan) for plan in catalog.plans),
        features=tuple(_feature_document(feature) for feature in catalog.features),
        thresholds=_written_shares(catalog.thresholds),
        unknown_accounts=catalog.unknown_accounts,
        notes=catalog.notes,
    )
    plain: dict[str, object] = msgspec.json.decode(msgspec.json.encode(document))
    return plain


def _plan_document(plan: Plan) -> PlanDocument:
    return PlanDocument(
        id=plan.id,
        name=plan.name,
        price_cents=plan.price_cents,
        credits=format_credits(plan.allotment),
        renews=plan.renews,
        thresholds=None if plan.thresholds is None else _written_shares(plan.thresholds),
    )


def _written_shares(shares: tuple[Decimal, ...]) -> tuple[str, ...]:
    return tuple(format_quantity(share) for share in shares)


def _feature_document(feature: Feature) -> FeatureDocument:
    bounds = feature.stated_range
    return FeatureDocument(
        id=feature.id,
        name=feature.name,
        section=feature.section,
        rate=None if feature.rate is None else _rate_document(feature.rate),
        stated_range=None
        if bounds is None
        else (format_credits(bounds[0]), format_credits(bounds[1])),
        models=tuple(
            ModelDocument(id=model.id, name=model.name, rate=_rate_document(model.rate))
            for model in feature.models
        ),
    )


def _rate_document(rate: Rate) -> RateDocument:
    per: Amount = 1 if rate.per == 1 else format_quantity(rate.per)
    return RateDocument(
        credits=format_credits(rate.credits),
        unit=rate.unit,
        per=per,
        rounding=rate.rounding,
        note=rate.note,
    )


class _Reading:
    """Turns a document's amounts into values, and notes each that cannot be read, so that its
    author sees all of them at once.
    """

    def __init__(self) -> None:
        self._defects: list[str] = []

    def catalog(self, shape: CatalogDocument) -> Catalog:
        plans = tuple(self._plan(f"plans.{plan.id}", plan) for plan in shape.plans)
        features = tuple(
            self._feature(f"features.{feature.id}", feature) for feature in shape.features
        )
        thresholds = self._shares("thresholds", shape.thresholds)
        effective_from = self._value(
            "effective_from", _utc, shape.effective_from, shape.effective_from
        )
        if self._defects:
            refuse(self._defects)
        return Catalog(
            version=shape.version,
            effective_from=effective_from,
            plans=plans,
            features=features,
            thresholds=thresholds,
            unknown_accounts=shape.unknown_accounts,
            notes=shape.notes,
        )

    def _plan(self, where: str, plan: PlanDocument) -> Plan:
        allotment = self._credits(f"{where}.credits", plan.credits)
        thresholds = (
            None
            if plan.thresholds is None
            else self._shares(f"{where}.thresholds", plan.thresholds)
        )
        return Plan(
            id=plan.id,
            name=plan.name,
            price_cents=plan.price_cents,
            allotment=allotment,
            renews=plan.renews,
            thresholds=thresholds,
        )

    def _shares(self, where: str, shares: tuple[str, ...]) -> tuple[Decimal, ...]:
        return tuple(self._value(where, _decimal, share, Decimal("0.5")) for share in shares)

    def _feature(self, where: str, feature: FeatureDocument) -> Feature:
        stated_range = feature.stated_range and (
            self._credits(f"{where}.stated_range", feature.stated_range[0]),
            self._credits(f"{where}.stated_range", feature.stated_range[1]),
        )
        return Feature(
            id=feature.id,
            name=feature.name,
            section=feature.section,
            rate=None if feature.rate is None else self._rate(f"{where}.rate", feature.rate),
            stated_range=stated_range,
            models=tuple(
                Model(
                    id=model.id,
                    name=model.name,
                    rate=self._rate(f"{where}.models.{model.id}.rate", model.rate),
                )
                for model in feature.models
            ),
        )

    def _rate(self, where: str, rate: RateDocument) -> Rate:
        return Rate(
            credits=self._credits(f"{where}.credits", rate.credits),
            unit=rate.unit,
            per=self._value(f"{where}.per", _decimal, rate.per, Decimal(1)),
            rounding=rate.rounding,
            note=rate.note,
        )

    def _credits(self, where: str, amount: Amount) -> int:
        return self._value(where, parse_credits, amount, 0)

    def _value(
        self, where: str, read: Callable[..., _Read], written: object, otherwise: _Read
    ) -> _Read:
        try:
            return read(written)
        except ValueError as error:
            self._defects.append(f"{where}: {error}")
            return otherwise


def _decimal(written: Amount) -> Decimal:
    """Without trailing zeros, so that equal values are written alike wherever they end up."""
    return Decimal(format_quantity(parse_quantity(written)))


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{moment.isoformat()} is beyond the years 1 to 9999 in UTC") from None


def load_shipped_catalog() -> Catalog:
    """The catalog that comes with the package: the rate card published for Captions, as of November
    2026.
    """
    return read_catalog(
        resources.files(__package__).joinpath("catalogs/captions_2026_11.json").read_bytes()
    )
