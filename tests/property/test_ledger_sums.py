"""Amounts are exact, and periods tile an account's time, whatever the anchor and the zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.notation import SHIPPED, Partition
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog import Rate
from usageledger.domain.cycle import boundary
from usageledger.domain.events import AccountSubscribed, UsageRecorded
from usageledger.domain.rating import rate_usage

TENTH = Rate(credits=100_000, unit="token")
starts = st.integers(0, 4 * 365 * 24 * 3600 * 1000).map(
    lambda ms: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
)
zones = st.sampled_from(
    [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/St_Johns",
        "Australia/Lord_Howe",
        "Pacific/Apia",
    ]
)


def _use(number: int, at: datetime, quantity: Decimal) -> UsageRecorded:
    return UsageRecorded(
        account="a",
        source="/s",
        id=str(number),
        occurred_at=at,
        feature="chat_action",
        quantity=quantity,
    )


@pytest.mark.peer_defect("FluxMeter: float balances")
def test_a_million_uses_of_a_tenth_of_a_credit_are_a_hundred_thousand_credits() -> None:
    assert (
        sum(rate_usage(TENTH, quantity) for quantity in [Decimal(1)] * 1_000_000)
        == 100_000 * 1_000_000
    )


@pytest.mark.peer_defect("FluxMeter: float balances")
def test_an_accounts_use_is_the_exact_sum_of_its_uses() -> None:
    """10,000 uses of a tenth of a credit make exactly 1,000 credits.

    Doubles would make 1000.0000000001588.
    """
    (catalog,) = SHIPPED
    features = tuple(
        replace(feature, rate=TENTH) if feature.id == "chat_action" else feature
        for feature in catalog.features
    )
    partition = Partition(AdoptedCatalogs((replace(catalog, features=features),)))
    for number in range(10_000):
        partition.decide(_use(number, partition.now, Decimal(1)))
    assert partition.state().period.used == 1_000 * 1_000_000


@given(st.lists(st.decimals(0, 1_000, places=6), min_size=1, max_size=20))
def test_remaining_is_the_original_amount_less_every_charge(quantities: list[Decimal]) -> None:
    partition = Partition()
    for number, quantity in enumerate(quantities):
        partition.decide(_use(number, partition.now, quantity))
    charges = [sealed.entry.credits for sealed in partition.entries if sealed.entry.kind == "usage"]
    assert partition.state().remaining == 200_000_000 - sum(charges)


@settings(max_examples=50)
@given(start=starts, zone=zones, gaps=st.lists(st.integers(0, 100), min_size=1, max_size=30))
def test_an_accounts_periods_tile_its_time_at_the_boundaries_of_its_cycle(
    start: datetime, zone: str, gaps: list[int]
) -> None:
    partition = Partition()
    header = {"account": "a", "source": "/crm", "id": "s", "occurred_at": start}
    subscribed = AccountSubscribed(**header, plan="pro", time_zone=zone)  # type: ignore[arg-type]
    partition.decide(subscribed, at=start)
    for number, days in enumerate(gaps):
        partition.now += timedelta(days=days)
        partition.decide(_use(number, partition.now, Decimal(1)))
    opened = [
        s.entry.plan_change.opens
        for s in partition.entries
        if s.entry.plan_change is not None and s.entry.plan_change.opens
    ]
    periods = opened[1:]  # after the Free that the subscription ended at once
    assert [period.number for period in periods] == list(range(1, len(periods) + 1))
    assert [period.start for period in periods] == [
        boundary(start, zone, months) for months in range(len(periods))
    ]
    assert all(ended.end == following.start for ended, following in pairwise(periods))
    assert periods[-1].holds(partition.now)
