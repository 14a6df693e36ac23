"""Charges are exact. The tests compare them with fractions, which never round."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from usageledger.domain.bounds import QUANTITY_MAX
from usageledger.domain.catalog import Rate
from usageledger.domain.credits import MICROCREDITS_MAX
from usageledger.domain.rating import rate_usage

quantities = st.decimals(min_value=0, max_value=QUANTITY_MAX, places=6)
pers = st.decimals(min_value=Decimal("0.000001"), max_value=QUANTITY_MAX, places=6)
credits_of_a_rate = st.integers(0, MICROCREDITS_MAX)
rates = st.builds(
    Rate,
    credits=credits_of_a_rate,
    unit=st.just("second"),
    per=pers,
    rounding=st.sampled_from(["up", "exact"]),
)
exact_rates = st.builds(
    Rate, credits=credits_of_a_rate, unit=st.just("second"), per=pers, rounding=st.just("exact")
)


@given(rates, quantities)
def test_a_charge_is_the_least_integer_that_covers_the_use(rate: Rate, quantity: Decimal) -> None:
    multiples = Fraction(quantity) / Fraction(rate.per)
    if rate.rounding == "up":
        assert rate_usage(rate, quantity) == rate.credits * ceil(multiples)
    else:
        assert rate_usage(rate, quantity) == ceil(rate.credits * multiples)


@given(rates, quantities, quantities)
def test_more_use_never_costs_less(rate: Rate, one: Decimal, other: Decimal) -> None:
    less, more = sorted((one, other))
    assert 0 <= rate_usage(rate, less) <= rate_usage(rate, more)


@given(rates)
def test_no_use_costs_nothing(rate: Rate) -> None:
    assert rate_usage(rate, Decimal(0)) == 0


@given(rates, st.integers(1, 1000))
def test_whole_multiples_cost_whole_rates_under_either_rounding(rate: Rate, multiples: int) -> None:
    assert rate_usage(rate, rate.per * multiples) == rate.credits * multiples


@given(exact_rates, st.lists(quantities, min_size=1, max_size=20))
def test_splitting_a_use_costs_at_most_one_more_microcredit_a_part(
    rate: Rate, parts: list[Decimal]
) -> None:
    whole = rate_usage(rate, sum(parts, Decimal(0)))
    assert whole <= sum(rate_usage(rate, part) for part in parts) < whole + len(parts)


@given(st.integers(1, MICROCREDITS_MAX), st.integers(0, 10**9))
def test_a_rate_for_each_unit_is_a_plain_product(credits: int, uses: int) -> None:
    assert rate_usage(Rate(credits=credits, unit="generation"), Decimal(uses)) == credits * uses
