"""Turns a trace of real requests into usage of 300 accounts.

Arrivals and sizes are the trace's. The mapping to features is ours::

    a request becomes    by this rule
    -----------------    ------------
    a time               its arrival, counted from the first request's
    an account           one of 300, number 300 u² with u from a fixed seed: a few use much
    chat_message         fewer than 60 generated tokens; quantity 1
    chat_action          60 to 139; quantity 1 for each 500 context tokens begun
    genai_image          140 to 239; quantity 1, the models in turn
    ai_creator           240 to 359; a second of video for each 40 generated tokens, in thousandths
    genai_music          360 to 449; quantity 1, the models in turn
    genai_video          450 or more; quantity 1, the models in turn

Accounts whose number ends in 0 to 3 stay on Free, 4 to 6 subscribe to Pro, 7 and 8 to Max, 9 to
Scale.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from importlib import resources
from random import Random

from usageledger.domain.catalog import Catalog, UnknownRate
from usageledger.domain.rating import rate_usage

ACCOUNTS = 300
SOURCE = "/demo/studio"
_SEED = 20231116
_PLANS = ("free", "free", "free", "free", "pro", "pro", "pro", "max", "max", "scale")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A line of the trace. ``arrived_s`` counts seconds from the first line."""

    number: int
    arrived_s: float
    context_tokens: int
    generated_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """The use that a request becomes. ``credits`` are the micro-credits that it costs."""

    id: str
    arrived_s: float
    account: str
    feature: str
    model: str | None
    quantity: Decimal
    credits: int


def trace() -> Iterator[Request]:
    """The requests of the trace that comes with the package, in order of arrival."""
    with (
        resources.files(__package__)
        .joinpath("trace/azure-llm-trace-2023-conv.csv")
        .open(encoding="ascii") as file
    ):
        first: datetime | None = None
        for number, line in enumerate(csv.DictReader(file)):
            arrived = datetime.fromisoformat(f"{line['TIMESTAMP'][:26]}+00:00")
            first = first or arrived
            yield Request(
                number=number,
                arrived_s=(arrived - first).total_seconds(),
                context_tokens=int(line["ContextTokens"]),
                generated_tokens=int(line["GeneratedTokens"]),
            )


def uses(requests: Iterator[Request], catalog: Catalog) -> Iterator[Use]:
    """The uses that the requests become by the rule above."""
    chance = Random(_SEED)
    models = {feature.id: [model.id for model in feature.models] for feature in catalog.features}
    for request in requests:
        account = account_name(int(ACCOUNTS * chance.random() ** 2))
        feature, quantity = _feature_and_quantity(request)
        model = models[feature][request.number % len(models[feature])] if models[feature] else None
        rate = catalog.rate(feature, model)
        assert not isinstance(rate, UnknownRate), f"{feature}/{model} is not in the rate card"
        yield Use(
            id=f"gen_{request.number:05d}",
            arrived_s=request.arrived_s,
            account=account,
            feature=feature,
            model=model,
            quantity=quantity,
            credits=rate_usage(rate, quantity),
        )


def subscriptions() -> Iterator[tuple[str, str]]:
    """The accounts and the plans that they begin with, except those on Free."""
    for number in range(ACCOUNTS):
        plan = _PLANS[number % len(_PLANS)]
        if plan != "free":
            yield account_name(number), plan


def account_name(number: int) -> str:
    """The account with this number."""
    return f"acct_{number:03d}"


def _feature_and_quantity(request: Request) -> tuple[str, Decimal]:
    tokens = request.generated_tokens
    if tokens < 60:
        return "chat_message", Decimal(1)
    if tokens < 140:
        return "chat_action", Decimal(1 + request.context_tokens // 500)
    if tokens < 240:
        return "genai_image", Decimal(1)
    if tokens < 360:
        return "ai_creator", Decimal(tokens * 25) / 1_000
    return ("genai_music" if tokens < 450 else "genai_video"), Decimal(1)
