"""A ledger entry explained in English: what it did and why, in one to three sentences."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import assert_never

from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog import Catalog, Rate
from usageledger.domain.credits import format_credits
from usageledger.domain.entry import LedgerEntry
from usageledger.domain.quantity import format_quantity
from usageledger.domain.renewal import plan_at


def explain(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    """Explain an entry's effect on its account; empty for an entry that is no charge.

    The adopted ``catalogs`` give the names of plans, features and models.
    """
    match entry.kind:
        case "usage":
            return _usage_sentence(entry, catalogs)
        case "void":
            return _void_sentence(entry)
        case "grant":
            return _grant_sentence(entry)
        case "grant_expired":
            return _grant_expired_sentence(entry)
        case "renewal":
            return _renewal_sentence(entry, catalogs)
        case "plan_change":
            return _plan_change_sentence(entry, catalogs)
        case "account_opened":
            return _account_opened_sentence(entry, catalogs)
        case "suspension":
            return _suspension_sentence(entry)
        case "resumption":
            return _resumption_sentence(entry)
        case "thresholds_set" | "refusal" | "duplicate" | "skip" | "catalog_adopted":
            return ""
        case _:
            assert_never(entry.kind)


def names_of(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> tuple[str | None, str | None]:
    """The names of an entry's feature and model in the catalog that rated it, else their ids."""
    if entry.feature is None:
        return None, None
    catalog = _catalog_of(entry, catalogs)
    feature = catalog.feature(entry.feature)
    if feature is None:
        return entry.feature, entry.model
    model = next((model.name for model in feature.models if model.id == entry.model), entry.model)
    return feature.name, model


def credits_of(entry: LedgerEntry) -> int:
    """How many micro-credits an entry is about; never negative.

    It is what a use charged, a void gave back, was granted, or lapsed with a grant; otherwise 0.
    """
    match entry.kind:
        case "usage" | "void":
            return abs(entry.credits)
        case "grant":
            assert entry.grant is not None, "a grant says what is granted"
            return entry.grant.credits
        case "grant_expired":
            return _lapsed_credits(entry)
        case (
            "renewal"
            | "plan_change"
            | "account_opened"
            | "suspension"
            | "resumption"
            | "thresholds_set"
            | "refusal"
            | "duplicate"
            | "skip"
            | "catalog_adopted"
        ):
            return 0
        case _:
            assert_never(entry.kind)


def _usage_sentence(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    rate, quantity = entry.rate, entry.quantity
    assert rate is not None and quantity is not None, "a use has a rate and a quantity"
    feature, model = names_of(entry, catalogs)
    used = f"{_quantity_text(quantity, rate.unit)} of {model or feature} at {_rate_text(rate)}"
    if entry.is_void_on_arrival:
        return f"{used}. It costs nothing, because it was voided before it arrived."
    charge = f"{used}{_rounding_clause(rate, quantity)}: {_credits_text(entry.credits)}."
    return f"{charge}{_late_clause(entry)}"


def _void_sentence(entry: LedgerEntry) -> str:
    voids = entry.voids
    assert voids is not None, "a void names what it voids"
    why = f" ({voids.reason})" if voids.reason else ""
    if voids.awaits_usage:
        return f"The use {voids.id} was voided{why} before it arrived: it will cost nothing."
    given_back = f"{_credits_text(-entry.credits)} given back."
    return f"The use {voids.id} was voided{why}: {given_back}{_late_clause(entry)}"


def _grant_sentence(entry: LedgerEntry) -> str:
    grant = entry.grant
    assert grant is not None, "a grant says what is granted"
    why = f" ({grant.reason})" if grant.reason else ""
    until = (
        "until they are used"
        if grant.expires_at is None
        else f"until {_date_text(grant.expires_at)}"
    )
    return f"{_credits_text(grant.credits)} granted{why}, to be used beside the allotment {until}."


def _grant_expired_sentence(entry: LedgerEntry) -> str:
    assert entry.grant is not None, "what expires is a grant"
    lapsed = _lapsed_credits(entry)
    left = (
        "all of it had been used"
        if lapsed == 0
        else f"the {_credits_text(lapsed)} that were left of it lapsed"
    )
    return f"A grant of {_credits_text(entry.grant.credits)} expired: {left}."


def _renewal_sentence(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    lapsed = 0 if entry.before is None else max(0, entry.before.allotment - entry.before.used)
    plan, allotment = _plan_text(entry, catalogs), _allotment_text(entry)
    began = f"A new period began on {plan}, with an allotment of {allotment}."
    return (
        f"{began} The {_credits_text(lapsed)} that were left of the one before lapsed."
        if lapsed
        else began
    )


def _plan_change_sentence(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    change = entry.plan_change
    assert change is not None, "a plan change says what changes"
    plan = _plan_text(entry, catalogs)
    if change.opens is not None:
        return f"A new period began on {plan}, with an allotment of {_allotment_text(entry)}."
    if change.next_plan is not None:
        return (
            f"The plan stays {plan} until the next renewal, and is "
            f"{_plan_name(change.next_plan, entry, catalogs)} from then on."
        )
    if change.allotment is not None:
        return (
            f"The plan is {plan} now, with an allotment of {_allotment_text(entry)}. What was used "
            "in the period stays."
        )
    return f"The plan stays {plan}: the change planned for the next renewal was withdrawn."


def _account_opened_sentence(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    used = 0 if entry.after is None else entry.after.used
    brought = f" {_credits_text(used)} of it had been used elsewhere." if used else ""
    return (
        f"The account began on {_plan_text(entry, catalogs)}, with an allotment of "
        f"{_allotment_text(entry)}.{brought}"
    )


def _suspension_sentence(entry: LedgerEntry) -> str:
    return (
        f"The account was suspended{_reason_clause(entry)}: it is blocked until it is resumed, "
        "whatever it has left."
    )


def _resumption_sentence(entry: LedgerEntry) -> str:
    return f"The account is no longer suspended{_reason_clause(entry)}."


def _reason_clause(entry: LedgerEntry) -> str:
    reason = None if entry.suspension is None else entry.suspension.reason
    return f" ({reason})" if reason else ""


def _late_clause(entry: LedgerEntry) -> str:
    """The period in which an entry counts, if it is about a period that had ended."""
    period = entry.period
    if period is None:
        return ""
    if entry.counts_after_its_period:
        return (
            f" It was used in the period that ended on {_date_text(period.start)}. That period did "
            "not have enough credits left for it, so it counts in the next one."
        )
    if not entry.is_late or period.end is None:
        return ""
    return (
        f" It counts in the period that ended on {_date_text(period.end)}, because it was used "
        "then."
    )


def _lapsed_credits(entry: LedgerEntry) -> int:
    before, after = entry.before, entry.after
    return 0 if before is None or after is None else max(0, before.granted - after.granted)


def one_unit(unit: str) -> str:
    """One unit with its article: ``a second``, ``an edit``, ``an hour``."""
    takes_an = unit[:1].lower() in "aeio" or unit.lower() == "hour"
    return f"{'an' if takes_an else 'a'} {unit}"


def _rate_text(rate: Rate) -> str:
    """``7 credits a second``, ``1 credit for each 10 seconds``."""
    if rate.per == 1:
        return f"{_credits_text(rate.credits)} {one_unit(rate.unit)}"
    return f"{_credits_text(rate.credits)} for each {_unit_text(rate)}"


def _rounding_clause(rate: Rate, quantity: Decimal) -> str:
    """How a quantity was charged that is no whole multiple of what the rate is for."""
    if quantity % rate.per == 0:
        return ""
    return (
        ", in proportion"
        if rate.rounding == "exact"
        else f", each begun {_unit_text(rate)} in full"
    )


def _unit_text(rate: Rate) -> str:
    return rate.unit if rate.per == 1 else _quantity_text(rate.per, rate.unit)


def _quantity_text(quantity: Decimal, unit: str) -> str:
    return (
        f"{format_quantity(quantity)} {unit}"
        if quantity == 1
        else f"{format_quantity(quantity)} {unit}s"
    )


def _credits_text(microcredits: int) -> str:
    credits = format_credits(microcredits)
    return f"{credits} credit" if credits == "1" else f"{credits} credits"


def _date_text(at: datetime) -> str:
    return f"{at.day} {at:%B} {at.year}"


def _allotment_text(entry: LedgerEntry) -> str:
    return _credits_text(0 if entry.after is None else entry.after.allotment)


def _plan_text(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    return "" if entry.plan_change is None else _plan_name(entry.plan_change.plan, entry, catalogs)


def _plan_name(plan_id: str, entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    plan = plan_at(catalogs, plan_id, entry.appended_at)
    return plan_id if plan is None else plan.name


def _catalog_of(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> Catalog:
    rated_by = None if entry.catalog_version is None else catalogs.version(entry.catalog_version)
    return rated_by or catalogs.in_force(entry.appended_at)
