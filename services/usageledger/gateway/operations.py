"""Routes for who runs the gateway: alive, ready, metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from usageledger.gateway.asking import Parts
from usageledger.gateway.problems import problem_response

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(gateway: Parts) -> JSONResponse:
    """Whether everything that it needs is there: 200, or 503 saying what is not."""
    missing = {name: reason for name, look in gateway.readiness.items() if (reason := await look())}
    if missing:
        told = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        return problem_response("not_ready", told, missing=missing)
    return JSONResponse({"status": "ready"})


@router.get("/metrics")
async def metrics() -> Response:
    """Figures for Prometheus."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
