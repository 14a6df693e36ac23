"""Asking the gateway over HTTP: what is sent, and what its answers mean."""

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
class HttpQuestion(Generic[T]):
    """One request, and what its answer means."""

    path: str
    body: Mapping[str, Any] | None
    read: Callable[[Any], T]
    read_problem: Callable[[Any], T | None] = lambda _: None
    """What problem details mean that are an answer; None for those that are not."""


class HttpWay:
    """See `Way`. May be shared by threads, and by processes that are forked from this one."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self._new_client = partial(_new_client, url, key, timeout_s)
        self._client, self._process = self._new_client(), os.getpid()

    def prepare(self) -> None:
        """There is nothing to be read first."""

    def check(self, account: str, use: Use) -> CheckAnswer:
        return self._ask(check_question(account, use))

    def quote(self, uses: Sequence[Use]) -> QuoteAnswer:
        return self._ask(quote_question(uses))

    def hold(self, account: str, hold_id: str, use: Use, life_s: int) -> HoldAnswer:
        return self._ask(hold_question(account, hold_id, use, life_s))

    def release(self, account: str, hold_id: str) -> ReleaseAnswer:
        return self._ask(release_question(account, hold_id))

    def close(self) -> None:
        self._client.close()

    def _ask(self, question: HttpQuestion[T]) -> T:
        if self._process != os.getpid():
            # A forked child must not read its parent's answers.
            self._client, self._process = self._new_client(), os.getpid()
        try:
            response = self._client.post(question.path, json=question.body)
        except httpx.HTTPError as error:
            raise GateUnavailable(
                f"the gateway cannot be asked: {error or type(error).__name__}"
            ) from error
        return answer_in(response, question)


class AsyncHttpWay:
    """See `AsyncWay`. Of one event loop."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self._client = httpx.AsyncClient(**_options(url, key, timeout_s), limits=_LIMITS)

    async def prepare(self) -> None:
        """There is nothing to be read first."""

    async def check(self, account: str, use: Use) -> CheckAnswer:
        return await self._ask(check_question(account, use))

    async def quote(self, uses: Sequence[Use]) -> QuoteAnswer:
        return await self._ask(quote_question(uses))

    async def hold(self, account: str, hold_id: str, use: Use, life_s: int) -> HoldAnswer:
        return await self._ask(hold_question(account, hold_id, use, life_s))

    async def release(self, account: str, hold_id: str) -> ReleaseAnswer:
        return await self._ask(release_question(account, hold_id))

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, question: HttpQuestion[T]) -> T:
        try:
            response = await self._client.post(question.path, json=question.body)
        except httpx.HTTPError as error:
            raise GateUnavailable(
                f"the gateway cannot be asked: {error or type(error).__name__}"
            ) from error
        return answer_in(response, question)


def check_question(account: str, use: Use) -> HttpQuestion[CheckAnswer]:
    """Whether a use may start."""
    return HttpQuestion(
        f"/v1/accounts/{segment(account)}/check", _use(use), lambda said: _check_in(account, said)
    )


def quote_question(uses: Sequence[Use]) -> HttpQuestion[QuoteAnswer]:
    """What uses would cost."""
    return HttpQuestion("/v1/quote", {"uses": [_use(use) for use in uses]}, _quote_in)


def hold_question(account: str, hold_id: str, use: Use, life_s: int) -> HttpQuestion[HoldAnswer]:
    """A request to hold."""
    body = {"id": hold_id, **_use(use), "expires_in": life_s}
    return HttpQuestion(
        f"/v1/accounts/{segment(account)}/holds",
        body,
        lambda said: _hold_in(account, hold_id, said, None),
        lambda said: (
            _hold_in(account, hold_id, said, said["code"])
            if said.get("code") in _REFUSALS
            else None
        ),
    )


def release_question(account: str, hold_id: str) -> HttpQuestion[ReleaseAnswer]:
    """A request to free a hold."""
    return HttpQuestion(
        f"/v1/accounts/{segment(account)}/holds/{segment(hold_id)}/release",
        None,
        lambda said: ReleaseAnswer(account=account, id=hold_id, state=said["state"]),
    )


def answer_in(response: httpx.Response, question: HttpQuestion[T]) -> T:
    """What a response means. Raises GateError."""
    try:
        said = response.json()
        if response.is_success:
            return question.read(said)
        answer = question.read_problem(said)
    except (ValueError, KeyError, TypeError, ArithmeticError, AttributeError) as error:
        if response.status_code >= 500:
            raise GateUnavailable(
                f"something before the gateway answered {response.status_code}"
            ) from error
        raise GateMisconfigured(
            f"{response.request.url} is no gateway: it answered {response.status_code} with "
            "something else"
        ) from error
    if answer is None:
        raise _failure(response.status_code, said)
    return answer


def _failure(status: int, said: Mapping[str, Any]) -> GateError:
    code, detail = said.get("code"), str(said.get("detail", status))
    if status >= 500 or code == "rate_limited":
        return GateUnavailable(detail)
    if code in ("unknown_feature", "unknown_model"):
        return UnknownUse(detail, code)
    if code == "id_reused_with_different_content":
        return HoldIdReused(detail)
    return InvalidUse(detail) if code == "invalid_request" else GateMisconfigured(detail)


def _use(use: Use) -> dict[str, Any]:
    return {"feature": use.feature, "model": use.model, "quantity": format_quantity(use.quantity)}


def _check_in(account: str, said: Mapping[str, Any]) -> CheckAnswer:
    return CheckAnswer(
        account=account,
        allowed=said["allowed"],
        reason=said["reason"],
        cost=Decimal(said["cost"]),
        **_standing_in(said),
        **_advice_in(said),
    )


def _hold_in(
    account: str, hold_id: str, said: Mapping[str, Any], refusal: str | None
) -> HoldAnswer:
    return HoldAnswer(
        account=account,
        id=hold_id,
        allowed=refusal is None,
        reason=refusal,
        state=said["state"] if refusal is None else None,
        credits=Decimal(said["credits"]),
        expires_at=None if refusal is not None else _time_in(said["expires_at"]),
        **_standing_in(said),
        **_advice_in(said),
    )


def _quote_in(said: Mapping[str, Any]) -> QuoteAnswer:
    uses = [
        QuotedUse(
            feature=use["feature"],
            model=use["model"],
            quantity=Decimal(use["quantity"]),
            credits=Decimal(use["credits"]),
        )
        for use in said["uses"]
    ]
    return QuoteAnswer(
        total=Decimal(said["total"]),
        uses=tuple(uses),
        fits=tuple(_upgrade_in(plan) for plan in said["fits"]),
        catalog=said["catalog"],
    )


def _standing_in(said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "remaining": Decimal(said["remaining"]),
        "held": Decimal(said["held"]),
        "available": Decimal(said["available"]),
    }


def _advice_in(said: Mapping[str, Any]) -> dict[str, Any]:
    upgrade = said.get("upgrade")
    return {
        "suspension": said.get("suspension"),
        "upgrade": None if upgrade is None else _upgrade_in(upgrade),
        "resets_at": _time_in(said["resets_at"]),
        "as_of": _time_in(said["as_of"]),
    }


def _upgrade_in(said: Mapping[str, Any]) -> Upgrade:
    return Upgrade(
        plan=said["plan"],
        name=said["name"],
        price_cents=said["price_cents"],
        allotment=Decimal(said["allotment"]),
    )


def _time_in(said: str | None) -> datetime | None:
    return None if said is None else datetime.fromisoformat(said)


def segment(name: str) -> str:
    """A name as a segment of a path. One of dots alone would be taken for a step up."""
    return quoted(name, safe="") if name.strip(".") else "%2E" * len(name)


def _new_client(url: str, key: str, timeout_s: float) -> httpx.Client:
    return httpx.Client(**_options(url, key, timeout_s), limits=_LIMITS)


def _options(url: str, key: str, timeout_s: float) -> dict[str, Any]:
    return {"base_url": url, "timeout": timeout_s, "headers": {"Authorization": f"Bearer {key}"}}
