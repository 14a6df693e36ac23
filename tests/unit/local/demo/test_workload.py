"""The demo derives its usage from the trace by a fixed rule."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from usageledger.domain.catalog_document import load_shipped_catalog
from usageledger.local.demo.workload import (
    ACCOUNTS,
    Request,
    account_name,
    subscriptions,
    trace,
    uses,
)

CATALOG = load_shipped_catalog()


def a_request(generated_tokens: int, context_tokens: int = 400, number: int = 0) -> Request:
    return Request(
        number=number,
        arrived_s=0.0,
        context_tokens=context_tokens,
        generated_tokens=generated_tokens,
    )


def test_the_trace_is_whole_and_in_order_of_arrival() -> None:
    requests = list(trace())
    assert len(requests) == 19_366
    assert [request.arrived_s for request in requests] == sorted(
        request.arrived_s for request in requests
    )


def test_sizes_become_features_as_the_table_says() -> None:
    bounds = {
        59: "chat_message",
        60: "chat_action",
        139: "chat_action",
        140: "genai_image",
        239: "genai_image",
        240: "ai_creator",
    }
    bounds |= {359: "ai_creator", 360: "genai_music", 449: "genai_music", 450: "genai_video"}
    assert {
        tokens: next(uses(iter([a_request(tokens)]), CATALOG)).feature for tokens in bounds
    } == bounds


def test_a_second_of_video_stands_for_forty_tokens_and_is_charged_whole() -> None:
    (use,) = uses(iter([a_request(250)]), CATALOG)
    assert (use.quantity, use.credits) == (Decimal("6.25"), 7_000_000)


def test_the_same_trace_becomes_the_same_uses() -> None:
    assert list(uses(trace(), CATALOG)) == list(uses(trace(), CATALOG))


def test_every_account_is_used_and_some_use_more_than_their_plan_brings() -> None:
    spent: Counter[str] = Counter()
    for use in uses(trace(), CATALOG):
        spent[use.account] += use.credits
    plans = dict(subscriptions())
    over = [
        account
        for account, credits in spent.items()
        if credits > CATALOG.plan(plans.get(account, "free")).allotment  # type: ignore[union-attr]
    ]
    assert set(spent) == {account_name(number) for number in range(ACCOUNTS)}
    assert len(over) > 30
