"""Which thresholds an account has: its own, otherwise its plan's, otherwise the catalog's."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from tests.notation import SHIPPED, Partition, ledger, play, written
from usageledger.contracts.catalog_message import CatalogPublished
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.balance import balance_at
from usageledger.domain.bounds import THRESHOLDS_MAX
from usageledger.domain.catalog import Catalog
from usageledger.domain.catalog_check import UnusableCatalog
from usageledger.domain.catalog_document import catalog_document, read_catalog
from usageledger.domain.catalog_lint import lint
from usageledger.domain.encoding import decode_account, encode
from usageledger.domain.thresholds import parse_thresholds


def _with_plan_thresholds(**thresholds: tuple[str, ...]) -> Catalog:
    (catalog,) = SHIPPED
    plans = tuple(
        replace(plan, thresholds=tuple(map(Decimal, thresholds[plan.id])))
        if plan.id in thresholds
        else plan
        for plan in catalog.plans
    )
    return replace(catalog, plans=plans)


def test_a_plans_own_thresholds_take_the_place_of_the_catalogs() -> None:
    play(
        """
        2026-01-31T10:00  use chat_action 160
            => account_opened free 200+0-0=200 ; usage 160 200+0-160=40 !80%
        +1s               subscribe pro        => plan_change pro 200+0-0=200
        +1s               use chat_action 99   => usage 99 200+0-99=101
        +1s               use chat_action 1    => usage 1 200+0-100=100 !50%
        +1s               use chat_action 60   => usage 60 200+0-160=40
        +1s               use chat_action 20   => usage 20 200+0-180=20 !90%
        """,
        AdoptedCatalogs((_with_plan_thresholds(pro=("0.5", "0.9")),)),
    )


def test_a_plan_with_an_empty_list_announces_the_limit_alone() -> None:
    play(
        """
        2026-01-31T10:00  subscribe pro
            => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
        +1s               use chat_action 200  => usage 200 200+0-200=0 !reached
        """,
        AdoptedCatalogs((_with_plan_thresholds(pro=()),)),
    )


def test_an_accounts_own_thresholds_take_the_place_of_its_plans() -> None:
    play(
        """
        2026-01-31T10:00  subscribe pro
            => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
        +1s               thresholds 0.25 0.8      => thresholds_set 0.25,0.8 200+0-0=200
        +1s               use chat_action 50       => usage 50 200+0-50=150 !25%
        +1s               use chat_action 50       => usage 50 200+0-100=100
        +1s               use chat_action 70       => usage 70 200+0-170=30 !80%
        +1s               thresholds plan          => thresholds_set plan 200+0-170=30
        +1s               use chat_action 10       => usage 10 200+0-180=20 !90%
        2026-02-28T10:00  thresholds none
            => renewal pro 200+0-0=200 ; thresholds_set none 200+0-0=200
        +1s               use chat_action 199      => usage 199 200+0-199=1
        +1s               use chat_action 1        => usage 1 200+0-200=0 !reached
        """,
        AdoptedCatalogs((_with_plan_thresholds(pro=("0.5", "0.9")),)),
    )


@ledger
def test_a_threshold_set_below_the_current_use_is_never_announced() -> None:
    """Setting thresholds announces nothing, and later use does not cross them either.

    2026-01-31T10:00  use chat_action 120
        => account_opened free 200+0-0=200 ; usage 120 200+0-120=80
    +1s               thresholds 0.5 0.7   => thresholds_set 0.5,0.7 200+0-120=80
    +1s               use chat_action 10   => usage 10 200+0-130=70
    +1s               use chat_action 10   => usage 10 200+0-140=60 !70%
    """


@ledger
def test_a_threshold_is_announced_once_a_period_however_often_it_is_set() -> None:
    """
    2026-01-31T10:00  use chat_action 160 id=g
        => account_opened free 200+0-0=200 ; usage 160 200+0-160=40 !80%
    +1s               thresholds 0.8            => thresholds_set 0.8 200+0-160=40
    +1s               void g                    => void -160 200+0-0=200
    +1s               use chat_action 160       => usage 160 200+0-160=40
    """


@ledger
def test_thresholds_outlast_renewals_and_plan_changes() -> None:
    """
    2026-01-31T10:00  thresholds 0.5
        => account_opened free 200+0-0=200 ; thresholds_set 0.5 200+0-0=200
    +1s               subscribe pro        => plan_change pro 200+0-0=200
    +1s               change max           => plan_change max 500+0-0=500
    2026-03-10T00:00  use chat_action 400  => renewal max 500+0-0=500 ; usage 400 500+0-400=100 !50%
    """


@ledger
def test_setting_thresholds_is_decided_like_any_account_event() -> None:
    """
    2026-01-31T10:00  thresholds 0.5 id=t
        => account_opened free 200+0-0=200 ; thresholds_set 0.5 200+0-0=200
    +1s               thresholds 0.50 id=t  => duplicate
    +1s               thresholds 0.6 id=t   => refused id_reused_with_different_content
    """


def test_a_plan_that_the_catalog_has_dropped_has_the_catalogs_thresholds() -> None:
    first = _with_plan_thresholds(pro=("0.5",))
    later = replace(
        first, version="later", plans=tuple(plan for plan in first.plans if plan.id != "pro")
    )
    partition = Partition(AdoptedCatalogs((first,)))
    partition.take("2026-01-31T10:00 subscribe pro")
    partition.book.catalogs = AdoptedCatalogs((first, later))
    assert [written(sealed.entry) for sealed in partition.take("+1s use chat_action 160")] == [
        "usage 160 200+0-160=40 !80%"
    ]


def test_the_fold_keeps_an_accounts_thresholds_to_the_byte() -> None:
    partition = Partition()
    for line, shares in [
        ("thresholds 0.50 0.9", ["0.5", "0.9"]),
        ("thresholds none", []),
        ("thresholds plan", None),
    ]:
        partition.take(f"+1s {line}")
        blob = encode(partition.state())
        assert json.loads(blob).get("thresholds") == shares
        assert encode(decode_account(blob)) == blob


def test_a_balance_shows_the_thresholds_in_effect() -> None:
    partition = Partition()
    shown = []
    for line in ["thresholds 0.5", "thresholds none", "thresholds plan"]:
        partition.take(f"+1s {line}")
        shown.append(balance_at("a", partition.state(), partition.now, SHIPPED).thresholds)
    assert shown == [(Decimal("0.5"),), (), (Decimal("0.8"),)]


@pytest.mark.parametrize(
    ("shares", "wrong"),
    [
        (["0"], "between 0 and 1"),
        (["1"], "between 0 and 1"),
        (["-0.5"], "at most 6 places"),
        (["0.0000001"], "at most 6 places"),
        (["much"], "at most 6 places"),
        ([0.5], "not float"),
        ([1], "not int"),
        (["0.8", "0.80"], "ascend"),
        (["0.9", "0.8"], "ascend"),
        ([f"0.{n:02d}" for n in range(1, THRESHOLDS_MAX + 2)], "at most 20"),
    ],
)
def test_invalid_thresholds_are_refused_with_the_reason(shares: list[Any], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        parse_thresholds(shares)


def test_thresholds_at_the_edge_are_accepted() -> None:
    assert parse_thresholds(["0.000001", Decimal("0.50"), "0.999999"]) == (
        Decimal("0.000001"),
        Decimal("0.5"),
        Decimal("0.999999"),
    )
    assert (
        len(parse_thresholds([f"0.{n:02d}" for n in range(1, THRESHOLDS_MAX + 1)]))
        == THRESHOLDS_MAX
    )
    assert parse_thresholds([]) == ()


def test_a_catalog_without_plan_thresholds_is_written_as_before_there_were_any() -> None:
    (catalog,) = SHIPPED
    plans: Any = catalog_document(catalog)["plans"]
    assert {tuple(plan) for plan in plans} == {("id", "name", "price_cents", "credits", "renews")}


def test_plan_thresholds_are_written_and_read_back_by_both_readers() -> None:
    catalog = _with_plan_thresholds(pro=("0.5", "0.9"), max=())
    document = catalog_document(catalog)
    assert read_catalog(document) == catalog == CatalogPublished.from_catalog(catalog).to_catalog()
    assert [plan.thresholds for plan in read_catalog(document).plans[:3]] == [
        None,
        (Decimal("0.5"), Decimal("0.9")),
        (),
    ]


@pytest.mark.parametrize(
    "thresholds", [[0.8], ["0"], ["1"], ["0.9", "0.8"], ["0.8", "0.80"], ["0.0000001"], "0.8"]
)
def test_plan_thresholds_that_cannot_be_used_are_refused_with_their_path(
    thresholds: object,
) -> None:
    (catalog,) = SHIPPED
    document: Any = catalog_document(catalog)
    document["plans"][1]["thresholds"] = thresholds
    with pytest.raises(
        UnusableCatalog, match=r"plans(\.pro|\[1\])\.thresholds|plans\[\.\.\.\]\.thresholds"
    ):
        read_catalog(document)
    with pytest.raises(ValueError, match="thresholds"):
        CatalogPublished.model_validate(document)


def test_the_lint_says_so_where_a_plan_announces_nothing_before_its_limit() -> None:
    found = [
        (finding.code, finding.where)
        for finding in lint(_with_plan_thresholds(pro=(), max=("0.5",)))
    ]
    assert ("no_thresholds", "plans.pro.thresholds") in found
    assert [where for code, where in found if code == "no_thresholds"] == ["plans.pro.thresholds"]
