"""Route: every catalog version with its plans and rates, and how many partitions use it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from usageledger.domain.catalog import Catalog, Feature, Plan
from usageledger.domain.credits import format_credits
from usageledger.domain.quantity import format_quantity
from usageledger.gateway.dependencies import MayReadCatalogs, TheClock, TheInspector
from usageledger.gateway.figures import PlanShown, RateShown, rate_shown
from usageledger.gateway.problems import problems
from usageledger.operations.ledger_inspection import PublishedAndAdopted

router = APIRouter(tags=["console"])


class CatalogPlan(PlanShown):
    """A plan of one catalog version."""

    thresholds: list[str] | None = Field(
        description="The plan's own thresholds; null if the catalog's apply."
    )


class CatalogModel(BaseModel):
    """A model of a feature, and its rate."""

    id: str
    name: str
    rate: RateShown


class CatalogFeature(BaseModel):
    """A line of the rate card."""

    id: str
    name: str
    section: str
    rate: RateShown | None = Field(
        description="For uses that name no model; null if such uses are refused."
    )
    models: list[CatalogModel]


class CatalogShown(BaseModel):
    """One version of plans and rates. It never changes."""

    version: str
    effective_from: datetime
    is_in_force: bool = Field(
        description="Whether it is the version that rates a use that occurs now."
    )
    adopted_by: int | None = Field(
        description="How many partitions of the ledger have adopted it; null while Redis does "
        "not answer."
    )
    plans: list[CatalogPlan] = Field(description="In the order of their levels, the lowest first.")
    features: list[CatalogFeature]
    thresholds: list[str] = Field(description="For plans and accounts that set none of their own.")
    unknown_accounts: Literal["free", "refuse"] = Field(
        description="Whether an account that was never opened is on Free, or its use is refused."
    )


_RATE: dict[str, Any] = {"credits": "32", "unit": "generation", "per": "1", "rounding": "up"}
_EXAMPLE: dict[str, Any] = {
    "version": "captions-2026-11",
    "effective_from": "2026-11-01T00:00:00Z",
    "is_in_force": True,
    "adopted_by": 8,
    "plans": [
        {
            "id": "max",
            "name": "Max",
            "price_cents": 2499,
            "allotment": "500",
            "renews": True,
            "thresholds": None,
        }
    ],
    "features": [
        {
            "id": "genai_video",
            "name": "GenAI Video",
            "section": "add_ons",
            "rate": None,
            "models": [{"id": "veo_3", "name": "Veo 3", "rate": _RATE}],
        }
    ],
    "thresholds": ["0.8"],
    "unknown_accounts": "free",
}


class CatalogList(BaseModel):
    """Every version, in the order in which they were published."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [_EXAMPLE], "partitions": 8}]}
    )

    items: list[CatalogShown]
    partitions: int | None = Field(
        description="How many partitions the ledger has; null while Redis does not answer."
    )


@router.get("/v1/catalogs", responses=problems("log_unavailable"))
async def list_catalogs(
    inspector: TheInspector, now: TheClock, caller: MayReadCatalogs
) -> CatalogList:
    """Every published catalog with its plans and rates, in the order of publishing.

    The versions can be compared with each other.
    """
    found = await inspector.catalogs()
    in_force = found.published.in_force(now()) if found.published else None
    items = [
        _catalog_shown(catalog, found, is_in_force=catalog is in_force)
        for catalog in found.published
    ]
    return CatalogList(
        items=items, partitions=None if found.adopted is None else len(found.adopted)
    )


def _catalog_shown(
    catalog: Catalog, catalogs: PublishedAndAdopted, *, is_in_force: bool
) -> CatalogShown:
    adopted_by = (
        None
        if catalogs.adopted is None
        else sum(known.version(catalog.version) is not None for known in catalogs.adopted.values())
    )
    return CatalogShown(
        version=catalog.version,
        effective_from=catalog.effective_from,
        is_in_force=is_in_force,
        adopted_by=adopted_by,
        plans=[_plan_shown(plan) for plan in catalog.plans],
        features=[_feature_shown(feature) for feature in catalog.features],
        thresholds=[format_quantity(share) for share in catalog.thresholds],
        unknown_accounts=catalog.unknown_accounts,
    )


def _plan_shown(plan: Plan) -> CatalogPlan:
    return CatalogPlan(
        id=plan.id,
        name=plan.name,
        price_cents=plan.price_cents,
        allotment=format_credits(plan.allotment),
        renews=plan.renews,
        thresholds=None
        if plan.thresholds is None
        else [format_quantity(share) for share in plan.thresholds],
    )


def _feature_shown(feature: Feature) -> CatalogFeature:
    models = [
        CatalogModel(id=model.id, name=model.name, rate=rate_shown(model.rate))
        for model in feature.models
    ]
    return CatalogFeature(
        id=feature.id,
        name=feature.name,
        section=feature.section,
        rate=None if feature.rate is None else rate_shown(feature.rate),
        models=models,
    )
