"""Errors as RFC 9457 problem details: a code for programs, and a sentence that says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from usageledger.accounts.errors import CatalogsUnavailable, NoCatalog
from usageledger.counters.view import ViewError
from usageledger.gateway.idempotency import KeyUsedBefore
from usageledger.gateway.safe_headers import SAFE_HEADERS

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "/problems/"

# Every code that the gateway answers with: its status, and its title, which is the same each time
# (RFC 9457, 3.1.4).
PROBLEMS: Mapping[str, tuple[int, str]] = {
    "malformed_request": (400, "The request cannot be read"),
    "unauthenticated": (401, "A key or a token is needed"),
    "insufficient_credits": (402, "The account does not have enough credits"),
    "suspended": (402, "The account is suspended"),
    "unknown_account": (402, "The account is unknown, and the catalog refuses unknown accounts"),
    "forbidden": (403, "This key or token may not do that"),
    "outside_key_bounds": (403, "This key is bound to other accounts or sources"),
    "not_the_holder": (403, "Another key or source placed the hold"),
    "not_found": (404, "There is no such thing"),
    "method_not_allowed": (405, "There is no such operation here"),
    "too_slow": (408, "The request did not arrive in time"),
    "id_reused_with_different_content": (409, "The id was used before, with other content"),
    "too_many_keys": (409, "There are too many keys"),
    "conflict": (409, "Its present state does not allow this"),
    "too_many_endpoints": (409, "There are too many webhook endpoints"),
    "too_large": (413, "The request is too large"),
    "unsupported_media_type": (415, "The content type is not supported here"),
    "invalid_request": (422, "A field is missing or wrong"),
    "invalid_event": (422, "The ledger would refuse the event"),
    "bound_admin": (409, "A key with bounds cannot have the scope admin"),
    "url_not_allowed": (422, "A webhook may not be sent to this URL"),
    "unknown_feature": (422, "The catalog does not know the feature"),
    "unknown_model": (422, "The catalog does not know the model"),
    "too_many_open_holds": (429, "Too many holds are open"),
    "too_many_streams": (429, "Too many streams are open"),
    "rate_limited": (429, "Too many requests"),
    "head_too_large": (431, "The head of the request is too large"),
    "internal": (500, "A fault in the gateway"),
    "log_unavailable": (503, "Kafka does not answer"),
    "counters_unavailable": (503, "Redis does not do what it is asked"),
    "not_ready": (503, "The gateway is not ready yet"),
}


class InvalidField(BaseModel):
    """One field that is missing or wrong."""

    pointer: str = Field(
        description="Where it is, such as 'body/quantity'.", examples=["body/quantity"]
    )
    detail: str = Field(examples=["a decimal from 0 to 1000000000 with at most 6 places"])


class ProblemDetails(BaseModel):
    """An error (RFC 9457). Some have further members, which the operation describes."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "/problems/unknown_model",
                    "title": "The catalog does not know the model",
                    "status": 422,
                    "detail": "catalog '2026-11' has no rate for model 'veo_9' of feature "
                    "'genai_video': see GET /v1/catalogs",
                    "code": "unknown_model",
                }
            ]
        },
    )

    type: str = Field(description="A path of this gateway: the problem's code after `/problems/`.")
    title: str
    status: int
    detail: str = Field(description="What is wrong this time, and what to do.")
    code: str = Field(description="The problem's name, for programs.")
    errors: list[InvalidField] | None = Field(
        default=None, description="With `invalid_request`: every field that is wrong."
    )


class Problem(Exception):
    """A request cannot be answered. ``more`` has further members of the problem."""

    def __init__(
        self, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.headers = headers
        self.more = more


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route: these problems, and those that every route can answer with."""
    by_status: dict[int | str, list[str]] = {}
    for code in (
        *codes,
        "unauthenticated",
        "forbidden",
        "outside_key_bounds",
        "too_large",
        "invalid_request",
        "rate_limited",
        "counters_unavailable",
    ):
        by_status.setdefault(PROBLEMS[code][0], []).append(code)
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {
            "description": " · ".join(f"`{code}`: {PROBLEMS[code][1]}" for code in named),
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status, named in by_status.items()
    }


def problem_response(
    code: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
) -> JSONResponse:
    """A problem as a response."""
    status, title = PROBLEMS[code]
    content = {
        "type": TYPE_PREFIX + code,
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        **more,
    }
    sent = {**SAFE_HEADERS, **(headers or {})}
    return JSONResponse(content, status, headers=sent, media_type=MEDIA_TYPE)


def answer_to(problem: Problem) -> JSONResponse:
    """The response to a request that failed with this problem."""
    return problem_response(problem.code, problem.detail, headers=problem.headers, **problem.more)


def add_handlers(app: FastAPI) -> None:
    """Have every error of this app answered as a problem."""
    _add_handlers_of_our_errors(app)
    _add_handlers_of_request_errors(app)

    @app.exception_handler(Exception)
    async def on_error(request: Request, error: Exception) -> JSONResponse:
        return problem_response(
            "internal", "the gateway failed, and has logged why; the same request may work later"
        )


def _add_handlers_of_our_errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def on_problem(request: Request, problem: Problem) -> JSONResponse:
        return answer_to(problem)

    @app.exception_handler(ViewError)
    async def on_view_error(request: Request, error: ViewError) -> JSONResponse:
        if not error.retriable and error.cause is None:
            return problem_response(
                "internal", f"{error}. `usageledger doctor` says how to mend it"
            )
        more = {} if error.cause is None else {"cause": error.cause}
        return problem_response(
            "counters_unavailable",
            f"{error}. Ask again in a moment",
            headers={"Retry-After": "1"},
            **more,
        )

    @app.exception_handler(CatalogsUnavailable)
    async def on_no_log(request: Request, error: CatalogsUnavailable) -> JSONResponse:
        return problem_response("log_unavailable", str(error))

    @app.exception_handler(NoCatalog)
    async def on_no_catalog(request: Request, error: NoCatalog) -> JSONResponse:
        return problem_response("not_ready", str(error))

    @app.exception_handler(KeyUsedBefore)
    async def on_reused_key(request: Request, error: KeyUsedBefore) -> JSONResponse:
        return problem_response(
            "id_reused_with_different_content",
            "this Idempotency-Key came with another request before: send this one under a new key",
        )


def _add_handlers_of_request_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        fields = _invalid_fields(error.errors())
        if any(found.get("type") == "json_invalid" for found in error.errors()):
            return problem_response(
                "malformed_request",
                "the body is not JSON: send one JSON object, as Content-Type: application/json",
            )
        detail = "; ".join(f"{field['pointer']}: {field['detail']}" for field in fields[:3])
        return problem_response("invalid_request", detail, errors=fields)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 413:
            return problem_response("too_large", error.detail)
        code = {404: "not_found", 405: "method_not_allowed"}.get(
            error.status_code, "malformed_request"
        )
        detail = (
            f"{request.method} {request.url.path}: {error.detail}. GET /openapi.json lists every "
            "path"
        )
        return problem_response(code, detail, headers=error.headers)


def _invalid_fields(errors: Sequence[Any]) -> list[dict[str, str]]:
    return [
        {
            "pointer": "/".join(str(part) for part in found["loc"]),
            "detail": str(found["msg"]).removeprefix("Value error, "),
        }
        for found in errors
    ]
