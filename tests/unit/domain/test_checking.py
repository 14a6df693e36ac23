"""May this use start? Each rule at its boundary, in the notation of ledgers."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from msgspec.structs import replace

from tests.notation import SHIPPED, Partition
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.balance import balance_at
from usageledger.domain.catalog import UnknownRate
from usageledger.domain.checking import Check, Use, check_use
from usageledger.domain.credits import parse_credits

ACTION = "chat_action"  # one credit each


def check(
    partition: Partition,
    quantity: str = "1",
    *,
    feature: str = ACTION,
    model: str | None = None,
    held: str = "0",
) -> Check:
    """Whether account ``a`` may start a use now, beside holds of ``held`` credits."""
    checked = unchecked(partition, feature, model, quantity, held=held)
    assert isinstance(checked, Check)
    return checked


def unchecked(
    partition: Partition, feature: str, model: str | None, quantity: str = "1", *, held: str = "0"
) -> Check | UnknownRate:
    return check_use(
        Use(feature=feature, model=model, quantity=Decimal(quantity)),
        balance_at(
            "a",
            partition.book.accounts.get("a"),
            partition.now,
            partition.book.catalogs,
            held=parse_credits(held),
        ),
    )


def partition_of(*lines: str, catalogs: AdoptedCatalogs = SHIPPED) -> Partition:
    partition = Partition(catalogs)
    for line in lines:
        partition.take(line)
    return partition


@pytest.mark.parametrize(
    ("used", "held", "quantity", "allowed"),
    [
        ("0", "0", "200", True),
        ("0", "0", "201", False),
        ("199", "0", "1", True),
        ("200", "0", "1", False),
        ("200", "0", "0", True),
        ("250", "0", "1", False),
        ("100", "99", "1", True),
        ("100", "100", "1", False),
        ("100", "100", "0", True),
        ("100", "99.000001", "1", False),
    ],
)
def test_a_use_may_start_if_what_is_neither_used_nor_held_covers_it(
    used: str, held: str, quantity: str, allowed: bool
) -> None:
    partition = partition_of(f"2026-01-31T10:00 use chat_action {used}")
    checked = check(partition, quantity, held=held)
    assert checked.allowed is allowed
    assert checked.reason == (None if allowed else "insufficient_credits")
    assert checked.available == 200_000_000 - parse_credits(used) - parse_credits(held)
    assert (checked.remaining, checked.held) == (
        200_000_000 - parse_credits(used),
        parse_credits(held),
    )


def test_a_use_that_costs_nothing_may_start_whatever_is_left() -> None:
    partition = partition_of("2026-01-31T10:00 use chat_action 300")
    checked = check(partition, feature="genai_sound", model="mmaudio")
    assert (checked.allowed, checked.cost, checked.available) == (True, 0, -100_000_000)


def test_an_account_the_ledger_does_not_know_has_an_untouched_free() -> None:
    assert check(partition_of(), "200").allowed
    assert not check(partition_of(), "201").allowed


def test_an_account_the_ledger_does_not_know_is_refused_where_the_catalog_says_so() -> None:
    strict = AdoptedCatalogs(
        tuple(replace(catalog, unknown_accounts="refuse") for catalog in SHIPPED)
    )
    checked = check(partition_of(catalogs=strict))
    assert (checked.allowed, checked.reason, checked.upgrade, checked.remaining) == (
        False,
        "unknown_account",
        None,
        0,
    )
    assert check(partition_of("2026-01-31T10:00 subscribe pro", catalogs=strict)).allowed


def test_while_an_account_is_suspended_nothing_may_start_and_no_upgrade_helps() -> None:
    partition = partition_of("2026-01-31T10:00 use chat_action 199", "+1s suspend payment_failed")
    for quantity in ("0", "1", "2"):
        checked = check(partition, quantity)
        assert (checked.allowed, checked.reason, checked.suspended, checked.upgrade) == (
            False,
            "suspended",
            "payment_failed",
            None,
        )
    partition.take("+1s resume")
    assert check(partition).allowed


@pytest.mark.parametrize(
    ("feature", "model", "reason"),
    [("nothing_like_it", None, "unknown_feature"), ("genai_video", "veo_99", "unknown_model")],
)
def test_a_use_without_a_rate_is_neither_allowed_nor_not(
    feature: str, model: str | None, reason: str
) -> None:
    assert unchecked(partition_of(), feature, model).reason == reason


def test_a_use_costs_what_its_event_will() -> None:
    """A unit that was begun is charged whole, and the check counts it whole too."""
    partition = partition_of("2026-01-31T10:00 subscribe pro")
    checked = check(partition, "2.1", feature="prompt_to_video")
    [*_, entry] = partition.take("+1s use prompt_to_video 2.1")
    assert checked.cost == entry.entry.credits == 24_000_000


def test_a_renewal_that_has_come_is_seen_though_nothing_has_been_decided_since() -> None:
    partition = partition_of("2026-01-31T10:00 subscribe pro", "+1s use chat_action 200")
    assert not check(partition).allowed
    partition.now += timedelta(days=28)
    assert check(partition, "200").allowed


@pytest.mark.parametrize(
    ("lines", "held", "quantity", "plan"),
    [
        (["use chat_action 200"], "0", "1", "pro"),
        (["use chat_action 200"], "0", "200", "pro"),
        (["use chat_action 200"], "0", "201", "max"),
        (["use chat_action 200"], "1", "200", "max"),  # the holds stay open under the new plan
        (
            ["subscribe pro", "use chat_action 200"],
            "0",
            "300",
            "max",
        ),  # 500 less the 200 that were used
        (["subscribe pro", "use chat_action 200"], "0", "301", "scale"),
        (["subscribe pro", "use chat_action 200"], "1", "300", "scale"),
        (["subscribe pro", "grant 10", "use chat_action 210"], "0", "300", "max"),
        # The rest of the grants stays with an account that subscribes from Free.
        (["grant 400"], "0", "601", "max"),
        (["use chat_action 200", "grant 400"], "0", "550", "pro"),
        (["use chat_action 300", "grant 400"], "0", "501", "max"),
        (["subscribe scale_4x", "use chat_action 5600"], "0", "1", None),
        (["use chat_action 200"], "0", "5601", None),
    ],
)
def test_the_upgrade_is_the_lowest_plan_under_which_the_use_fits_beside_the_holds(
    lines: list[str], held: str, quantity: str, plan: str | None
) -> None:
    partition = partition_of(*(f"2026-01-31T10:00 {line}" for line in lines))
    checked = check(partition, quantity, held=held)
    assert not checked.allowed
    assert (checked.upgrade.plan if checked.upgrade else None) == plan


def test_no_upgrade_is_offered_for_what_is_allowed() -> None:
    assert check(partition_of()).upgrade is None


def test_what_costs_more_than_the_ledger_counts_is_never_allowed() -> None:
    checked = check(partition_of(), "1000000000", feature="genai_video", model="veo_3")
    assert checked.cost > 2**53
    assert not checked.allowed
