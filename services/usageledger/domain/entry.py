"""A ledger entry: one immutable line of the log, with everything that explains it.

Amounts are micro-credits.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Literal, assert_never

import msgspec

from usageledger.domain.account import Period
from usageledger.domain.catalog import Rate

Kind = Literal[
    "usage",
    "duplicate",
    "refusal",
    "void",
    "grant",
    "grant_expired",
    "renewal",
    "plan_change",
    "account_opened",
    "suspension",
    "resumption",
    "thresholds_set",
    "catalog_adopted",
    "skip",
]
Topic = Literal["usage", "account", "catalog"]


# gc=False here and in the state: immutable values are in no reference cycle. The garbage collector
# would have millions of them to search.
class InputAddress(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The address of the record that an entry decides.

    The partition is the ledger's own, or 0 for the catalog.
    """

    topic: Topic
    partition: int
    offset: int


class EventReference(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The identity of the event behind an entry.

    It is derived if the ledger acts by itself. ``content`` is a digest of the event's content, and
    ``actor`` who sent it: ``key:ID``, ``token:ID`` or ``user:NAME``.
    """

    source: str
    id: str
    occurred_at: datetime
    content: str | None = None
    actor: str | None = None


class PeriodReference(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The period that an entry counts in. An account's periods are numbered from 0."""

    number: int
    start: datetime
    end: datetime | None


class Figures(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A period's figures: ``remaining = allotment + granted - used``."""

    allotment: int
    granted: int
    used: int
    remaining: int


class Voids(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The usage event that a void cancels.

    ``awaits_usage`` means that it has not arrived yet, and will cost nothing when it does.
    """

    source: str
    id: str
    reason: str
    feature: str | None = None
    entry_offset: int | None = None
    awaits_usage: bool = False


class GrantChange(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A grant that was given, or one that expired.

    ``settled`` is the amount that the period had drawn from an expired one for good.
    """

    source: str
    id: str
    credits: int = 0
    reason: str | None = None
    expires_at: datetime | None = None
    settled: int = 0


class PlanChange(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A change of an account's plan or period.

    ``opens`` is the period that begins, which ends the current one. ``settled`` is what the ended
    one drew from grants, as (source, id, micro-credits). Without ``opens``, the account is on
    another plan from now on (``plan``, with ``allotment``) or from the next renewal
    (``next_plan``).
    """

    plan: str
    next_plan: str | None = None
    allotment: int | None = None
    opens: Period | None = None
    settled: tuple[tuple[str, str, int], ...] = ()
    time_zone: str | None = None
    anchor: datetime | None = None
    free_left: int | None = None
    counted_from: datetime | None = None


class SuspensionChange(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Why an account is suspended or resumed, and a note about it."""

    reason: str | None = None
    note: str | None = None


class UpgradeOffer(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The lowest plan above the account's that would leave it with credits."""

    plan: str
    name: str
    price_cents: int
    allotment: int


class Crossing(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A limit that the entry crosses.

    It has everything that a limit event says, so the limits consumer needs no state of its own.
    """

    type: Literal["limit.threshold", "limit.reached", "limit.cleared"]
    reason: Literal[
        "usage",
        "renewed",
        "plan_changed",
        "granted",
        "grant_expired",
        "voided",
        "suspended",
        "resumed",
    ]
    plan: str
    period: PeriodReference
    figures: Figures
    threshold: str | None = None
    action: Literal["block", "prompt_upgrade"] | None = None
    upgrade: UpgradeOffer | None = None
    suspended: str | None = None
    """Why the account is suspended, or None. No upgrade frees a suspended account."""


class InputRun(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Records in a row that one entry decides: malformed ones, or a batch that cannot be read.

    They begin at ``first_offset``; the entry's input is the last of them. ``records`` counts them.
    Of malformed ones, ``reasons`` counts the rules that they broke, and offsets between them may
    hold no record. Of an unreadable batch that an operator skipped, ``records`` counts offsets, and
    ``reasons`` is empty.
    """

    first_offset: int
    records: int
    reasons: dict[str, int]


class LedgerEntry(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One line of the ledger.

    ``partition`` and ``offset`` are its address. A record at another offset than it names is no
    entry. ``decide`` returns drafts, with offset -1 and no previous hash; `chain` seals them.
    """

    kind: Kind
    appended_at: datetime
    partition: int = -1
    offset: int = -1
    account: str = ""
    input: InputAddress | None = None
    event: EventReference | None = None
    period: PeriodReference | None = None
    is_late: bool = False
    """Whether the use or the void counts in the previous period."""
    feature: str | None = None
    model: str | None = None
    quantity: Decimal | None = None
    rate: Rate | None = None
    catalog_version: str | None = None
    credits: int = 0
    is_void_on_arrival: bool = False
    hold_id: str | None = None
    before: Figures | None = None
    after: Figures | None = None
    voids: Voids | None = None
    grant: GrantChange | None = None
    plan_change: PlanChange | None = None
    suspension: SuspensionChange | None = None
    thresholds: tuple[Decimal, ...] | None = None
    """Of a ``thresholds_set``: the account's own, or None if it has its plan's again."""
    reason: str | None = None
    """Why an input was refused (the rule's name), or why an operator skipped it."""
    detail: str | None = None
    run: InputRun | None = None
    """Of a refusal of several malformed records."""
    crossings: tuple[Crossing, ...] = ()
    previous_hash: str = ""

    @property
    def input_offsets(self) -> range:
        """The offsets of its input's topic that it decides; empty without an input."""
        if self.input is None:
            return range(0)
        first = self.input.offset if self.run is None else self.run.first_offset
        return range(first, self.input.offset + 1)

    @property
    def input_records(self) -> int:
        """How many records of its input's topic it decides."""
        if self.run is not None:
            return self.run.records
        return 0 if self.input is None else 1

    @property
    def counts_after_its_period(self) -> bool:
        """Whether a late use counts in the current period.

        The one in which it occurred had ended with fewer credits left than the use costs.
        """
        return (
            self.kind == "usage"
            and not self.is_late
            and self.event is not None
            and self.period is not None
            and self.period.number > 0
            and self.event.occurred_at < self.period.start
        )

    @property
    def changes_its_account(self) -> bool:
        """Whether it has an account whose state it can change."""
        match self.kind:
            case "refusal" | "duplicate" | "skip" | "catalog_adopted":
                return False
            case (
                "usage"
                | "void"
                | "grant"
                | "grant_expired"
                | "renewal"
                | "plan_change"
                | "account_opened"
                | "suspension"
                | "resumption"
                | "thresholds_set"
            ):
                return self.account != ""
            case _:
                assert_never(self.kind)
