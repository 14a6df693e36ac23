"""May this use start? What an app asks before it spends: a projection of an account's state and
open holds. Amounts are micro-credits.

It promises nothing of what `decide` makes of the use, which is never refused for want of credits:
stopping the account is the app's part.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Literal

import msgspec

from usageledger.domain.account import AccountState
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.balance import untouched_free
from usageledger.domain.catalog import UnknownRate
from usageledger.domain.crossings import upgrade_for
from usageledger.domain.entry import UpgradeOffer
from usageledger.domain.rating import rate_usage
from usageledger.domain.renewal import state_at

NotAllowed = Literal["unknown_account", "suspended", "insufficient_credits"]
"""In this order: of several reasons the first is named."""


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """What an app is about to do."""

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
    """Why it may not start."""
    suspended: str | None = None
    """Why the account is suspended, where it is: then nothing may start, whatever it costs."""
    upgrade: UpgradeOffer | None = None
    """The lowest plan under which it could, beside the open holds; None where it may, and where no
    plan would do.
    """

    @property
    def allowed(self) -> bool:
        """Whether nothing speaks against it."""
        return self.reason is None

    @property
    def available(self) -> int:
        """What neither use nor open holds have taken; negative where more was used than there
        was.
        """
        return self.remaining - self.held


def check_use(
    use: Use,
    *,
    account: str,
    state: AccountState | None,
    held: int,
    at: datetime,
    catalogs: AdoptedCatalogs,
) -> Check | UnknownRate:
    """Whether a use at that time may start.

    ``state`` is the account's as stored; ``at`` never lies before the ledger's clock.

    It is rated as an event that occurs then would be. A use that costs nothing may start whatever
    is left, and one that takes the last credits may; while the account is suspended, none may. An
    account that the ledger does not know is on an untouched Free, or refused where the catalog says
    so.
    """
    rated = catalogs.rate_for(use.feature, use.model, at)
    if isinstance(rated, UnknownRate):
        return rated
    cost = rate_usage(rated.rate, use.quantity)
    catalog = catalogs.in_force(at)
    if state is None and catalog.unknown_accounts == "refuse":
        return Check(cost=cost, remaining=0, held=held, reason="unknown_account")
    rolled = (
        untouched_free(at, catalogs) if state is None else state_at(state, account, at, catalogs)
    )
    check = Check(cost=cost, remaining=rolled.remaining, held=held, suspended=rolled.suspended)
    if rolled.suspended is not None:
        return msgspec.structs.replace(check, reason="suspended")
    if cost == 0 or cost <= check.available:
        return check
    return msgspec.structs.replace(
        check,
        reason="insufficient_credits",
        upgrade=upgrade_for(rolled, catalog, needed=held + cost),
    )
