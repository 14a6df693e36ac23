"""The product's core and a naive oracle decide whole histories alike.

The oracle recomputes everything from the published texts.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.oracle.comparing import balance_differences, limit_event_differences, outcome_differences
from tests.oracle.generate import History, generate
from tests.oracle.oracle import EPOCH, MILLISECOND, Arrival, Oracle
from tests.oracle.rate_card import RATES
from tests.oracle.through_the_core import CoreResult, decide_history
from usageledger.accounts.queries import AccountBalance
from usageledger.cli.account_balance import balance_document


def differences(history: History, oracle: Oracle, product: CoreResult) -> list[str]:
    """The differences between the two: in inputs, in balances and in limit events.

    Balances are compared at each moment that matters, and just before it.
    """
    found = list(outcome_differences(oracle, product.decisions))
    for name in history.names:
        for at in _moments(history.moments[name]):
            balance = AccountBalance(product.show(name, at), None, 0)
            shown = balance_document(balance, with_holds=False)
            found += [
                f"{name} at {at}: {difference}"
                for difference in balance_differences(oracle.show(name, at), shown)
            ]
        events: list[Any] = [event for event in product.limit_events if event["subject"] == name]
        found += [
            f"{name}: {difference}"
            for difference in limit_event_differences(list(oracle.limit_events_of(name)), events)
        ]
    return found


@pytest.mark.parametrize("dated_by_log", [False, True], ids=["import", "live"])
def test_the_ledger_decides_a_history_of_fourteen_months_as_the_oracle_does(
    rng: random.Random, dated_by_log: bool
) -> None:
    seed = rng.randrange(1_000_000)
    print(f"history of seed {seed}, dated by the log: {dated_by_log}")
    history = generate(seed, accounts=24, events=40, dated_by_log=dated_by_log)
    found = differences(history, Oracle(history.arrivals), decide_history(history.arrivals))
    assert not found, "\n".join(found[:10])


def test_a_random_history_covers_every_reason_rate_and_limit_event() -> None:
    """Agreement means something only if the history has all of them."""
    made = [decide_history(generate(seed, dated_by_log=True).arrivals) for seed in (1, 2, 3)]
    entries = [entry for product in made for entry in product.entries]
    assert {entry.reason for entry in entries if entry.kind == "refusal"} >= {
        "dated_in_the_future",
        "too_old",
        "id_reused_with_different_content",
        "counted_before_opening",
        "already_voided",
        "period_closed",
        "unknown_feature",
        "unknown_model",
        "grant_already_expired",
        "unknown_plan",
        "plan_has_no_cycle",
        "unknown_time_zone",
        "already_subscribed",
        "not_subscribed",
        "not_json",
        "not_a_cloudevent",
        "invalid_event",
        "unknown_type",
    }
    assert {(entry.feature, entry.model) for entry in entries if entry.kind == "usage"} == {
        (feature, model) for feature, models in RATES.items() for model in models
    }
    kinds = Counter(entry.kind for entry in entries)
    assert (
        min(
            kinds[kind]
            for kind in ("duplicate", "void", "grant", "grant_expired", "renewal", "plan_change")
        )
        >= 20
    )
    assert any(entry.voids is not None and entry.voids.awaits_usage for entry in entries)
    assert any(entry.is_void_on_arrival for entry in entries)
    assert any(entry.kind == "void" and entry.is_late for entry in entries)
    assert any(entry.kind == "usage" and entry.is_late for entry in entries)
    assert any(entry.counts_after_its_period for entry in entries)
    assert any(
        entry.grant is not None and 0 < entry.grant.settled < entry.grant.credits
        for entry in entries
    )
    assert {
        (event["type"], event["data"]["reason"])
        for product in made
        for event in product.limit_events
    } >= {
        ("limit.threshold", "usage"),
        ("limit.reached", "usage"),
        ("limit.reached", "grant_expired"),
        ("limit.reached", "renewed"),
        ("limit.reached", "plan_changed"),
        ("limit.cleared", "renewed"),
        ("limit.cleared", "plan_changed"),
        ("limit.cleared", "granted"),
        ("limit.cleared", "voided"),
    }


def test_the_oracle_notices_one_use_that_was_counted_differently() -> None:
    history = generate(5, accounts=4, events=20)
    altered = list(history.arrivals)
    videos = (
        item
        for item in enumerate(altered)
        if b'"prompt_to_video"' in item[1].value and b'"12.5"' in item[1].value
    )
    place, use = next(videos)
    altered[place] = Arrival(use.value.replace(b'"12.5"', b'"12.0"'), use.timestamp_ms)
    assert differences(history, Oracle(history.arrivals), decide_history(altered))


def _moments(times: list[datetime]) -> list[datetime]:
    """Each time in whole milliseconds, and the millisecond before."""
    whole = {EPOCH + ((at - EPOCH) // MILLISECOND) * MILLISECOND for at in times}
    return sorted(whole | {at - timedelta(milliseconds=1) for at in whole})


def test_an_account_with_very_many_grants_is_decided_as_the_oracle_does(
    rng: random.Random,
) -> None:
    """No random history comes near the bound. This one does, with uses and renewals."""
    seed = rng.randrange(1_000_000)
    print(f"grants of seed {seed}")
    at = datetime(2026, 1, 31, 10, tzinfo=UTC)
    arrivals: list[Arrival] = []

    def send(type_: str, data: dict[str, Any]) -> None:
        event = {
            "specversion": "1.0",
            "type": type_,
            "id": f"e{len(arrivals)}",
            "source": "/test",
            "subject": "acct_1",
            "time": at.isoformat(),
            "data": data,
        }
        arrivals.append(Arrival(json.dumps(event).encode(), (at - EPOCH) // MILLISECOND))

    send("account.subscribed", {"plan": "pro"})
    chance = random.Random(seed)
    for _ in range(150):
        at += timedelta(hours=chance.choice([0, 1, 12]), milliseconds=1)
        ends = at + timedelta(hours=chance.randint(1, 1_500))
        lasts = {"expires_at": ends.isoformat()} if chance.random() < 0.3 else {}
        send(
            "credits.granted", {"credits": chance.choice(["1", "2.5"]), "reason": "sorry", **lasts}
        )
        if chance.random() < 0.1:
            quantity = str(chance.randint(1, 90))
            send("usage.recorded", {"feature": "chat_action", "quantity": quantity})
    product, oracle = decide_history(arrivals), Oracle(arrivals)
    assert list(outcome_differences(oracle, product.decisions)) == []
    assert "too_many_open_grants" in {entry.reason for entry in product.entries}
