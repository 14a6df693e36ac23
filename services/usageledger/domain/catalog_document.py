"""A catalog as people edit it and as ``catalog.published`` carries it: one JSON shape.

Credits are decimal strings or whole numbers. ``catalogs/captions_2026_11.json`` is an example with
every part. Unknown keys are refused, because a misspelt ``rounding`` would charge wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from importlib import resources
from typing import Annotated, Any, Literal

import msgspec

from usageledger.domain.catalog import Catalog, Feature, Model, Plan, Rate
from usageledger.domain.catalog_check import check_catalog, refuse
from usageledger.domain.credits import format_credits, parse_credits
from usageledger.domain.quantity import format_quantity, parse_quantity

Amount = str | int
"""Decimal credits or a decimal quantity.

It is never a JSON number with a decimal point, because readers hold such numbers as doubles.
"""


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


# omit_defaults: a catalog whose plans have no thresholds of their own has the same bytes as before
# plans could have any.
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
    """A whole catalog. Shares in ``thresholds`` are decimal strings."""

    version: str
    effective_from: Annotated[datetime, msgspec.Meta(tz=True)]
    plans: tuple[PlanDocument, ...]
    features: tuple[FeatureDocument, ...]
    thresholds: tuple[str, ...] = ()
    unknown_accounts: Literal["free", "refuse"] = "free"
    notes: tuple[str, ...] = ()


def read_catalog(document: bytes | str | Mapping[str, object]) -> Catalog:
    """Read a catalog that can be used, from JSON or from decoded JSON.

    Raises UnusableCatalog (a ValueError). It names the first path at which the shape is wrong; if
    the shape is right, it names every defect with its path.
    """
    try:
        if isinstance(document, (bytes, str)):
            shape = msgspec.json.decode(document, type=CatalogDocument)
        else:
            shape = msgspec.convert(document, CatalogDocument)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        refuse([str(error)])
    defects = list(_amount_defects(shape))
    if defects:
        refuse(defects)
    catalog = _catalog_from(shape)
    check_catalog(catalog)
    return catalog


def catalog_document(catalog: Catalog) -> dict[str, object]:
    """Write a catalog as plain JSON values, in the shape that ``read_catalog`` reads.

    Equal catalogs have this one canonical form.
    """
    document = CatalogDocument(
        version=catalog.version,
        effective_from=catalog.effective_from,
        plans=tuple(_plan_document(plan) for plan in catalog.plans),
        features=tuple(_feature_document(feature) for feature in catalog.features),
        thresholds=_share_texts(catalog.thresholds),
        unknown_accounts=catalog.unknown_accounts,
        notes=catalog.notes,
    )
    values: dict[str, object] = msgspec.json.decode(msgspec.json.encode(document))
    return values


def _plan_document(plan: Plan) -> PlanDocument:
    return PlanDocument(
        id=plan.id,
        name=plan.name,
        price_cents=plan.price_cents,
        credits=format_credits(plan.allotment),
        renews=plan.renews,
        thresholds=None if plan.thresholds is None else _share_texts(plan.thresholds),
    )


def _share_texts(shares: tuple[Decimal, ...]) -> tuple[str, ...]:
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


def _amount_defects(document: CatalogDocument) -> Iterator[str]:
    """Name every amount that cannot be read, so that the author sees all of them at once."""
    for where, read, written in _amounts(document):
        try:
            read(written)
        except ValueError as error:
            yield f"{where}: {error}"


def _amounts(
    document: CatalogDocument,
) -> Iterator[tuple[str, Callable[[Any], object], object]]:
    """Every value that is read from text: its path, the function that reads it, and the value."""
    for plan in document.plans:
        where = f"plans.{plan.id}"
        yield f"{where}.credits", parse_credits, plan.credits
        for share in plan.thresholds or ():
            yield f"{where}.thresholds", _decimal, share
    for feature in document.features:
        where = f"features.{feature.id}"
        for bound in feature.stated_range or ():
            yield f"{where}.stated_range", parse_credits, bound
        if feature.rate is not None:
            yield from _rate_amounts(f"{where}.rate", feature.rate)
        for model in feature.models:
            yield from _rate_amounts(f"{where}.models.{model.id}.rate", model.rate)
    for share in document.thresholds:
        yield "thresholds", _decimal, share
    yield "effective_from", _utc, document.effective_from


def _rate_amounts(
    where: str, rate: RateDocument
) -> Iterator[tuple[str, Callable[[Any], object], object]]:
    yield f"{where}.credits", parse_credits, rate.credits
    yield f"{where}.per", _decimal, rate.per


def _catalog_from(document: CatalogDocument) -> Catalog:
    """The catalog of a document whose amounts can all be read."""
    return Catalog(
        version=document.version,
        effective_from=_utc(document.effective_from),
        plans=tuple(_plan_from(plan) for plan in document.plans),
        features=tuple(_feature_from(feature) for feature in document.features),
        thresholds=_shares_from(document.thresholds),
        unknown_accounts=document.unknown_accounts,
        notes=document.notes,
    )


def _plan_from(plan: PlanDocument) -> Plan:
    return Plan(
        id=plan.id,
        name=plan.name,
        price_cents=plan.price_cents,
        allotment=parse_credits(plan.credits),
        renews=plan.renews,
        thresholds=None if plan.thresholds is None else _shares_from(plan.thresholds),
    )


def _feature_from(feature: FeatureDocument) -> Feature:
    bounds = feature.stated_range
    return Feature(
        id=feature.id,
        name=feature.name,
        section=feature.section,
        rate=None if feature.rate is None else _rate_from(feature.rate),
        stated_range=None
        if bounds is None
        else (parse_credits(bounds[0]), parse_credits(bounds[1])),
        models=tuple(
            Model(id=model.id, name=model.name, rate=_rate_from(model.rate))
            for model in feature.models
        ),
    )


def _rate_from(rate: RateDocument) -> Rate:
    return Rate(
        credits=parse_credits(rate.credits),
        unit=rate.unit,
        per=_decimal(rate.per),
        rounding=rate.rounding,
        note=rate.note,
    )


def _shares_from(shares: tuple[str, ...]) -> tuple[Decimal, ...]:
    return tuple(_decimal(share) for share in shares)


def _decimal(written: Amount) -> Decimal:
    """Read a decimal without its trailing zeros, so that equal values are always written alike."""
    return Decimal(format_quantity(parse_quantity(written)))


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{moment.isoformat()} is beyond the years 1 to 9999 in UTC") from None


def load_shipped_catalog() -> Catalog:
    """The catalog in the package: the rate card published for Captions, as of November 2026."""
    return read_catalog(
        resources.files(__package__).joinpath("catalogs/captions_2026_11.json").read_bytes()
    )
