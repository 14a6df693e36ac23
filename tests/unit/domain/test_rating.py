"""The cost of a use, at each boundary and one step beside it."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest

from usageledger.domain.bounds import QUANTITY_MAX
from usageledger.domain.catalog import Rate
from usageledger.domain.catalog_document import load_shipped_catalog
from usageledger.domain.credits import format_credits, parse_credits
from usageledger.domain.rating import quote, rate_usage

SHIPPED = load_shipped_catalog()

# rate                                    quantity       credits
CHARGES = """
8 / second                                0              0
8 / second                                0.000001       8
8 / second                                0.999999       8
8 / second                                1              8
8 / second                                1.0            8
8 / second                                1.000001       16
8 / second                                29.999999      240
8 / second                                30             240
8 / second                                30.000001      248
2 / message                               3              6
0 / generation                            7              0
0 / generation                            0.5            0
32 / generation                           1              32
0.1 / second                              3              0.3
3 / 1000000 token                         0              0
3 / 1000000 token                         1              3
3 / 1000000 token                         1000000        3
3 / 1000000 token                         1000001        6
1 / 0.5 second                            1.25           3
1 / 0.1 second                            0.3            3
8 / second exact                          0              0
8 / second exact                          0.000001       0.000008
8 / second exact                          1.5            12
3 / 1000000 token exact                   1              0.000003
3 / 1000000 token exact                   19366          0.058098
1 / 3 token exact                         1              0.333334
1 / 3 token exact                         2              0.666667
1 / 3 token exact                         3              1
0.000001 / 1000000 token exact            1              0.000001
0.000001 / 1000000 token exact            1000000        0.000001
0.000001 / 1000000 token exact            1000001        0.000002
0 / 3 token exact                         1              0
"""


def a_rate(written: str) -> Rate:
    credits, _, *per, unit, rounding = (
        written if written.endswith("exact") else f"{written} up"
    ).split()
    return Rate(
        credits=parse_credits(credits),
        unit=unit,
        per=Decimal(*per or "1"),
        rounding="exact" if rounding == "exact" else "up",
    )


@pytest.mark.parametrize("line", CHARGES.strip().splitlines())
def test_a_use_costs_the_rate_times_its_units(line: str) -> None:
    rate, quantity, credits = line[:42].strip(), *line[42:].split()
    assert format_credits(rate_usage(a_rate(rate), Decimal(quantity))) == credits


def test_a_million_uses_at_a_tenth_of_a_credit_are_exactly_100_000_credits() -> None:
    tenth = Rate(credits=parse_credits("0.1"), unit="generation")
    total = 0
    for _ in range(1_000_000):
        total += rate_usage(tenth, Decimal(1))
    assert format_credits(total) == "100000"
    assert rate_usage(tenth, Decimal(1_000_000)) == total


def test_the_largest_use_is_rated_exactly() -> None:
    """The product has more digits than a Decimal of 28 digits or a float can hold."""
    largest = Rate(credits=2**53 - 1, unit="second", per=Decimal("0.000001"), rounding="exact")
    quantity = QUANTITY_MAX - Decimal("0.000001")
    assert rate_usage(largest, quantity) == (2**53 - 1) * (10**15 - 1)


@pytest.mark.parametrize("rounding", ["up", "exact"])
def test_a_callers_decimal_context_changes_no_charge(rounding: str) -> None:
    rate = Rate(
        credits=1_234_567,
        unit="second",
        per=Decimal("7"),
        rounding="exact" if rounding == "exact" else "up",
    )
    usual = rate_usage(rate, Decimal("123456.789"))
    with localcontext() as context:
        context.prec = 2
        assert rate_usage(rate, Decimal("123456.789")) == usual


class TestAQuote:
    def test_it_rates_each_use_and_sums_them(self) -> None:
        quoted = quote(
            SHIPPED,
            [
                ("prompt_to_video", None, Decimal("10.2")),
                ("genai_video", "veo_3", Decimal(2)),
                ("chat_message", None, Decimal(3)),
            ],
        )
        assert [format_credits(line.credits) for line in quoted.lines] == ["88", "64", "6"]
        assert format_credits(quoted.total) == "158"
        assert quoted.lines[1].rate.note == "4 seconds"

    @pytest.mark.parametrize(
        ("actions", "lowest"),
        [
            (0, "free"),
            (200, "free"),
            (201, "max"),
            (500, "max"),
            (501, "scale"),
            (1400, "scale"),
            (1401, "scale_2x"),
            (2801, "scale_4x"),
            (5600, "scale_4x"),
            (5601, None),
        ],
    )
    def test_uses_fit_on_the_plans_whose_allotment_covers_them(
        self, actions: int, lowest: str | None
    ) -> None:
        quoted = quote(SHIPPED, [("chat_action", None, Decimal(actions))])
        assert (quoted.lowest.id if quoted.lowest else None) == lowest
        assert quoted.fits == (() if lowest is None else SHIPPED.plans[SHIPPED.level(lowest) :])

    def test_nothing_costs_nothing(self) -> None:
        assert quote(SHIPPED, []).total == 0

    @pytest.mark.parametrize(
        ("feature", "model", "says"),
        [
            ("genai_video", None, "unknown_model: .* feature 'genai_video' with no model named"),
            ("genai_video", "veo_9", "unknown_model: .* model 'veo_9' of feature 'genai_video'"),
            ("genai_smell", None, "unknown_feature: .* 'genai_smell'"),
        ],
    )
    def test_an_unknown_use_is_refused_by_name(
        self, feature: str, model: str | None, says: str
    ) -> None:
        with pytest.raises(ValueError, match=says):
            quote(SHIPPED, [(feature, model, Decimal(1))])
