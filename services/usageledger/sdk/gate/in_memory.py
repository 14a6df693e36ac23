"""A gate for the tests of programs that ask before they generate: accounts and holds lie in memory,
the rules are the ledger's.

::

    gate = InMemoryGate()
    gate.open("acct_1", plan="pro", used="190")
    start_render(job, gate=gate)
    assert gate.check("acct_1", "genai_video", "veo_3").available == 10
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from usageledger.accounts.queries import (
    CatalogsUpTo,
    Clock,
    NoRate,
    Query,
    Step,
    check_query,
    hold_query,
    quote_query,
    release_query,
    run,
)
from usageledger.counters.memory import MemoryView
from usageledger.counters.view import Position, StoredHead
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog import Catalog
from usageledger.domain.catalog_document import load_shipped_catalog
from usageledger.domain.checking import Use
from usageledger.domain.credits import parse_credits
from usageledger.domain.decide import decide
from usageledger.domain.encoding import decode_account, encode
from usageledger.domain.events import AccountOpened, AccountSuspended, AnyEvent, UsageRecorded
from usageledger.domain.head import Head
from usageledger.ledger.timestamps import milliseconds
from usageledger.sdk.gate.answers import (
    CheckAnswer,
    GateUnavailable,
    HoldAnswer,
    InvalidUse,
    QuoteAnswer,
    ReleaseAnswer,
    UnknownUse,
    check_answer,
    hold_answer,
    quote_answer,
    release_answer,
)
from usageledger.sdk.gate.arguments import Quantity, account_named, use_asked
from usageledger.sdk.gate.gates import AsyncUsageGate, OnUnavailable, UsageGate

T = TypeVar("T")

_SOURCE = "/tests"


_HEAD = encode(Head(ledger="memory"))


class InMemoryGate(UsageGate):
    """`UsageGate` without a ledger behind it.

    Accounts that are not opened are on Free; ``catalog`` is the shipped one unless given.

    ``is_available``: while it is False nobody answers, as in an outage. ``now``: its time, for
    tests that let it pass.
    """

    def __init__(
        self,
        *,
        on_unavailable: OnUnavailable = "deny",
        catalog: Catalog | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._memory = _MemoryWay(load_shipped_catalog() if catalog is None else catalog, now)
        self._way = self._memory
        self._on_unavailable = on_unavailable

    @property
    def is_available(self) -> bool:
        """Whether questions are run."""
        return self._memory.is_available

    @is_available.setter
    def is_available(self, value: bool) -> None:
        self._memory.is_available = value

    def open(self, account: str, *, plan: str = "free", used: str | int = 0) -> None:
        """Have an account be on a plan, ``used`` credits into its period; one that is there already
        begins anew.

        Raises InvalidUse for a plan that the catalog does not have.
        """
        self._memory.forget(account_named(account))
        self._memory.tell(
            AccountOpened(**self._header(account, "open"), plan=plan, used=parse_credits(used))
        )

    def suspend(self, account: str, reason: str = "payment_failed") -> None:
        """Suspend an account."""
        self._memory.tell(AccountSuspended(**self._header(account, "suspend"), reason=reason))

    def use(
        self,
        account: str,
        feature: str,
        model: str | None = None,
        quantity: Quantity = 1,
        *,
        hold_id: str | None = None,
    ) -> None:
        """Have a use be charged, as when it has been reported; it settles the hold that it
        names.
        """
        use = use_asked(feature, model, quantity)
        header = self._header(account, "use")
        self._memory.tell(
            UsageRecorded(
                **header,
                feature=use.feature,
                model=use.model,
                quantity=use.quantity,
                hold_id=hold_id,
            )
        )

    def for_asyncio(self) -> AsyncUsageGate:
        """The same gate, of the same accounts and holds, as an `AsyncUsageGate`."""
        return _AsyncInMemoryGate(self._memory, self._on_unavailable)

    def _header(self, account: str, what: str) -> dict[str, Any]:
        name = f"{what}-{self._memory.told}"
        return {
            "account": account_named(account),
            "source": _SOURCE,
            "id": name,
            "occurred_at": self._memory.clock.now(),
        }


class _AsyncInMemoryGate(AsyncUsageGate):
    def __init__(self, memory: _MemoryWay, on_unavailable: OnUnavailable) -> None:
        self._way = _AsyncMemoryWay(memory)
        self._on_unavailable = on_unavailable


class _MemoryWay:
    """See `Way`."""

    def __init__(self, catalog: Catalog, now: Callable[[], datetime]) -> None:
        self.clock = Clock(now)
        self.is_available = True
        self.told = 0
        self._catalogs = AdoptedCatalogs((catalog,))
        self._view = MemoryView(now_ms=lambda: milliseconds(now()))

    def prepare(self) -> None:
        self._run(quote_query([], self.clock))

    def check(self, account: str, use: Use) -> CheckAnswer:
        return check_answer(self._run(check_query(account, use, self.clock)))

    def quote(self, uses: Sequence[Use]) -> QuoteAnswer:
        return quote_answer(self._run(quote_query(uses, self.clock)))

    def hold(self, account: str, hold_id: str, use: Use, life_s: int) -> HoldAnswer:
        return hold_answer(
            self._run(hold_query(account, hold_id, use, life_s * 1_000, self.clock)), hold_id
        )

    def release(self, account: str, hold_id: str) -> ReleaseAnswer:
        return release_answer(account, hold_id, self._run(release_query(account, hold_id)))

    def close(self) -> None:
        """There is nothing to let go of."""

    def forget(self, account: str) -> None:
        """Have an account be one that nobody knows."""
        self._view.stored_accounts.pop(account, None)

    def tell(self, event: AnyEvent) -> None:
        """Decide an event as the ledger does. Raises InvalidUse where it is refused."""
        self.told += 1
        stored = self._view.stored_accounts.get(event.account)
        state = None if stored is None else decode_account(stored)
        decision = decide(
            event, state=state, identity=None, appended_at=self.clock.now(), catalogs=self._catalogs
        )
        if decision.entries[-1].kind == "refusal" or decision.state is None:
            raise InvalidUse(f"the ledger refuses that: {decision.entries[-1].reason}")
        self._view.stored_accounts[event.account] = encode(decision.state)
        if isinstance(event, UsageRecorded) and event.hold_id is not None:
            self._view.settle([(event.account, event.hold_id)])

    def _run(self, query: Query[T]) -> T:
        if not self.is_available:
            raise GateUnavailable("is_available is False")
        # Counters that are always up to date.
        self._view.stored_head = StoredHead(Position(0, ""), _HEAD, self._view.now_ms())

        def answer(step: Step) -> Any:
            return self._catalogs if isinstance(step, CatalogsUpTo) else self._view.ask(step)

        try:
            return run(query, answer)
        except NoRate as error:
            raise UnknownUse(str(error), error.reason) from error


class _AsyncMemoryWay:
    """See `AsyncWay`."""

    def __init__(self, memory: _MemoryWay) -> None:
        self._memory = memory

    async def prepare(self) -> None:
        self._memory.prepare()

    async def check(self, account: str, use: Use) -> CheckAnswer:
        return self._memory.check(account, use)

    async def quote(self, uses: Sequence[Use]) -> QuoteAnswer:
        return self._memory.quote(uses)

    async def hold(self, account: str, hold_id: str, use: Use, life_s: int) -> HoldAnswer:
        return self._memory.hold(account, hold_id, use, life_s)

    async def release(self, account: str, hold_id: str) -> ReleaseAnswer:
        return self._memory.release(account, hold_id)

    async def close(self) -> None:
        """There is nothing to let go of."""
