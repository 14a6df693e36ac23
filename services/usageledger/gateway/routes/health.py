"""Routes for the operator: alive, ready, and what a problem's type means."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse

from usageledger.gateway.dependencies import TheReadiness
from usageledger.gateway.problems import PROBLEMS, TYPE_PREFIX, Problem, problem_response

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(readiness: TheReadiness) -> JSONResponse:
    """Whether everything that the gateway needs is there: 200, or 503 that names what is missing.

    While Redis only refuses writes, the gateway is ready and says ``degraded``. Reasons are in the
    log and at the telemetry port: anybody may ask here, and reasons contain addresses.
    """
    lacks = await readiness.look()
    if lacks.missing:
        return problem_response(
            "not_ready",
            f"not there: {', '.join(lacks.missing)}. The gateway's log says why",
            missing=lacks.missing,
            causes=lacks.causes,
        )
    return JSONResponse({"status": "ready", "degraded": lacks.degraded, "causes": lacks.causes})


@router.get(TYPE_PREFIX + "{code:segment}")
async def problem_type(code: str) -> PlainTextResponse:
    """The page of a problem's ``type``: its name, its title and its status."""
    if code not in PROBLEMS:
        raise Problem(
            "not_found", f"there is no problem {code!r}: GET /openapi.json lists them by route"
        )
    status, title = PROBLEMS[code]
    return PlainTextResponse(
        f"{code}: {title} (HTTP {status}). The answer's detail says what to do.\n"
    )
