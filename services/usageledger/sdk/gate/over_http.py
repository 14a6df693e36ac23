"""Asking the gateway over HTTP: its requests, and what its responses mean."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, Generic, TypeVar
from urllib.parse import quote as quoted

import httpx

from usageledger.domain.checking import Use
from usageledger.domain.quantity import format_quantity
from usageledger.sdk.gate.answers import (
    CheckAnswer,
    GateError,
    GateMisconfigured,
    GateUnavailable,
    HoldAnswer,
    HoldIdReused,
    InvalidUse,
    NotTheHolder,
    QuoteAnswer,
    QuotedUse,
    ReleaseAnswer,
    UnknownUse,
    Upgrade,
)

T = TypeVar("T")

_REFUSALS = ("insufficient_credits", "suspended", "unknown_account", "too_many_open_holds")
_LIMITS = httpx.Limits(max_connections=200, max_keepalive_connections=50, keepalive_expiry=30.0)


@dataclass(frozen=True, slots=True)
class HttpRequest(Generic[T]):
    """One request, and how its response is read."""

    path: str
    body: Mapping[str, Any] | None
    read: Callable[[Any], T]
    read_problem: Callable[[Any], T | None] = lambda _: None
    """Reads problem details that are an answer; returns None for those that are an error."""


class HttpTransport:
    """See `Transport`. Threads, and processes forked from this one, may share it."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self._new_client = partial(_new_client, url, key, timeout_s)
        self._client, self._process = self._new_client(), os.getpid()

    def prepare(self) -> None:
        """Nothing must be known before the first call."""

    def check(self, account: str, use: Use) -> CheckAnswer:
        return self._ask(check_request(account, use))

    def quote(self, uses: Sequence[Use]) -> QuoteAnswer:
        return self._ask(quote_request(uses))

    def hold(self, account: str, hold_id: str, use: Use, life_s: int) -> HoldAnswer:
        return self._ask(hold_request(account, hold_id, use, life_s))

    def release(self, account: str, hold_id: str) -> ReleaseAnswer:
        return self._ask(release_request(account, hold_id))

    def close(self) -> None:
        self._client.close()

    def _ask(self, request: HttpRequest[T]) -> T:
        if self._process != os.getpid():
            # A forked child must not read its parent's responses.
            self._client, self._process = self._new_client(), os.getpid()
        try:
            response = self._client.post(request.path, json=request.body)
        except httpx.HTTPError as error:
            raise GateUnavailable(
                f"the gateway cannot be asked: {error or type(error).__name__}"
            ) from error
        return answer_from(response, request)


class AsyncHttpTransport:
    """See `AsyncTransport`. It belongs to one event loop."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self._client = httpx.AsyncClient(**_options(url, key, timeout_s), limits=_LIMITS)

    async def prepare(self) -> None:
        """Nothing must be known before the first call."""

    async def check(self, account: str, use: Use) -> CheckAnswer:
        return await self._ask(check_request(account, use))

    async def quote(self, uses: Sequence[Use]) -> QuoteAnswer:
        return await self._ask(quote_request(uses))

    async def hold(self, account: str, hold_id: str, use: Use, life_s: int) -> HoldAnswer:
        return await self._ask(hold_request(account, hold_id, use, life_s))

    async def release(self, account: str, hold_id: str) -> ReleaseAnswer:
        return await self._ask(release_request(account, hold_id))

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, request: HttpRequest[T]) -> T:
        try:
            response = await self._client.post(request.path, json=request.body)
        except httpx.HTTPError as error:
            raise GateUnavailable(
                f"the gateway cannot be asked: {error or type(error).__name__}"
            ) from error
        return answer_from(response, request)


def check_request(account: str, use: Use) -> HttpRequest[CheckAnswer]:
    """The request to check a use."""
    return HttpRequest(
        f"/v1/accounts/{segment(account)}/check",
        _use_body(use),
        lambda body: _check_in(account, body),
    )


def quote_request(uses: Sequence[Use]) -> HttpRequest[QuoteAnswer]:
    """The request to quote uses."""
    return HttpRequest("/v1/quote", {"uses": [_use_body(use) for use in uses]}, _quote_in)


def hold_request(account: str, hold_id: str, use: Use, life_s: int) -> HttpRequest[HoldAnswer]:
    """The request to hold what a use may cost."""
    return HttpRequest(
        f"/v1/accounts/{segment(account)}/holds",
        {"id": hold_id, **_use_body(use), "expires_in": life_s},
        lambda body: _hold_in(account, hold_id, body, None),
        lambda body: (
            _hold_in(account, hold_id, body, body["code"])
            if body.get("code") in _REFUSALS
            else None
        ),
    )


def release_request(account: str, hold_id: str) -> HttpRequest[ReleaseAnswer]:
    """The request to release a hold."""
    return HttpRequest(
        f"/v1/accounts/{segment(account)}/holds/{segment(hold_id)}/release",
        None,
        lambda body: ReleaseAnswer(account=account, id=hold_id, state=body["state"]),
    )


def answer_from(response: httpx.Response, request: HttpRequest[T]) -> T:
    """The answer in a response. Raises GateError."""
    try:
        body = response.json()
        if response.is_success:
            return request.read(body)
        answer = request.read_problem(body)
    except (ValueError, KeyError, TypeError, ArithmeticError, AttributeError) as error:
        if response.status_code >= 500:
            raise GateUnavailable(
                f"something in front of the gateway answered {response.status_code}"
            ) from error
        raise GateMisconfigured(
            f"{response.request.url} is not a gateway: it answered {response.status_code} with "
            "something that no gateway sends"
        ) from error
    if answer is None:
        raise _failure(response.status_code, body)
    return answer


def _failure(status: int, body: Mapping[str, Any]) -> GateError:
    code, detail = body.get("code"), str(body.get("detail", status))
    if status >= 500 or code == "rate_limited":
        return GateUnavailable(detail)
    if code in ("unknown_feature", "unknown_model"):
        return UnknownUse(detail, code)
    if code == "id_reused_with_different_content":
        return HoldIdReused(detail)
    if code == "not_the_holder":
        return NotTheHolder(detail)
    return InvalidUse(detail) if code == "invalid_request" else GateMisconfigured(detail)


def _use_body(use: Use) -> dict[str, Any]:
    return {"feature": use.feature, "model": use.model, "quantity": format_quantity(use.quantity)}


def _check_in(account: str, body: Mapping[str, Any]) -> CheckAnswer:
    return CheckAnswer(
        account=account,
        allowed=body["allowed"],
        reason=body["reason"],
        cost=Decimal(body["cost"]),
        **_figures_in(body),
        **_context_in(body),
    )


def _hold_in(
    account: str, hold_id: str, body: Mapping[str, Any], refusal: str | None
) -> HoldAnswer:
    return HoldAnswer(
        account=account,
        id=hold_id,
        allowed=refusal is None,
        reason=refusal,
        state=body["state"] if refusal is None else None,
        credits=Decimal(body["credits"]),
        expires_at=None if refusal is not None else _time_in(body["expires_at"]),
        **_figures_in(body),
        **_context_in(body),
    )


def _quote_in(body: Mapping[str, Any]) -> QuoteAnswer:
    uses = [
        QuotedUse(
            feature=use["feature"],
            model=use["model"],
            quantity=Decimal(use["quantity"]),
            credits=Decimal(use["credits"]),
        )
        for use in body["uses"]
    ]
    return QuoteAnswer(
        total=Decimal(body["total"]),
        uses=tuple(uses),
        fits=tuple(_upgrade_in(plan) for plan in body["fits"]),
        catalog=body["catalog"],
    )


def _figures_in(body: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "remaining": Decimal(body["remaining"]),
        "held": Decimal(body["held"]),
        "available": Decimal(body["available"]),
    }


def _context_in(body: Mapping[str, Any]) -> dict[str, Any]:
    upgrade = body.get("upgrade")
    return {
        "suspension": body.get("suspension"),
        "upgrade": None if upgrade is None else _upgrade_in(upgrade),
        "resets_at": _time_in(body["resets_at"]),
        "as_of": _time_in(body["as_of"]),
    }


def _upgrade_in(body: Mapping[str, Any]) -> Upgrade:
    return Upgrade(
        plan=body["plan"],
        name=body["name"],
        price_cents=body["price_cents"],
        allotment=Decimal(body["allotment"]),
    )


def _time_in(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def segment(name: str) -> str:
    """A name as a path segment. Dots alone are encoded, or they would mean the parent."""
    return quoted(name, safe="") if name.strip(".") else "%2E" * len(name)


def _new_client(url: str, key: str, timeout_s: float) -> httpx.Client:
    return httpx.Client(**_options(url, key, timeout_s), limits=_LIMITS)


def _options(url: str, key: str, timeout_s: float) -> dict[str, Any]:
    return {"base_url": url, "timeout": timeout_s, "headers": {"Authorization": f"Bearer {key}"}}
