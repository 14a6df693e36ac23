"""A gate for the tests of programs that ask before they generate, by the ledger's own rules.

Its accounts and holds are in memory.

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
from usageledger.sdk.gate.arguments import Quantity, valid_account, valid_use
from usageledger.sdk.gate.gates import AsyncUsageGate, OnUnavailable, UsageGate

T = TypeVar("T")

_SOURCE = "/tests"
_HEAD = encode(Head(ledger="memory"))


class InMemoryGate(UsageGate):
    """`UsageGate` without a ledger behind it.

    Accounts that are not opened are on Free; ``catalog`` is the shipped one unless given.

    While ``is_available`` is False no answer comes, as in an outage. ``now`` is its time, for tests
    that let time pass.
    """

    def __init__(
        self,
        *,
        on_unavailable: OnUnavailable = "deny",
        catalog: Catalog | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._memory = _MemoryTransport(load_shipped_catalog() if catalog is None else catalog, now)
        self._transport = self._memory
        self._on_unavailable = on_unavailable

    @property
    def is_available(self) -> bool:
        """Whether questions are run."""
        return self._memory.is_available

    @is_available.setter
    def is_available(self, value: bool) -> None:
        self._memory.is_available = value

    def open(self, account: str, *, plan: str = "free", used: str | int = 0) -> None:
        """Put an account on a plan, with ``used`` credits used in its period.

        An account that exists already begins anew. Raises InvalidUse for a plan that the catalog
        does not have.
        """
        self._memory.forget(valid_account(account))
        self._memory.record(
            AccountOpened(**self._header(account, "open"), plan=plan, used=parse_credits(used))
        )

    def suspend(self, account: str, reason: str = "payment_failed") -> None:
        """Suspend an account."""
        self._memory.record(AccountSuspended(**self._header(account, "suspend"), reason=reason))

    def use(
        self,
        account: str,
        feature: str,
        model: str | None = None,
        quantity: Quantity = 1,
        *,
        hold_id: str | None = None,
    ) -> None:
        """Charge a use as if it had been reported; this settles the hold that it names."""
        use = valid_use(feature, model, quantity)
        header = self._header(account, "use")
        self._memory.record(
            UsageRecorded(
                **header,
                feature=use.feature,
                model=use.model,
                quantity=use.quantity,
                hold_id=hold_id,
            )
        )

    def for_asyncio(self) -> AsyncUsageGate:
        """The same gate, with the same accounts and holds, as an `AsyncUsageGate`."""
        return _AsyncInMemoryGate(self._memory, self._on_unavailable)

    def _header(self, account: str, kind: str) -> dict[str, Any]:
        event_id = f"{kind}-{self._memory.events}"
        return {
            "account": valid_account(account),
            "source": _SOURCE,
            "id": event_id,
            "occurred_at": self._memory.clock.now(),
        }


class _AsyncInMemoryGate(AsyncUsageGate):
    def __init__(self, memory: _MemoryTransport, on_unavailable: OnUnavailable) -> None:
        self._transport = _AsyncMemoryTransport(memory)
        self._on_unavailable = on_unavailable


class _MemoryTransport:
    """See `Transport`."""

    def __init__(self, catalog: Catalog, now: Callable[[], datetime]) -> None:
        self.clock = Clock(now)
        self.is_available = True
        self.events = 0
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
        return release_answer(account, hold_id, self._run(release_query(account, hold_id, ())))

    def close(self) -> None:
        """Nothing to close."""

    def forget(self, account: str) -> None:
        """Forget an account, so that it is unknown."""
        self._view.stored_accounts.pop(account, None)

    def record(self, event: AnyEvent) -> None:
        """Decide an event as the ledger does. Raises InvalidUse if it is refused."""
        self.events += 1
        stored = self._view.stored_accounts.get(event.account)
        state = None if stored is None else decode_account(stored)
        decision = decide(
            event, state=state, identity=None, appended_at=self.clock.now(), catalogs=self._catalogs
        )
        if decision.entries[-1].kind == "refusal" or decision.state is None:
            raise InvalidUse(f"the ledger refuses this: {decision.entries[-1].reason}")
        self._view.stored_accounts[event.account] = encode(decision.state)
        if isinstance(event, UsageRecorded) and event.hold_id is not None:
            self._view.settle([(event.account, event.hold_id, event.source)])

    def _run(self, query: Query[T]) -> T:
        if not self.is_available:
            raise GateUnavailable("is_available is False")
        # The counters are always up to date.
        self._view.stored_head = StoredHead(Position(0, ""), _HEAD, self._view.now_ms())

        def answer(step: Step) -> Any:
            return self._catalogs if isinstance(step, CatalogsUpTo) else self._view.ask(step)

        try:
            return run(query, answer)
        except NoRate as error:
            raise UnknownUse(str(error), error.reason) from error


class _AsyncMemoryTransport:
    """See `AsyncTransport`."""

    def __init__(self, memory: _MemoryTransport) -> None:
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
        """Nothing to close."""
