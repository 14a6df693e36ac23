"""Every message on the wire: CloudEvents 1.0, JSON, structured mode. `contracts.schemas` writes
their JSON Schemas from these models.

Readers pass over fields that they do not know, so a field can be added; none is taken away or given
another meaning under its type.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, WithJsonSchema

from usageledger.contracts.catalog_message import CatalogPublished
from usageledger.contracts.fields import (
    Credits,
    CreditsAboveZero,
    CreditsFromZero,
    CycleTime,
    Microcredits,
    Name,
    Offset,
    Partition,
    Quantity,
    Sha256,
    Thresholds,
    Time,
    TimeAsWritten,
)


class Part(BaseModel):
    """A part of a message. Immutable; unknown fields are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


# Nobody who decides anything looks at it, so nothing is refused for it.
_ContentType = Annotated[Any, WithJsonSchema({"type": "string", "default": "application/json"})]


class CloudEvent(Part):
    """What every message has."""

    specversion: Literal["1.0"]
    id: Name
    source: Name
    datacontenttype: _ContentType = "application/json"


class InputEvent(CloudEvent):
    """What usage and account events have.

    Account (``subject``) + source + id is an event's identity; its record's key is the account.
    """

    source: Name = Field(
        description="The service that reports it, never a process of it: part of the identity."
    )
    subject: Name = Field(description="The account.")
    time: Time = Field(description="When it occurred.")
    recordedtime: TimeAsWritten | None = Field(
        default=None, description="When the worker or service made the event."
    )


# usage.events
# ------------------------------------------------------------------------------------------


class UsageData(Part):
    """One reported use.

    Feature, model and quantity are its content: the same identity with other content is refused.
    """

    feature: Name
    model: Name | None = None
    quantity: Quantity
    hold_id: Name | None = Field(default=None, description="The hold that this use settles.")
    dimensions: dict[str, str] | None = Field(
        default=None, description="For reports; they change no charge."
    )


class UsageRecorded(InputEvent):
    """A generation worker reports one use of a feature."""

    type: Literal["usage.recorded"]
    data: UsageData


# account.events
# ------------------------------------------------------------------------------------------


class OpenedData(Part):
    """What an account had used, as of when."""

    plan: Name
    anchor: CycleTime | None = Field(default=None, description="When its billing cycle began.")
    time_zone: str | None = Field(default=None, description="An IANA name; UTC if absent.")
    used: CreditsFromZero | None = Field(
        default=None, description="Credits used in the current period."
    )
    free_used: CreditsFromZero | None = Field(
        default=None, description="Credits used of Free's once-in-a-life allotment."
    )
    as_of: CycleTime | None = Field(
        default=None,
        description="What occurred before this is in `used`; the event's time if absent.",
    )


class AccountOpened(InputEvent):
    """An account is brought in mid-cycle, without its history. Only as an account's first event."""

    type: Literal["account.opened"]
    data: OpenedData


class SubscribedData(Part):
    """The plan, and the billing cycle's day and time of day."""

    plan: Name
    time_zone: str | None = Field(default=None, description="An IANA name; UTC if absent.")
    anchor: CycleTime | None = Field(
        default=None, description="When the billing cycle begins; the event's time if absent."
    )


class AccountSubscribed(InputEvent):
    """A paid subscription begins, with a fresh cycle."""

    type: Literal["account.subscribed"]
    data: SubscribedData


class PlanChangedData(Part):
    """The plan that the account is to be on."""

    plan: Name


class PlanChanged(InputEvent):
    """An upgrade takes effect at once, a downgrade at the next renewal."""

    type: Literal["account.plan_changed"]
    data: PlanChangedData


class CancelledData(Part):
    """When the subscription ends."""

    effective: Literal["period_end", "now"] = "period_end"


class AccountCancelled(InputEvent):
    """The subscription ends; the account falls back to Free."""

    type: Literal["account.cancelled"]
    data: CancelledData


class SuspendedData(Part):
    """Why the account is suspended."""

    reason: Name = Field(
        description="A word or a few, such as `payment_failed` or `fraud`: limit events carry it "
        "to apps."
    )
    note: str | None = Field(default=None, description="For the ledger alone.")


class AccountSuspended(InputEvent):
    """The account is blocked, whatever it has left, until it is resumed."""

    type: Literal["account.suspended"]
    data: SuspendedData


class ResumedData(Part):
    """What was settled, if there is something to say."""

    reason: Name | None = None
    note: str | None = Field(default=None, description="For the ledger alone.")


class AccountResumed(InputEvent):
    """The account is suspended no longer; it is free if something remains to it."""

    type: Literal["account.resumed"]
    data: ResumedData


class ThresholdsSetData(Part):
    """The shares of what a period has whose crossing is announced."""

    thresholds: Thresholds


class ThresholdsSet(InputEvent):
    """The account has thresholds of its own, or its plan's again.

    Nothing is announced by that; the next crossing is.
    """

    type: Literal["account.thresholds_set"]
    data: ThresholdsSetData


class GrantedData(Part):
    """How much, why, and until when."""

    credits: CreditsAboveZero
    reason: str = ""
    expires_at: CycleTime | None = Field(
        default=None, description="Usable before this; until used if absent."
    )


class CreditsGranted(InputEvent):
    """Support or a promotion adds credits."""

    type: Literal["credits.granted"]
    data: GrantedData


class VoidedData(Part):
    """The source and id of the usage event."""

    source: Name
    id: Name
    reason: str = ""


class UsageVoided(InputEvent):
    """An earlier usage event of the account, or one that is still to arrive, is to cost nothing."""

    type: Literal["usage.voided"]
    data: VoidedData


# catalog
# ------------------------------------------------------------------------------------------


class CatalogPublishedMessage(CloudEvent):
    """A version of plans and rates is published."""

    type: Literal["catalog.published"]
    data: CatalogPublished


# ledger.entries
# ------------------------------------------------------------------------------------------


class ClaimData(Part):
    """Who appends from now on, to which ledger, deciding by which rules."""

    partition: Partition
    ledger: str = Field(description="The id that the partition's first claim gave the ledger.")
    worker: str
    decide: StrictInt = Field(ge=1, description="The version of the rules.")
    tzdata: str = Field(description="The version of the time zone data.")
    partitions: StrictInt = Field(
        default=0,
        ge=0,
        description="How many partitions the ledger has, which never changes; 0 if not said.",
    )


class LedgerClaim(CloudEvent):
    """A worker claims a ledger partition: what others append afterwards lies further on than it
    names, so it does not exist.
    """

    type: Literal["ledger.claim"]
    data: ClaimData


class InputAddressData(Part):
    """Where the record lies that an entry decides on."""

    topic: Literal["usage", "account", "catalog"]
    partition: Partition
    offset: Offset


class EventReferenceData(Part):
    """The event behind an entry; derived for what the ledger does by itself."""

    source: str
    id: str
    occurred_at: Time
    content: str | None = Field(default=None, description="A digest of what the event says.")


class PeriodReferenceData(Part):
    """A period, `[start, end)`, and its number in the account."""

    number: StrictInt
    start: Time
    end: Time | None


class FiguresData(Part):
    """A period's figures: remaining = allotment + granted - used."""

    allotment: Microcredits
    granted: Microcredits
    used: Microcredits
    remaining: Microcredits


class RateData(Part):
    """What a use costs: `credits` for each `per` units."""

    credits: Microcredits
    unit: str
    per: Quantity
    rounding: Literal["up", "exact"]
    note: str | None


class VoidsData(Part):
    """The usage that a void cancels."""

    source: str
    id: str
    reason: str
    feature: str | None = None
    entry_offset: Offset | None = Field(
        default=None, description="Where the entry lies that charged it."
    )
    awaits_usage: StrictBool = Field(
        default=False, description="The usage has not arrived, and will cost nothing when it does."
    )


class GrantChangeData(Part):
    """A grant given, or one that expired."""

    source: str
    id: str
    credits: Microcredits = 0
    reason: str | None = None
    expires_at: Time | None = None
    settled: Microcredits = Field(
        default=0, description="Micro-credits that the period had drawn from it for good."
    )


class PeriodData(Part):
    """A period that begins."""

    number: StrictInt
    start: Time
    end: Time | None
    plan: str
    allotment: Microcredits
    used: Microcredits = 0
    by_feature: dict[str, Microcredits] = {}
    settled: Microcredits = 0
    announced: tuple[tuple[str, Microcredits], ...] = ()
    is_free: StrictBool = False
    is_first: StrictBool = False


class PlanChangeData(Part):
    """What becomes of the plan."""

    plan: str
    next_plan: str | None = Field(
        default=None, description="The plan that the next renewal brings."
    )
    allotment: Microcredits | None = None
    opens: PeriodData | None = None
    settled: tuple[tuple[str, str, Microcredits], ...] = Field(
        default=(),
        description="What the ended period drew for good: source and id of the grant, "
        "micro-credits.",
    )
    time_zone: str | None = None
    anchor: Time | None = None
    free_left: Microcredits | None = None
    counted_from: Time | None = None


class SuspensionChangeData(Part):
    """Why an account is suspended, or is so no longer."""

    reason: str | None = None
    note: str | None = None


class UpgradeOfferData(Part):
    """The lowest plan above the account's that leaves it with credits."""

    plan: str
    name: str
    price_cents: StrictInt
    allotment: Microcredits


_CrossingType = Literal["limit.threshold", "limit.reached", "limit.cleared"]
_Reason = Literal[
    "usage", "renewed", "plan_changed", "granted", "grant_expired", "voided", "suspended", "resumed"
]
_Action = Literal["block", "prompt_upgrade"]


class CrossingData(Part):
    """A limit that the entry crosses."""

    type: _CrossingType
    reason: _Reason
    plan: str
    period: PeriodReferenceData
    figures: FiguresData
    threshold: str | None = None
    action: _Action | None = None
    upgrade: UpgradeOfferData | None = None
    suspended: str | None = Field(
        default=None, description="Why the account is suspended, where it is."
    )


class EntryData(Part):
    """One line of the ledger. Fields that hold their default are left out."""

    kind: Literal[
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
    appended_at: Time = Field(
        description="The ledger's time: when Kafka took the input; it never falls within a "
        "partition."
    )
    partition: Partition
    offset: Offset = Field(
        description="A record that lies at another offset than it names is no entry."
    )
    account: str = ""
    input: InputAddressData | None = None
    event: EventReferenceData | None = None
    period: PeriodReferenceData | None = None
    is_late: StrictBool = Field(default=False, description="It counts in the previous period.")
    feature: str | None = None
    model: str | None = None
    quantity: Quantity | None = None
    rate: RateData | None = None
    catalog_version: str | None = None
    credits: Microcredits = Field(
        default=0, description="Micro-credits charged; negative where they are given back."
    )
    is_void_on_arrival: StrictBool = False
    hold_id: str | None = None
    before: FiguresData | None = None
    after: FiguresData | None = None
    voids: VoidsData | None = None
    grant: GrantChangeData | None = None
    plan_change: PlanChangeData | None = None
    suspension: SuspensionChangeData | None = None
    thresholds: Thresholds = Field(
        default=None,
        description="Of a `thresholds_set`: the account's own; absent where it has its plan's "
        "again.",
    )
    reason: str | None = Field(
        default=None, description="The rule for which an input was refused, or why it was skipped."
    )
    detail: str | None = None
    crossings: tuple[CrossingData, ...] = ()
    previous_hash: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = Field(
        default="",
        description="The hash of the partition's entry before this one; absent in the first.",
    )
    hash: Sha256 = Field(
        description="SHA-256 of this object's bytes without this field, which is the last."
    )


class LedgerEntry(CloudEvent):
    """An entry of the ledger: what became of an input, or what time brought."""

    type: Literal["ledger.entry"]
    subject: Name | None = Field(
        default=None, description="The account; absent where the entry is of none."
    )
    time: Time
    data: EntryData


# limit.events
# ------------------------------------------------------------------------------------------


class PeriodTimes(Part):
    """The billing period, `[start, end)`. Free's has no end."""

    start: Time
    end: Time | None


class UpgradeData(Part):
    """The lowest plan that would leave the account with credits."""

    plan: str
    name: str
    price_cents: StrictInt
    allotment: Credits


class CrossedBy(Part):
    """The event that crossed the limit; derived for a renewal or an expiry."""

    source: str
    id: str
    occurred_at: Time


class EntryAddress(Part):
    """Which entry of the ledger, and which of its crossings.

    What is not beyond the last one seen of a partition is a repeat.
    """

    partition: Partition
    offset: Offset
    index: StrictInt = Field(ge=0)
    crossings: StrictInt = Field(ge=1, description="How many crossings the entry has.")


class SuspensionData(Part):
    """Why the account is suspended."""

    reason: str


class LimitData(Part):
    """All that an app needs to act."""

    account: str
    plan: str
    period: PeriodTimes
    used: Credits
    remaining: Credits
    allotment: Credits
    granted: Credits
    threshold: str | None = Field(
        description="The share of `used + remaining` that was crossed, such as '0.8'; null for the "
        "limit itself."
    )
    reason: _Reason
    action: _Action | None
    upgrade: UpgradeData | None = Field(
        description="Null where no plan would free the account, as while it is suspended."
    )
    suspension: SuspensionData | None = Field(
        default=None, description="Null unless the account is suspended."
    )
    resets_at: Time | None = Field(description="When the period ends; null on Free.")
    crossed_by: CrossedBy | None
    entry: EntryAddress


class LimitEvent(CloudEvent):
    """What the three limit events have.

    The id is the entry's address, the time is when the entry's input was appended.
    """

    subject: Name = Field(description="The account.")
    time: Time
    data: LimitData


class LimitThreshold(LimitEvent):
    """The account's use has come to a share of what its period has."""

    type: Literal["limit.threshold"]


class LimitReached(LimitEvent):
    """The account is blocked: nothing remains to it, or it is suspended."""

    type: Literal["limit.reached"]


class LimitCleared(LimitEvent):
    """The account is blocked no longer: something remains to it, and it is not suspended."""

    type: Literal["limit.cleared"]


MESSAGES: dict[str, type[CloudEvent]] = {
    "usage.recorded": UsageRecorded,
    "account.opened": AccountOpened,
    "account.subscribed": AccountSubscribed,
    "account.plan_changed": PlanChanged,
    "account.cancelled": AccountCancelled,
    "account.suspended": AccountSuspended,
    "account.resumed": AccountResumed,
    "account.thresholds_set": ThresholdsSet,
    "credits.granted": CreditsGranted,
    "usage.voided": UsageVoided,
    "catalog.published": CatalogPublishedMessage,
    "ledger.claim": LedgerClaim,
    "ledger.entry": LedgerEntry,
    "limit.threshold": LimitThreshold,
    "limit.reached": LimitReached,
    "limit.cleared": LimitCleared,
}
"""Every message by its CloudEvents type."""
