"""The rule that refuses an event: each at its boundary, and which of two broken rules counts."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from tests.notation import SHIPPED, Partition, ledger, play, written
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog import Feature, Model, Rate
from usageledger.domain.credits import MICROCREDITS_MAX
from usageledger.domain.refusal import Refusal


@ledger
def test_an_event_from_35_days_ago_is_decided_and_an_older_one_is_too_old() -> None:
    """
    2026-03-01T00:00  use chat_action on=-35d
        => account_opened free 200+0-0=200 ; usage 1 200+0-1=199
    +1s               use chat_action on=-35d1us     => refused too_old
    +1s               use chat_action on=-35d1ms     => refused too_old
    +1s               use chat_action on=-34d23h     => usage 1 200+0-2=198
    +1s               subscribe pro on=-35d1us       => refused too_old
    +1s               grant 5 on=-35d1us             => refused too_old
    +1s               void x on=-35d1us              => refused too_old
    """


@ledger
def test_a_time_up_to_five_minutes_ahead_counts_as_the_time_of_appending() -> None:
    """A time further ahead is refused.

    2026-03-01T00:00  use chat_action on=+5m
        => account_opened free 200+0-0=200 ; usage 1 200+0-1=199
    +1s               use chat_action on=+5m1us   => refused dated_in_the_future
    +1s               use chat_action on=+5m1ms   => refused dated_in_the_future
    +1s               subscribe pro on=+5m1us     => refused dated_in_the_future
    """


@ledger
def test_a_use_dated_ahead_counts_in_the_period_that_runs() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    2026-02-28T09:59  use chat_action on=+2m  => usage 1 200+0-1=199
    2026-02-28T10:02  use chat_action         => renewal pro 200+0-0=200 ; usage 1 200+0-1=199
    """


@ledger
def test_the_previous_period_accepts_usage_for_less_than_72_hours() -> None:
    """
    2026-01-31T10:00         subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    2026-02-28T10:00         use chat_action on=2026-02-28T09:59:59.999
        => renewal pro 200+0-0=200 ; usage 1 late 200+0-1=199
    2026-03-03T09:59:59.999  use chat_action on=2026-02-28T09:59:59.999  => usage 1 late 200+0-2=198
    2026-03-03T10:00         use chat_action on=2026-02-28T09:59:59.999  => refused period_closed
    2026-03-03T10:00         use chat_action on=2026-02-28T10:00         => usage 1 200+0-1=199
    """


@ledger
def test_the_period_before_the_previous_one_accepts_nothing() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1h               cancel now                 => plan_change free 200+0-0=200
    +1h               subscribe max              => plan_change max 500+0-0=500
    +1h               use chat_action on=-2h30m  => refused period_closed
    +0s               use chat_action on=-2h     => usage 1 late 200+0-1=199
    """


@ledger
def test_an_accounts_first_period_includes_earlier_usage() -> None:
    """
    2026-03-01T00:00  use chat_action
        => account_opened free 200+0-0=200 ; usage 1 200+0-1=199
    +1d               use chat_action on=-20d  => usage 1 200+0-2=198
    +1d               subscribe pro            => plan_change pro 200+0-0=200
    +1d               use chat_action on=-20d  => usage 1 late 200+0-3=197
    """


@ledger
def test_an_unknown_feature_or_model_is_refused_and_never_free() -> None:
    """
    2026-03-01T00:00  use telepathy            => refused unknown_feature
    +1s               use telepathy/veo_3      => refused unknown_feature
    +1s               use genai_video/sora     => refused unknown_model
    +1s               use genai_video          => refused unknown_model      # no default rate
    +1s               use chat_action/sora
        => refused unknown_model      # a model it does not have
    +1s               use genai_sound/mmaudio
        => account_opened free 200+0-0=200 ; usage 0 200+0-0=200
    """


@ledger
def test_whole_units_are_charged_rounded_up() -> None:
    """
    2026-03-01T00:00  use prompt_to_video 2
        => account_opened free 200+0-0=200 ; usage 16 200+0-16=184
    +1s               use prompt_to_video 2.000001  => usage 24 200+0-40=160
    +1s               use prompt_to_video 0         => usage 0 200+0-40=160
    """


@ledger
def test_usage_is_never_refused_for_lack_of_credits() -> None:
    """
    2026-03-01T00:00  use genai_video/veo_3 1000
        => account_opened free 200+0-0=200 ; usage 32000 200+0-32000=-31800 !80% !reached
    +1s               use genai_video/veo_3 1000  => usage 32000 200+0-64000=-63800
    """


@ledger
def test_a_repeated_id_is_a_duplicate_and_with_other_content_it_is_refused() -> None:
    """
    2026-03-01T00:00  use genai_video/veo_3 id=g
        => account_opened free 200+0-0=200 ; usage 32 200+0-32=168
    +1s               use genai_video/veo_3 id=g             => duplicate
    +1s               use genai_video/veo_3 1.000 id=g       => duplicate        # the same quantity
    +1s               use genai_video/veo_3 id=g on=-3h
        => duplicate        # a time is no content
    +1s               use genai_video/veo_3 2 id=g
        => refused id_reused_with_different_content
    +1s               use genai_video/veo_2 id=g
        => refused id_reused_with_different_content
    +1s               use chat_action id=g
        => refused id_reused_with_different_content
    +1s               use genai_video/veo_2 id=g source=/b   => usage 14 200+0-46=154
    +1s               grant 5 id=g
        => grant 200+5-46=159        # ids of usage and of billing are apart
    +1s               grant 6 id=g
        => refused id_reused_with_different_content
    +1s               subscribe pro id=g
        => refused id_reused_with_different_content
    +1s               grant 5 id=g                           => duplicate
    """


@ledger
def test_a_duplicate_is_a_duplicate_whatever_has_become_of_the_account() -> None:
    """
    2026-01-31T10:00  subscribe pro id=s
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1s               subscribe pro id=s    => duplicate
    +1s               cancel id=c           => plan_change pro->free 200+0-0=200
    +1s               subscribe pro id=s
        => duplicate     # it does not undo the cancellation
    +1s               cancel id=c           => duplicate
    """


@ledger
def test_a_refused_event_can_be_sent_again_under_its_id() -> None:
    """
    2026-03-01T00:00  use genai_video/sora id=g   => refused unknown_model
    +1s               use genai_video/sora id=g   => refused unknown_model
    +1s               use genai_video/veo_3 id=g
        => account_opened free 200+0-0=200 ; usage 32 200+0-32=168
    """


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        # Time before identity.
        (["use chat_action id=g on=+1h"], "dated_in_the_future"),
        (["use chat_action id=g", "+1s use genai_video/sora id=g on=-36d"], "too_old"),
        (["use chat_action id=g", "+1s use genai_video/sora id=g on=+1h"], "dated_in_the_future"),
        # Identity before the account and the catalog.
        (
            ["use chat_action id=g", "+1s use genai_video/sora id=g"],
            "id_reused_with_different_content",
        ),
        (["grant 1 id=g", "+1s subscribe gold id=g"], "id_reused_with_different_content"),
        # The period before the rate, the feature before the model.
        (["open pro", "+1s use telepathy on=-1d"], "counted_before_opening"),
        (
            ["subscribe pro", "2026-03-10T00:00 use chat_action", "+1s use telepathy on=-20d"],
            "period_closed",
        ),
        (["use telepathy/veo_3 1000000000"], "unknown_feature"),
        (["use genai_video/sora 1000000000"], "unknown_model"),
        # Of a grant, its end before its size.
        (["grant 9007199254 until=-1s"], "grant_already_expired"),
    ],
)
def test_an_event_that_breaks_several_rules_is_refused_for_the_first(
    lines: list[str], reason: str
) -> None:
    partition = Partition()
    for line in [f"2026-01-31T10:00 {lines[0]}", *lines[1:]]:
        (*_, last) = partition.take(line)
    assert (last.entry.kind, last.entry.reason) == ("refusal", reason)


def test_the_refusals_are_in_the_order_in_which_they_are_checked() -> None:
    order = [refusal.value for refusal in Refusal]
    neighbours = [
        ("dated_in_the_future", "id_reused_with_different_content"),
        ("too_old", "id_reused_with_different_content"),
        ("id_reused_with_different_content", "unknown_account"),
        ("unknown_account", "counted_before_opening"),
        ("counted_before_opening", "period_closed"),
        ("already_voided", "period_closed"),
        ("period_closed", "unknown_feature"),
        ("unknown_feature", "unknown_model"),
        ("unknown_model", "quantity_out_of_range"),
        ("grant_already_expired", "too_many_open_grants"),
        ("too_many_open_grants", "quantity_out_of_range"),
        ("account_already_known", "unknown_plan"),
        ("unknown_plan", "plan_has_no_cycle"),
        ("plan_has_no_cycle", "unknown_time_zone"),
        ("unknown_time_zone", "already_subscribed"),
    ]
    assert [pair for pair in neighbours if order.index(pair[0]) > order.index(pair[1])] == []


def _with_a_use_of(microcredits: int) -> AdoptedCatalogs:
    (catalog,) = SHIPPED
    rate = Rate(credits=microcredits, unit="use")
    feature = Feature(
        id="dear", name="Dear", section="x", rate=rate, models=(Model(id="m", name="M", rate=rate),)
    )
    return AdoptedCatalogs((replace(catalog, features=(feature,)),))


def test_a_period_counts_as_much_use_as_a_double_holds_and_no_more() -> None:
    play(
        """
        2026-03-01T00:00  use dear 1
            => account_opened free 200+0-0=200
             ; usage 9007199254 200+0-9007199254=-9007199054 !80% !reached
        +1s  use dear 1  => refused quantity_out_of_range
        """,
        _with_a_use_of(MICROCREDITS_MAX // 10**6 * 10**6),
    )
    play(
        "2026-03-01T00:00 use dear 2 => refused quantity_out_of_range",
        _with_a_use_of(MICROCREDITS_MAX // 2 + 1),
    )


def test_a_catalog_can_refuse_unknown_accounts_until_they_subscribe() -> None:
    (catalog,) = SHIPPED
    play(
        """
        2026-03-01T00:00  use chat_action id=g  => refused unknown_account
        +1s               use telepathy         => refused unknown_account
        +1s               grant 5               => refused unknown_account
        +1s               change pro            => refused unknown_account
        +1s               cancel                => refused unknown_account
        +1s               suspend fraud         => refused unknown_account
        +1s               thresholds 0.5        => refused unknown_account
        +1s               void g                => refused unknown_account
        +1s               subscribe gold        => refused unknown_plan
        +1s               subscribe pro
            => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
        +1s               use chat_action id=g  => usage 1 200+0-1=199
        +1s               open max account=b    => account_opened max 500+0-0=500
        """,
        AdoptedCatalogs((replace(catalog, unknown_accounts="refuse"),)),
    )


def test_an_event_is_rated_by_the_catalog_in_force_when_it_occurred() -> None:
    (first,) = SHIPPED
    dearer = tuple(
        replace(feature, rate=replace(feature.rate, credits=5_000_000))
        if feature.id == "chat_action" and feature.rate
        else feature
        for feature in first.features
    )
    later = replace(
        first,
        version="later",
        effective_from=first.effective_from.replace(year=2026, month=3),
        features=dearer,
    )
    play(
        """
        2026-02-28T23:59:59.999  use chat_action
            => account_opened free 200+0-0=200 ; usage 1 200+0-1=199
        2026-03-01T00:00         use chat_action                          => usage 5 200+0-6=194
        +1s                      use chat_action on=2026-02-28T23:59:59   => usage 1 200+0-7=193
        2026-03-05T00:00         use chat_action on=+5m                   => usage 5 200+0-12=188
        """,
        AdoptedCatalogs((first, later)),
    )


def test_a_refused_model_sent_again_gets_the_rate_of_the_first_catalog_that_knows_it() -> None:
    (first,) = SHIPPED
    known = replace(
        first.features[0], id="telepathy", rate=Rate(credits=7_000_000, unit="thought"), models=()
    )
    later = replace(
        first,
        version="later",
        effective_from=first.effective_from.replace(year=2027),
        features=(*first.features, known),
    )
    partition = Partition(SHIPPED)
    assert [
        written(sealed.entry) for sealed in partition.take("2026-03-01T00:00 use telepathy id=g")
    ] == ["refused unknown_feature"]
    partition.book.catalogs = AdoptedCatalogs((first, later))
    entry = partition.take("+1d use telepathy id=g on=-1d")[-1].entry
    assert (written(entry), entry.catalog_version, entry.rate) == (
        "usage 7 200+0-7=193",
        "later",
        known.rate,
    )


def test_an_entry_names_the_use_the_rate_and_the_catalog() -> None:
    entry = (
        Partition().take("2026-03-01T00:00 use genai_video/veo_3 2 id=g source=/render")[-1].entry
    )
    assert entry.event is not None and entry.rate is not None and entry.period is not None
    assert (entry.event.source, entry.event.id, entry.period.number) == ("/render", "g", 0)
    assert (entry.feature, entry.model, entry.quantity, entry.rate.credits) == (
        "genai_video",
        "veo_3",
        Decimal(2),
        32_000_000,
    )
    assert entry.catalog_version == "captions-2026-11"
    assert entry.credits == 64_000_000


def test_a_refusal_names_the_refused_use_and_costs_nothing() -> None:
    entry = Partition().take("2026-03-01T00:00 use genai_video/sora 2 id=g")[-1].entry
    assert (entry.feature, entry.model, entry.quantity, entry.credits) == (
        "genai_video",
        "sora",
        Decimal(2),
        0,
    )
    assert entry.event is not None and entry.event.id == "g"
    assert (entry.before, entry.after, entry.crossings) == (None, None, ())
