"""Route: the catalogs, every version with its plans and rates, and how many partitions rate by it
already.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from usageledger.domain.catalog import Catalog, Feature, Plan, Rate
from usageledger.domain.credits import format_credits
from usageledger.domain.quantity import format_quantity
from usageledger.gateway.access.app_keys import Caller
from usageledger.gateway.dependencies import Needs, Parts
from usageledger.gateway.figures import PlanShown, RateShown, rate_shown
from usageledger.gateway.inspector import CatalogsThere
from usageledger.gateway.problems import problems

router = APIRouter(tags=["console"])


class CatalogPlan(PlanShown):
    """A plan of one version. ``thresholds``: its own, null where the catalog's count."""

    thresholds: list[str] | None


class CatalogModel(BaseModel):
    """A model under its feature."""

    id: str
    name: str
    rate: RateShown


class CatalogFeature(BaseModel):
    """A line of the rate card.

    ``rate`` is for uses that name no model; where it is null, they are refused.
    """

    id: str
    name: str
    section: str
    rate: RateShown | None
    models: list[CatalogModel]


class CatalogShown(BaseModel):
    """One version of plans and rates. It never changes."""

    version: str
    effective_from: datetime
    is_in_force: bool = Field(description="Whether what happens now is rated by it first.")
    adopted_by: int | None = Field(
        description="How many partitions of the ledger know it; null while that cannot be asked."
    )
    plans: list[CatalogPlan] = Field(description="The lowest level first.")
    features: list[CatalogFeature]
    thresholds: list[str] = Field(description="Of plans and accounts that have none of their own.")
    unknown_accounts: Literal["free", "refuse"] = Field(
        description="Whether accounts never opened are on Free, or their use is refused."
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
        description="How many partitions the ledger has; null while that cannot be asked."
    )


@router.get("/v1/catalogs", responses=problems("log_unavailable"))
async def list_catalogs(
    gateway: Parts, caller: Annotated[Caller, Depends(Needs("read"))]
) -> CatalogList:
    """Every published catalog with its plans and rates, in the order of publishing: so that
    versions can be compared.
    """
    there = await gateway.inspector.catalogs()
    in_force = there.published.in_force(gateway.now()) if there.published else None
    items = [_shown(catalog, there, is_in_force=catalog is in_force) for catalog in there.published]
    return CatalogList(
        items=items, partitions=None if there.adopted is None else len(there.adopted)
    )


def _shown(catalog: Catalog, there: CatalogsThere, *, is_in_force: bool) -> CatalogShown:
    adopted = (
        None
        if there.adopted is None
        else sum(known.version(catalog.version) is not None for known in there.adopted.values())
    )
    return CatalogShown(
        version=catalog.version,
        effective_from=catalog.effective_from,
        is_in_force=is_in_force,
        adopted_by=adopted,
        plans=[_plan(plan) for plan in catalog.plans],
        features=[_feature(feature) for feature in catalog.features],
        thresholds=[format_quantity(share) for share in catalog.thresholds],
        unknown_accounts=catalog.unknown_accounts,
    )


def _plan(plan: Plan) -> CatalogPlan:
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


def _feature(feature: Feature) -> CatalogFeature:
    models = [
        CatalogModel(id=model.id, name=model.name, rate=rate_shown(model.rate))
        for model in feature.models
    ]
    return CatalogFeature(
        id=feature.id,
        name=feature.name,
        section=feature.section,
        rate=_rate(feature.rate),
        models=models,
    )


def _rate(rate: Rate | None) -> RateShown | None:
    return None if rate is None else rate_shown(rate)
