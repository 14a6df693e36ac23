"""A ledger entry in plain words: why it came to this many credits, in one or two sentences of
English.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal

from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog import Catalog, Rate
from usageledger.domain.credits import format_credits
from usageledger.domain.entry import LedgerEntry
from usageledger.domain.quantity import format_quantity
from usageledger.domain.renewal import plan_at


def explain(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    """What an entry did to its account, and why.

    ``catalogs``: those adopted, for the names of plans, features and models.
    """
    explained = _EXPLAINED.get(entry.kind)
    return "" if explained is None else explained(entry, catalogs)


def names_of(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> tuple[str | None, str | None]:
    """What the feature and the model of an entry are called, by the catalog that rated it; their
    ids where no catalog says.
    """
    if entry.feature is None:
        return None, None
    catalog = _catalog_of(entry, catalogs)
    feature = catalog.feature(entry.feature)
    if feature is None:
        return entry.feature, entry.model
    model = next((model.name for model in feature.models if model.id == entry.model), entry.model)
    return feature.name, model


def credits_of(entry: LedgerEntry) -> int:
    """How many micro-credits an entry is about, never negative: what a use charged, a void gave
    back, was granted, or lapsed with a grant; 0 for all others.
    """
    if entry.kind == "grant" and entry.grant is not None:
        return entry.grant.credits
    if entry.kind == "grant_expired":
        return _lapsed_with_its_grant(entry)
    return abs(entry.credits)


def _usage(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    rate, quantity = entry.rate, entry.quantity
    assert rate is not None and quantity is not None, "a use has a rate and a quantity"
    feature, model = names_of(entry, catalogs)
    used = f"{_counted(quantity, rate.unit)} of {model or feature} at {_rate(rate)}"
    if entry.is_void_on_arrival:
        return f"{used}. It costs nothing, for it was voided before it came."
    late = (
        ""
        if not entry.is_late or entry.period is None or entry.period.end is None
        else f" {_counted_late(entry.period.end)}"
    )
    return f"{used}{_rounded(rate, quantity)}: {_credits(entry.credits)}.{late}"


def _void(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    voids = entry.voids
    assert voids is not None, "a void names what it voids"
    why = f" ({voids.reason})" if voids.reason else ""
    if voids.awaits_usage:
        return f"The use {voids.id} was voided{why} before it came: it will cost nothing."
    late = (
        ""
        if not entry.is_late or entry.period is None or entry.period.end is None
        else f" {_counted_late(entry.period.end)}"
    )
    return f"The use {voids.id} was voided{why}: {_credits(-entry.credits)} given back.{late}"


def _grant(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    grant = entry.grant
    assert grant is not None, "a grant says what is granted"
    why = f" ({grant.reason})" if grant.reason else ""
    until = (
        "until they are used" if grant.expires_at is None else f"until {_date(grant.expires_at)}"
    )
    return f"{_credits(grant.credits)} granted{why}, to be used beside the allotment {until}."


def _grant_expired(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    assert entry.grant is not None, "what expires is a grant"
    lapsed = _lapsed_with_its_grant(entry)
    left = (
        "all of it had been used"
        if lapsed == 0
        else f"the {_credits(lapsed)} that were left of it lapsed"
    )
    return f"A grant of {_credits(entry.grant.credits)} expired: {left}."


def _renewal(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    lapsed = 0 if entry.before is None else max(0, entry.before.allotment - entry.before.used)
    began = (
        f"A new period began on {_plan(entry, catalogs)}, with an allotment of {_allotment(entry)}."
    )
    return (
        f"{began} The {_credits(lapsed)} that were left of the one before lapsed."
        if lapsed
        else began
    )


def _plan_change(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    change = entry.plan_change
    assert change is not None, "a plan change says what changes"
    plan = _plan(entry, catalogs)
    if change.opens is not None:
        return f"A new period began on {plan}, with an allotment of {_allotment(entry)}."
    if change.next_plan is not None:
        return (
            f"The plan stays {plan} until the next renewal, and is "
            f"{_plan_name(change.next_plan, entry, catalogs)} from then on."
        )
    if change.allotment is not None:
        return (
            f"The plan is {plan} now, with an allotment of {_allotment(entry)}. What was used in "
            "the period stays."
        )
    return f"The plan stays {plan}: the change that waited for the next renewal was taken back."


def _account_opened(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    used = 0 if entry.after is None else entry.after.used
    brought = f" {_credits(used)} of it had been used elsewhere." if used else ""
    return (
        f"The account began on {_plan(entry, catalogs)}, with an allotment of "
        f"{_allotment(entry)}.{brought}"
    )


def _suspension(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    return (
        f"The account was suspended{_why(entry)}: it is blocked until it is resumed, whatever it "
        "has left."
    )


def _resumption(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    return f"The account is suspended no longer{_why(entry)}."


_EXPLAINED: Mapping[str, Callable[[LedgerEntry, AdoptedCatalogs], str]] = {
    "usage": _usage,
    "void": _void,
    "grant": _grant,
    "grant_expired": _grant_expired,
    "renewal": _renewal,
    "plan_change": _plan_change,
    "account_opened": _account_opened,
    "suspension": _suspension,
    "resumption": _resumption,
}


def _why(entry: LedgerEntry) -> str:
    reason = None if entry.suspension is None else entry.suspension.reason
    return f" ({reason})" if reason else ""


def _counted_late(end: datetime) -> str:
    return f"It counts in the period that ended on {_date(end)}, for it was used then."


def _lapsed_with_its_grant(entry: LedgerEntry) -> int:
    before, after = entry.before, entry.after
    return 0 if before is None or after is None else max(0, before.granted - after.granted)


def one_unit(unit: str) -> str:
    """One unit with its article: ``a second``, ``an edit``, ``an hour``."""
    takes_an = unit[:1].lower() in "aeio" or unit.lower() == "hour"
    return f"{'an' if takes_an else 'a'} {unit}"


def _rate(rate: Rate) -> str:
    """``7 credits a second``, ``1 credit for each 10 seconds``."""
    if rate.per == 1:
        return f"{_credits(rate.credits)} {one_unit(rate.unit)}"
    return f"{_credits(rate.credits)} for each {_each(rate)}"


def _rounded(rate: Rate, quantity: Decimal) -> str:
    """What was done to a quantity that is no whole multiple of what the rate is for."""
    if quantity % rate.per == 0:
        return ""
    return ", in proportion" if rate.rounding == "exact" else f", each begun {_each(rate)} in full"


def _each(rate: Rate) -> str:
    return rate.unit if rate.per == 1 else _counted(rate.per, rate.unit)


def _counted(quantity: Decimal, unit: str) -> str:
    return (
        f"{format_quantity(quantity)} {unit}"
        if quantity == 1
        else f"{format_quantity(quantity)} {unit}s"
    )


def _credits(microcredits: int) -> str:
    credits = format_credits(microcredits)
    return f"{credits} credit" if credits == "1" else f"{credits} credits"


def _date(at: datetime) -> str:
    return f"{at.day} {at:%B} {at.year}"


def _allotment(entry: LedgerEntry) -> str:
    return _credits(0 if entry.after is None else entry.after.allotment)


def _plan(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    return "" if entry.plan_change is None else _plan_name(entry.plan_change.plan, entry, catalogs)


def _plan_name(plan_id: str, entry: LedgerEntry, catalogs: AdoptedCatalogs) -> str:
    plan = plan_at(catalogs, plan_id, entry.appended_at)
    return plan_id if plan is None else plan.name


def _catalog_of(entry: LedgerEntry, catalogs: AdoptedCatalogs) -> Catalog:
    rated_by = None if entry.catalog_version is None else catalogs.version(entry.catalog_version)
    return rated_by or catalogs.in_force(entry.appended_at)
