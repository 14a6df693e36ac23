"""The shipped catalog is the published table, line by line; which version rates a use."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise, permutations, product
from pathlib import Path

import msgspec
import pytest

import usageledger
from usageledger.contracts.catalog_message import CatalogPublished
from usageledger.domain.adopted_catalogs import AdoptedCatalogs, RatedBy
from usageledger.domain.catalog import Catalog, Feature, Model, Plan, Rate, UnknownRate
from usageledger.domain.catalog_check import UnusableCatalog, check_catalog
from usageledger.domain.catalog_document import catalog_document, load_shipped_catalog, read_catalog
from usageledger.domain.credits import MICROCREDITS_MAX, parse_credits
from usageledger.domain.quantity import check_name

PUBLISHED = (
    (Path(__file__).parents[2] / "data" / "captions-ai-usage-limits.txt")
    .read_text(encoding="utf-8")
    .splitlines()
)
SHIPPED = load_shipped_catalog()
JANUARY = datetime(2026, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

PLAN_LINE = re.compile(
    r"(?P<name>.+?)\$(?P<price>0|\d+\.\d\d)(?P<credits>\d+)(?P<once> \(do not refresh\))?"
)
RATE_LINE = re.compile(r"(?P<name>\D.*?)(?P<credits>\d+) credits?(?: per (?:1 )?(?P<unit>second))?")
RANGE_LINE = re.compile(r"(?P<name>.+?)(?P<lowest>\d+) - (?P<highest>\d+) credits")
CHAT_LINE = re.compile(
    r"(?P<name>Chat-Based Editing)?(?P<credits>\d) credits? per (?P<unit>user message|action taken)"
)
MODEL_LINE = re.compile(
    r"(?P<name>.+?)(?: \((?P<note>\d+ "
    r"seconds)\))?(?P<feature>Image|Video|Music|Sound)(?P<credits>\d+) credits?"
)


def lines_between(heading: str, next_heading: str) -> list[str]:
    return PUBLISHED[PUBLISHED.index(heading) + 1 : PUBLISHED.index(next_heading)]


def snake(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower().replace("-", ""))


PLAN_LINES = lines_between(
    "Captions PlanPlan PriceCredits",
    next(line for line in PUBLISHED if line.startswith("The number of videos")),
)
PROJECT_LINES = lines_between("Project Creation Costs", "Project Add-Ons")
ADD_ON_LINES = lines_between("Project Add-Ons", "Model-Specific costsFeatureCredits")
MODEL_LINES = lines_between("Model-Specific costsFeatureCredits", "Frequently Asked Questions")
RULE_LINES = [
    line
    for line in PUBLISHED
    if line.endswith((".", "requests")) and not line.startswith("The table below")
]


def a_catalog(version: str, effective_from: datetime = JANUARY, *features: Feature) -> Catalog:
    free = Plan(id="free", name="Free", price_cents=0, allotment=200_000_000, renews=False)
    return Catalog(version=version, effective_from=effective_from, plans=(free,), features=features)


def a_feature(feature_id: str, credits: int | None = None, **models: int) -> Feature:
    return Feature(
        id=feature_id,
        name=feature_id,
        section="",
        rate=None if credits is None else Rate(credits=credits, unit="generation"),
        models=tuple(
            Model(id=model, name=model, rate=Rate(credits=rate, unit="generation"))
            for model, rate in models.items()
        ),
    )


class TestThePublishedTable:
    def test_the_table_has_the_lines_that_these_tests_read(self) -> None:
        assert [
            len(lines)
            for lines in (PLAN_LINES, PROJECT_LINES, ADD_ON_LINES, MODEL_LINES, RULE_LINES)
        ] == [6, 6, 8, 23, 8]

    @pytest.mark.parametrize(("level", "line"), list(enumerate(PLAN_LINES)))
    def test_a_plan_is_at_its_level_with_its_price_and_credits(self, level: int, line: str) -> None:
        match = PLAN_LINE.fullmatch(line)
        assert match
        assert SHIPPED.plans[level] == Plan(
            id=snake(match["name"]),
            name=match["name"],
            price_cents=int(Decimal(match["price"]) * 100),
            allotment=parse_credits(match["credits"]),
            renews=match["once"] is None,
        )

    @pytest.mark.parametrize("line", [*PROJECT_LINES, *ADD_ON_LINES[:2]])
    def test_a_line_with_one_rate_is_a_feature_with_a_default_rate(self, line: str) -> None:
        match = RATE_LINE.fullmatch(line)
        assert match
        feature = SHIPPED.feature(snake(match["name"]))
        assert feature is not None and feature.rate is not None
        assert (feature.name, feature.models, feature.stated_range) == (match["name"], (), None)
        assert feature.section == (
            "Project Creation Costs" if line in PROJECT_LINES else "Project Add-Ons"
        )
        assert feature.rate.credits == parse_credits(match["credits"])
        assert (feature.rate.per, feature.rate.rounding) == (Decimal(1), "up")
        assert match["unit"] in (None, feature.rate.unit)
        assert (feature.rate.unit == "second") == (match["unit"] == "second")

    @pytest.mark.parametrize("line", ADD_ON_LINES[2:5])
    def test_a_line_with_a_range_is_a_feature_with_a_stated_range_and_no_default_rate(
        self, line: str
    ) -> None:
        match = RANGE_LINE.fullmatch(line)
        assert match
        feature = SHIPPED.feature(snake(match["name"]))
        assert feature is not None
        assert (feature.name, feature.section, feature.rate) == (
            match["name"],
            "Project Add-Ons",
            None,
        )
        assert feature.stated_range == (
            parse_credits(match["lowest"]),
            parse_credits(match["highest"]),
        )

    @pytest.mark.parametrize(
        ("feature_id", "line"),
        list(zip(("chat_message", "chat_action"), ADD_ON_LINES[5:7], strict=True)),
    )
    def test_chat_costs_by_the_message_and_by_the_action(self, feature_id: str, line: str) -> None:
        match = CHAT_LINE.fullmatch(line)
        assert match
        feature = SHIPPED.feature(feature_id)
        assert feature is not None
        assert feature.name == f"Chat-Based Editing ({match['unit']})"
        assert feature.rate == Rate(
            credits=parse_credits(match["credits"]), unit=feature_id.removeprefix("chat_")
        )
        assert feature.rate.unit in match["unit"].split()

    @pytest.mark.parametrize("line", MODEL_LINES)
    def test_a_model_is_under_its_feature_with_its_rate_for_one_generation(self, line: str) -> None:
        match = MODEL_LINE.fullmatch(line)
        assert match
        feature = SHIPPED.feature(f"genai_{match['feature'].lower()}")
        assert feature is not None
        rate = Rate(credits=parse_credits(match["credits"]), unit="generation", note=match["note"])
        assert Model(id=snake(match["name"]), name=match["name"], rate=rate) in feature.models
        assert SHIPPED.rate(feature.id, snake(match["name"])) == rate

    @pytest.mark.parametrize("line", RULE_LINES)
    def test_a_rule_beside_the_tables_is_noted_with_where_it_is_implemented(
        self, line: str
    ) -> None:
        (note,) = (note for note in SHIPPED.notes if note.startswith(line))
        assert "[in the ledger: " in note

    def test_the_modules_that_the_notes_name_exist(self) -> None:
        package = Path(usageledger.__file__).parent
        named = set(re.findall(r"[a-z_]+/[a-z_]+\.py", " ".join(SHIPPED.notes)))
        assert named
        assert [place for place in sorted(named) if not (package / place).is_file()] == []

    def test_the_catalog_has_nothing_that_the_table_does_not_have(self) -> None:
        assert len(SHIPPED.plans) == len(PLAN_LINES)
        # GenAI Sound has models but no line of its own; the line about a chat's generations is a
        # rule, not a rate.
        assert len(SHIPPED.features) == len(PROJECT_LINES) + len(ADD_ON_LINES) - 1 + 1
        assert sum(len(feature.models) for feature in SHIPPED.features) == len(MODEL_LINES)
        assert len(SHIPPED.notes) == len(RULE_LINES)

    def test_its_ids_are_the_ones_that_workers_and_billing_use(self) -> None:
        assert " ".join(plan.id for plan in SHIPPED.plans) == "free pro max scale scale_2x scale_4x"
        assert " ".join(feature.id for feature in SHIPPED.features) == (
            "prompt_to_video ai_twin_creation ai_edit ai_creator ai_ads ai_skits "
            "actor_regeneration ai_edit_clip_style_change "
            "genai_image genai_video genai_music chat_message chat_action genai_sound"
        )
        assert " ".join(model.id for feature in SHIPPED.features for model in feature.models) == (
            "imagen_3 gpt_4o_image recraft_v3 photon flux_1_1 dalle_3 stable_diffusion_3_5_large "
            "ray_2_flash pika_2_2 veo_2 pika kling_1_6 minimax ray_2 veo_3 veo_3_audio veo_3_fast "
            "veo_3_audio_fast "
            "soundraw udio sound_effects stable_audio_open mmaudio"
        )

    def test_it_is_in_force_from_before_any_use_and_announces_four_fifths(self) -> None:
        assert (SHIPPED.version, SHIPPED.effective_from) == (
            "captions-2026-11",
            datetime(2025, 1, 1, tzinfo=UTC),
        )
        assert SHIPPED.thresholds == (Decimal("0.8"),)


class TestLookUps:
    def test_plan_levels_are_the_order_of_the_table(self) -> None:
        assert [SHIPPED.level(plan.id) for plan in SHIPPED.plans] == [0, 1, 2, 3, 4, 5]
        assert [plan.id for plan in SHIPPED.plans_above("scale")] == ["scale_2x", "scale_4x"]
        for lower, higher in pairwise(SHIPPED.plans):
            assert SHIPPED.next_plan(lower.id) == higher

    def test_the_highest_plan_has_none_above_it(self) -> None:
        assert SHIPPED.next_plan("scale_4x") is None
        assert SHIPPED.plans_above("scale_4x") == ()

    def test_free_is_the_plan_that_costs_nothing_and_does_not_renew(self) -> None:
        assert SHIPPED.free.id == "free"

    def test_an_unknown_plan_is_none_and_has_no_level(self) -> None:
        assert SHIPPED.plan("gold") is None
        assert SHIPPED.feature("gold") is None
        with pytest.raises(KeyError):
            SHIPPED.level("gold")

    def test_no_plan_is_above_one_that_the_catalog_has_dropped(self) -> None:
        """An account may still be on it when a later version comes into force."""
        assert SHIPPED.plans_above("gold") == ()
        assert SHIPPED.next_plan("gold") is None

    @pytest.mark.parametrize(
        ("feature", "model", "reason"),
        [
            ("genai_image", None, "unknown_model"),
            ("genai_video", None, "unknown_model"),
            ("genai_music", None, "unknown_model"),
            ("genai_sound", None, "unknown_model"),
            ("genai_image", "veo_3", "unknown_model"),
            ("ai_edit", "veo_3", "unknown_model"),
            ("genai_smell", None, "unknown_feature"),
            ("genai_smell", "veo_3", "unknown_feature"),
            ("", "", "unknown_feature"),
        ],
    )
    def test_a_use_without_a_rate_is_refused_for_what_is_unknown(
        self, feature: str, model: str | None, reason: str
    ) -> None:
        for rate in (
            SHIPPED.rate(feature, model),
            AdoptedCatalogs((SHIPPED,)).rate_for(feature, model, JANUARY),
        ):
            assert isinstance(rate, UnknownRate) and rate.reason == reason

    def test_a_rate_of_zero_is_a_rate(self) -> None:
        rated = AdoptedCatalogs((SHIPPED,)).rate_for("genai_sound", "mmaudio", JANUARY)
        assert rated == RatedBy(SHIPPED, Rate(credits=0, unit="generation"))

    def test_catalogs_are_equal_by_value_even_after_look_ups(self) -> None:
        other = load_shipped_catalog()
        assert SHIPPED.rates
        assert other is not SHIPPED
        assert (other, hash(other)) == (SHIPPED, hash(SHIPPED))
        assert msgspec.json.encode(other) == msgspec.json.encode(SHIPPED)
        assert msgspec.json.decode(msgspec.json.encode(SHIPPED), type=Catalog) == SHIPPED


class TestAdoption:
    def test_the_version_in_force_changes_at_effective_from_and_not_before(self) -> None:
        earlier, later = a_catalog("1"), a_catalog("2", JANUARY + timedelta(days=31))
        adopted = AdoptedCatalogs().adopt(later).adopt(earlier)
        assert adopted.in_force(later.effective_from - MICROSECOND) == earlier
        assert adopted.in_force(later.effective_from) == later
        assert adopted.in_force(later.effective_from + MICROSECOND) == later

    def test_before_every_version_the_earliest_is_in_force(self) -> None:
        adopted = AdoptedCatalogs((a_catalog("2", JANUARY + timedelta(days=31)), a_catalog("1")))
        assert adopted.in_force(JANUARY - timedelta(days=1_000)).version == "1"

    def test_of_two_versions_from_the_same_time_the_later_adopted_is_in_force(self) -> None:
        first, second = a_catalog("b"), a_catalog("a")
        assert AdoptedCatalogs((first, second)).in_force(JANUARY) == second
        assert AdoptedCatalogs((second, first)).in_force(JANUARY) == first

    def test_any_order_of_adoption_agrees_with_the_plain_rule(self) -> None:
        days = [JANUARY + timedelta(days=day) for day in range(4)]
        moments = [day + step for day in days for step in (-MICROSECOND, timedelta(0), MICROSECOND)]
        catalogs = [
            a_catalog(str(n), day, a_feature("f", n, **{f"m{n}": n}))
            for n, day in enumerate([days[0], days[1], days[1], days[2]])
        ]
        for order, at in product(permutations(catalogs), moments):
            by_effect = sorted(
                enumerate(order), key=lambda placed: (placed[1].effective_from, placed[0])
            )
            effective = [catalog for _, catalog in by_effect if catalog.effective_from <= at] or [
                catalogs[0]
            ]
            adopted = AdoptedCatalogs(order)
            assert adopted.in_force(at) is effective[-1]
            for n, catalog in enumerate(catalogs):
                is_known = order.index(catalog) >= order.index(effective[-1])
                found = adopted.rate_for("f", f"m{n}", at)
                assert found == (
                    RatedBy(catalog, Rate(credits=n, unit="generation"))
                    if is_known
                    else UnknownRate("unknown_model")
                )

    def test_a_model_new_since_the_version_in_force_has_a_later_versions_rate(self) -> None:
        """Of the versions adopted later, the first that knows the model gives the rate."""
        one = a_catalog("1", JANUARY, a_feature("video", old=1))
        two = a_catalog("2", JANUARY + timedelta(days=1), a_feature("video", old=2, new=20))
        three = a_catalog(
            "3", JANUARY + timedelta(days=2), a_feature("video", new=30), a_feature("smell", 5)
        )
        refused = AdoptedCatalogs((one,))
        assert refused.rate_for("video", "new", JANUARY) == UnknownRate("unknown_model")
        assert refused.rate_for("smell", None, JANUARY) == UnknownRate("unknown_feature")
        adopted = refused.adopt(two).adopt(three)
        assert adopted.rate_for("video", "new", JANUARY) == RatedBy(
            two, Rate(credits=20, unit="generation")
        )
        in_other_order = refused.adopt(three).adopt(two)
        assert in_other_order.rate_for("video", "new", JANUARY) == RatedBy(
            three, Rate(credits=30, unit="generation")
        )
        assert adopted.rate_for("video", "old", JANUARY) == RatedBy(
            one, Rate(credits=1, unit="generation")
        )
        assert adopted.rate_for("smell", None, JANUARY) == RatedBy(
            three, Rate(credits=5, unit="generation")
        )
        # A version adopted earlier never gives the rate: a model that a version drops is gone.
        assert adopted.rate_for("video", "old", three.effective_from) == UnknownRate(
            "unknown_model"
        )

    def test_adopting_a_version_again_changes_nothing(self) -> None:
        adopted = AdoptedCatalogs().adopt(SHIPPED)
        assert adopted.adopt(load_shipped_catalog()) is adopted
        assert (list(adopted), len(adopted)) == ([SHIPPED], 1)
        assert adopted.version("captions-2026-11") is SHIPPED
        assert adopted.version("captions-2026-12") is None

    def test_a_version_with_other_content_is_refused(self) -> None:
        with pytest.raises(ValueError, match="adopted already, with other content"):
            AdoptedCatalogs().adopt(SHIPPED).adopt(a_catalog(SHIPPED.version))
        with pytest.raises(ValueError, match="adopted once"):
            AdoptedCatalogs((SHIPPED, SHIPPED))

    def test_adopting_does_not_change_the_catalogs_adopted_before(self) -> None:
        before = AdoptedCatalogs().adopt(a_catalog("1"))
        assert before.rate_for("f", None, JANUARY) == UnknownRate("unknown_feature")
        before.adopt(a_catalog("2", JANUARY, a_feature("f", 1)))
        assert before.rate_for("f", None, JANUARY) == UnknownRate("unknown_feature")

    def test_no_catalog_is_in_force_if_none_is_adopted(self) -> None:
        for ask in (
            lambda: AdoptedCatalogs().in_force(JANUARY),
            lambda: AdoptedCatalogs().rate_for("f", None, JANUARY),
        ):
            with pytest.raises(ValueError, match="no catalog has been adopted"):
                ask()


SMALLEST = """{
  "version": "v", "effective_from": "2026-01-01T01:00:00+01:00", "thresholds": ["0.50", "0.9"],
  "plans": [{"id": "free", "name": "Free", "price_cents": 0, "credits": 200, "renews": false}],
  "features": [{"id": "words", "name": "Words", "section": "",
                "rate": {"credits": "3", "unit": "token", "per": 1000000, "rounding": "exact"}}]
}"""


def smallest_with(path: str, value: object) -> str:
    """SMALLEST with one value set at a dotted path, or removed by ``...``."""
    document = json.loads(SMALLEST)
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    holder = document
    for step in parents:
        holder = holder[step]
    if value is ...:
        del holder[last]
    elif last == len(holder):
        holder.append(value)
    else:
        holder[last] = value
    return json.dumps(document)


class TestTheDocument:
    def test_a_catalog_reads_as_it_is_written(self) -> None:
        catalog = read_catalog(SMALLEST)
        assert catalog.effective_from == JANUARY
        assert catalog.free.allotment == 200_000_000
        assert catalog.rate("words", None) == Rate(
            credits=3_000_000, unit="token", per=Decimal(1_000_000), rounding="exact"
        )

    @pytest.mark.parametrize(
        "catalog", [SHIPPED, read_catalog(SMALLEST)], ids=lambda catalog: catalog.version
    )
    def test_a_written_catalog_is_read_back_equal_by_both_readers(self, catalog: Catalog) -> None:
        document = catalog_document(catalog)
        text = json.dumps(document)
        assert (
            read_catalog(document) == read_catalog(text) == read_catalog(text.encode()) == catalog
        )
        message = CatalogPublished.from_catalog(catalog)
        assert message.to_catalog() == catalog
        assert (
            CatalogPublished.model_validate_json(message.model_dump_json()).to_catalog() == catalog
        )

    def test_equal_amounts_are_written_alike(self) -> None:
        """Shares and `per` are written in ledger entries, whose bytes are compared."""
        assert [str(share) for share in read_catalog(SMALLEST).thresholds] == ["0.5", "0.9"]
        as_text = read_catalog(smallest_with("features.0.rate.per", "1000000.000"))
        assert msgspec.json.encode(as_text) == msgspec.json.encode(read_catalog(SMALLEST))

    @pytest.mark.parametrize(
        ("path", "value", "place"),
        [
            ("plans.0.credits", 0.5, "plans"),
            ("plans.0.credits", True, "plans"),
            ("plans.0.credits", "0.0000001", "plans"),
            ("plans.0.credits", "-1", "plans"),
            ("plans.0.credits", "9007199254.740992", "plans"),
            ("plans.0.credits", "NaN", "plans"),
            ("plans.0.price_cents", -1, "price_cents"),
            ("plans.0.price_cents", "0", "price_cents"),
            ("plans.0.price_cents", 999, "plans.free"),
            ("plans.0.price", "9.99", "price"),
            ("plans.0.renews", True, "plans"),
            ("plans.0.renews", "no", "renews"),
            ("plans.0.name", ..., "name"),
            ("plans.0.id", "", "id"),
            ("plans", [], "plans"),
            ("plans.1", 7, "plans"),
            ("features.0.rate.credits", "-0.1", "rate.credits"),
            ("features.0.rate.credits", "1,5", "credits"),
            ("features.0.rate.per", 0, "rate.per"),
            ("features.0.rate.per", "-1", "per"),
            ("features.0.rate.per", "0.0000001", "per"),
            ("features.0.rate.per", 1.5, "per"),
            ("features.0.rate.unit", " second", "unit"),
            ("features.0.rate.rounding", "down", "rounding"),
            ("features.0.rate.roundng", "exact", "roundng"),
            ("features.0.stated_range", ["3", "1"], "stated_range"),
            ("features.0.stated_range", ["1"], "stated_range"),
            ("features.0.id", "a\nb", "features"),
            ("unknown_accounts", "maybe", "unknown_accounts"),
            ("thresholds", [0.8], "thresholds"),
            ("thresholds", ["0"], "thresholds"),
            ("thresholds", ["1"], "thresholds"),
            ("thresholds", ["0.8", "0.80"], "thresholds"),
            ("thresholds", ["0.9", "0.8"], "thresholds"),
            ("effective_from", "2026-01-01T00:00:00", "effective_from"),
            ("effective_from", "0001-01-01T00:00:00+01:00", "effective_from"),
            ("effective_from", 1767225600, "effective_from"),
            ("effective_from", "soon", "effective_from"),
            ("version", "", "version"),
            ("version", ..., "version"),
            ("colour", "red", "colour"),
        ],
    )
    def test_both_readers_name_the_path_of_an_unusable_value(
        self, path: str, value: object, place: str
    ) -> None:
        document = smallest_with(path, value)
        for read in (read_catalog, CatalogPublished.model_validate_json):
            with pytest.raises(ValueError) as refused:
                read(document)
            assert place in str(refused.value)

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("plans.0.credits", str(Decimal(MICROCREDITS_MAX) / 1_000_000)),
            ("plans.0.credits", "0"),
            ("features.0.rate.credits", "0.000001"),
            ("features.0.rate.credits", 0),
            ("features.0.rate.per", "0.000001"),
            ("thresholds", ["0.000001", "0.999999"]),
            ("thresholds", []),
            ("unknown_accounts", "refuse"),
            ("features.0.stated_range", ["2", "2"]),
            ("features", []),
        ],
    )
    def test_values_at_the_edge_are_accepted(self, path: str, value: object) -> None:
        document = smallest_with(path, value)
        assert CatalogPublished.model_validate_json(document).to_catalog() == read_catalog(document)

    @pytest.mark.parametrize("document", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, "{}"])
    def test_a_document_that_is_no_catalog_is_refused(self, document: bytes | str) -> None:
        with pytest.raises(UnusableCatalog):
            read_catalog(document)

    def test_every_defect_is_named_at_once(self) -> None:
        document = json.loads(json.dumps(catalog_document(SHIPPED)))
        document["plans"][1]["id"] = "max"
        document["features"][0]["id"] = "ai_edit"
        document["features"][8]["models"][1]["id"] = "imagen_3"
        document["features"][8]["models"][2]["rate"]["per"] = "0"
        document["thresholds"] = ["0.8", "1.5"]
        with pytest.raises(UnusableCatalog) as refused:
            read_catalog(document)
        assert [defect.split(":")[0] for defect in refused.value.defects] == [
            "plans",
            "features",
            "features.genai_image.models",
            "features.genai_image.models.recraft_v3.rate.per",
            "thresholds",
        ]

    def test_two_plans_that_do_not_renew_are_refused(self) -> None:
        document = json.loads(json.dumps(catalog_document(SHIPPED)))
        document["plans"][1].update(renews=False, price_cents=0)
        with pytest.raises(
            UnusableCatalog,
            match="exactly one plan does not renew, the free one that every account begins with; "
            "found free, pro",
        ):
            read_catalog(document)

    def test_a_catalog_built_by_hand_can_be_checked(self) -> None:
        local = a_catalog("1", JANUARY.replace(tzinfo=None))
        with pytest.raises(UnusableCatalog, match="effective_from: is not in UTC"):
            check_catalog(local)
        with pytest.raises(UnusableCatalog, match="rounding"):
            check_catalog(
                a_catalog(
                    "1",
                    JANUARY,
                    Feature(
                        id="f",
                        name="F",
                        section="",
                        rate=Rate(credits=1, unit="s", rounding="down"),  # type: ignore[arg-type]
                    ),
                )
            )
        check_catalog(a_catalog("1"))

    def test_every_id_can_be_named_by_a_usage_event(self) -> None:
        for feature in SHIPPED.features:
            check_name("feature", feature.id)
            for model in feature.models:
                check_name("model", model.id)
