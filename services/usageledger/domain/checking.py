"""May this use start? A check is made from an account's balance before an app spends anything.

A check promises nothing about the decision on the use: the ledger never refuses a use for want of
credits. Stopping the account is the app's part. Amounts are micro-credits.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import msgspec

from usageledger.domain.balance import Balance
from usageledger.domain.catalog import UnknownRate
from usageledger.domain.entry import UpgradeOffer
from usageledger.domain.rating import rate_usage

NotAllowed = Literal["unknown_account", "suspended", "insufficient_credits"]
"""In order of precedence: of several reasons, the first is given."""


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """A use that an app is about to start."""

    feature: str
    model: str | None = None
    quantity: Decimal = Decimal(1)


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a use may start, and what it would cost.

    ``held`` is what the account's open holds have reserved.
    """

    cost: int
    remaining: int
    held: int
    reason: NotAllowed | None = None
    """Why the use may not start; None if it may."""
    suspended: str | None = None
    """Why the account is suspended; None if it is not. A suspension blocks free uses too."""
    upgrade: UpgradeOffer | None = None
    """The lowest plan under which the use could start, beside the open holds.

    None if the use may start, and if no plan would allow it.
    """

    @property
    def allowed(self) -> bool:
        """Whether the use may start."""
        return self.reason is None

    @property
    def available(self) -> int:
        """The credits left beside the open holds. Negative if holds and use exceed them."""
        return self.remaining - self.held


def check_use(use: Use, balance: Balance) -> Check | UnknownRate:
    """Whether a use may start on this balance; UnknownRate if no catalog has a rate for it.

    The use is rated as an event that occurs at the balance's time would be. A use that costs
    nothing may start whatever is left, and so may one that needs the last credits. While the
    account is suspended, no use may. An account that the ledger does not know is on an untouched
    Free, or is refused if the catalog says so.
    """
    rated = balance.catalogs.rate_for(use.feature, use.model, balance.at)
    if isinstance(rated, UnknownRate):
        return rated
    cost, held = rate_usage(rated.rate, use.quantity), balance.held
    if not balance.is_known and balance.catalog.unknown_accounts == "refuse":
        return Check(cost=cost, remaining=0, held=held, reason="unknown_account")
    check = Check(cost=cost, remaining=balance.remaining, held=held, suspended=balance.suspended)
    if balance.suspended is not None:
        return msgspec.structs.replace(check, reason="suspended")
    if cost == 0 or cost <= check.available:
        return check
    return msgspec.structs.replace(
        check, reason="insufficient_credits", upgrade=balance.upgrade_for(held + cost)
    )
