"""Whether every account of the new ledger is as it was in the old one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from usageledger.counters.holding import Hold
from usageledger.domain.account import AccountState
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.balance import Balance, balance_at
from usageledger.domain.credits import format_credits
from usageledger.domain.quantity import format_quantity

ABSENT = "–"


class Difference(NamedTuple):
    """One thing about an account that came out otherwise, in words."""

    account: str
    what: str
    old: str
    new: str


def account_differences(
    old: Mapping[str, AccountState],
    new: Mapping[str, AccountState],
    at: datetime,
    catalogs: AdoptedCatalogs,
) -> Iterator[Difference]:
    """The differences between the accounts of two ledgers, each account rolled to ``at``.

    Every account of either ledger is compared, and the whole of its state.
    """
    for account in sorted(old.keys() | new.keys()):
        states = (old.get(account), new.get(account))
        if None in states:
            known = ["known" if state is not None else ABSENT for state in states]
            yield Difference(account, "account", *known)
            continue
        before, after = (balance_at(account, state, at, catalogs) for state in states)
        if before.state == after.state:
            continue
        shown_before, shown_after = _figures(before), _figures(after)
        differing = [name for name, text in shown_before.items() if text != shown_after[name]]
        for name in differing:
            yield Difference(account, name, shown_before[name], shown_after[name])
        if not differing:
            yield Difference(account, "state", str(before.state), str(after.state))


def hold_differences(
    old: Mapping[tuple[str, str], Hold], new: Mapping[tuple[str, str], Hold]
) -> Iterator[Difference]:
    """The differences between the open holds of two ledgers, by account and id.

    When a hold ends is not compared: it is placed again with the time that it has left.
    """
    for account, id_ in sorted(old.keys() | new.keys()):
        texts = [_hold_text(holds.get((account, id_))) for holds in (old, new)]
        if texts[0] != texts[1]:
            yield Difference(account, f"hold {id_}", *texts)


def _figures(balance: Balance) -> dict[str, str]:
    state = balance.state
    amounts = {
        "allotment": balance.allotment,
        "granted": balance.granted,
        "used": balance.used,
        "remaining": balance.remaining,
    }
    return {
        "plan": state.plan,
        "next plan": state.next_plan or ABSENT,
        "period": f"{state.period.number}: {state.period.start} to {state.period.end or ABSENT}",
        **{name: format_credits(amount) for name, amount in amounts.items()},
        "used by feature": ", ".join(
            f"{feature} {format_credits(used)}" for feature, used in balance.by_feature.items()
        ),
        "grants": ", ".join(
            f"{grant.source} {grant.id}: {format_credits(left)} until {grant.expires_at or ABSENT}"
            for grant, left in balance.grants
        ),
        "blocked": balance.block_reason or "no",
        "thresholds": ", ".join(map(format_quantity, balance.thresholds)),
    }


def _hold_text(hold: Hold | None) -> str:
    if hold is None:
        return ABSENT
    return f"{format_credits(hold.credits)} for {hold.content.decode()} by {hold.holder or ABSENT}"
