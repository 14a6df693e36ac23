"""Routes for who runs the gateway, or is told of a problem: alive, ready, metrics, what a problem's
type means.
"""

from __future__ import annotations

import logging

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from usageledger.gateway.dependencies import Parts
from usageledger.gateway.metrics import BLOCKED, WEBHOOK_DELIVERIES
from usageledger.gateway.problems import PROBLEMS, TYPE_PREFIX, Problem, problem_response

router = APIRouter(include_in_schema=False)

logger = logging.getLogger(__name__)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(gateway: Parts) -> JSONResponse:
    """Whether everything that it needs is there: 200, or 503 naming what is not.

    Why, the log says: anybody may ask here, and reasons have addresses in them.
    """
    missing = {name: reason for name, look in gateway.readiness.items() if (reason := await look())}
    before, gateway.missing = gateway.missing, missing
    for name, reason in missing.items():
        if before.get(name) != reason:
            logger.warning("not ready, %s: %s", name, reason)
    if missing:
        return problem_response(
            "not_ready",
            f"not there: {', '.join(missing)}. Why, the gateway's log says",
            missing=list(missing),
        )
    return JSONResponse({"status": "ready"})


@router.get("/metrics")
async def metrics(gateway: Parts) -> Response:
    """Figures for Prometheus."""
    counted = await gateway.counted.get()
    WEBHOOK_DELIVERIES.labels("pending").set(counted.pending)
    WEBHOOK_DELIVERIES.labels("dead").set(counted.dead)
    BLOCKED.set(counted.blocked)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@router.get(TYPE_PREFIX + "{code:segment}")
async def problem_type(code: str) -> PlainTextResponse:
    """What a problem's ``type`` leads to: its name, its title and its status, in words."""
    if code not in PROBLEMS:
        raise Problem("not_found", f"there is no problem of the name {code!r}")
    status, title = PROBLEMS[code]
    return PlainTextResponse(
        f"{code}: {title} (HTTP {status}). What to do, the answer's detail says.\n"
    )
