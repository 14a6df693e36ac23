"""The lint finds what does not fit in a catalog.

In one where everything fits, it finds only that the highest plan has no upgrade.
"""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec.structs import replace

from usageledger.domain.catalog import Catalog, Feature, Model, Plan, Rate
from usageledger.domain.catalog_check import check_catalog
from usageledger.domain.catalog_document import load_shipped_catalog
from usageledger.domain.catalog_lint import lint

CREDIT = 1_000_000


def plan(plan_id: str, price_cents: int, credits: int) -> Plan:
    return Plan(
        id=plan_id,
        name=plan_id.title(),
        price_cents=price_cents,
        allotment=credits * CREDIT,
        renews=plan_id != "free",
    )


def feature(
    *model_credits: int, default: int | None = None, stated: tuple[int, int] | None = None
) -> Feature:
    return Feature(
        id="images",
        name="Images",
        section="Add-ons",
        rate=None if default is None else Rate(credits=default * CREDIT, unit="generation"),
        stated_range=stated and (stated[0] * CREDIT, stated[1] * CREDIT),
        models=tuple(
            Model(id=f"m{n}", name=f"M{n}", rate=Rate(credits=credits * CREDIT, unit="generation"))
            for n, credits in enumerate(model_credits)
        ),
    )


FITTING = Catalog(
    version="1",
    effective_from=datetime(2026, 1, 1, tzinfo=UTC),
    plans=(plan("free", 0, 10), plan("pro", 999, 20), plan("max", 1999, 50)),
    features=(feature(1, 2, 3, stated=(1, 3)),),
)
TOP = ("no_next_plan", "plans.max")


def findings_of(catalog: Catalog) -> list[tuple[str, str]]:
    return [(finding.code, finding.where) for finding in lint(catalog)]


def with_feature(changed: Feature) -> list[tuple[str, str]]:
    return findings_of(replace(FITTING, features=(changed,)))


def test_the_published_table_has_these_findings_and_can_be_used() -> None:
    shipped = load_shipped_catalog()
    check_catalog(shipped)
    assert findings_of(shipped) == [
        ("allotment_as_lower_plan", "plans.pro"),
        ("no_next_plan", "plans.scale_4x"),
        ("model_outside_stated_range", "features.genai_video.models.veo_3"),
        ("model_outside_stated_range", "features.genai_video.models.veo_3_audio"),
        ("model_outside_stated_range", "features.genai_video.models.veo_3_fast"),
        ("model_outside_stated_range", "features.genai_video.models.veo_3_audio_fast"),
        ("stated_bound_not_reached", "features.genai_music.stated_range"),
        ("models_without_line", "features.genai_sound"),
        ("zero_rate", "features.genai_sound.models.stable_audio_open"),
        ("zero_rate", "features.genai_sound.models.mmaudio"),
    ]


def test_a_finding_says_in_a_sentence_what_it_found() -> None:
    messages = {finding.where: finding.message for finding in lint(load_shipped_catalog())}
    assert messages["features.genai_video.models.veo_3"] == (
        "Veo 3 costs 32 credits, outside the 1 to 20 credits that GenAI Video states"
    )


def test_a_consistent_catalog_has_one_finding_for_its_highest_plan() -> None:
    assert findings_of(FITTING) == [TOP]


def test_a_model_one_credit_outside_its_range_is_found() -> None:
    assert with_feature(feature(1, 3, 4, stated=(1, 3))) == [
        TOP,
        ("model_outside_stated_range", "features.images.models.m2"),
    ]
    assert with_feature(feature(1, 2, 3, stated=(2, 3))) == [
        TOP,
        ("model_outside_stated_range", "features.images.models.m0"),
    ]


def test_a_bound_that_nothing_reaches_is_found() -> None:
    assert with_feature(feature(1, 2, stated=(1, 3))) == [
        TOP,
        ("stated_bound_not_reached", "features.images.stated_range"),
    ]
    assert with_feature(feature(2, stated=(1, 3))) == [
        TOP,
        *[("stated_bound_not_reached", "features.images.stated_range")] * 2,
    ]
    assert with_feature(feature(1, default=3, stated=(1, 3))) == [TOP]


def test_a_feature_that_can_never_be_rated_is_found() -> None:
    assert with_feature(feature()) == [TOP, ("feature_without_rate", "features.images")]


def test_models_without_a_line_of_their_feature_are_found() -> None:
    assert with_feature(feature(1)) == [TOP, ("models_without_line", "features.images")]
    assert with_feature(feature(1, default=1)) == [TOP]


def test_a_rate_of_zero_is_found() -> None:
    assert with_feature(feature(default=0)) == [TOP, ("zero_rate", "features.images.rate")]


def test_a_plan_that_brings_no_more_or_costs_less_than_the_one_below_it_is_found() -> None:
    def with_top(top: Plan) -> list[tuple[str, str]]:
        return findings_of(replace(FITTING, plans=(*FITTING.plans[:2], top)))

    assert with_top(plan("max", 1999, 21)) == [TOP]
    assert with_top(plan("max", 1999, 20)) == [("allotment_as_lower_plan", "plans.max"), TOP]
    assert with_top(plan("max", 1999, 19)) == [("allotment_below_lower_plan", "plans.max"), TOP]
    assert with_top(plan("max", 999, 50)) == [TOP]
    assert with_top(plan("max", 998, 50)) == [("price_below_lower_plan", "plans.max"), TOP]
