"""Every message on the wire: CloudEvents 1.0, JSON, structured mode.

`contracts.schemas` writes the JSON Schemas from these models. Readers ignore fields that they do
not know, so a field can be added. No field of a type is removed or given another meaning.
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
    """A part of a message. It is immutable. Unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


# No decision depends on it, so nothing is refused for it.
_ContentType = Annotated[Any, WithJsonSchema({"type": "string", "default": "application/json"})]


class CloudEvent(Part):
    """The fields of every message."""

    specversion: Literal["1.0"]
    id: Name
    source: Name
    datacontenttype: _ContentType = "application/json"


class InputEvent(CloudEvent):
    """The fields of usage and account events.

    Account (``subject``) + source + id is an event's identity. Its record's key is the account.
    """

    source: Name = Field(
        description="The service that reports the event, never one of its processes: it is part "
        "of the identity."
    )
    subject: Name = Field(description="The account.")
    time: Time = Field(description="When the event occurred.")
    recordedtime: TimeAsWritten | None = Field(
        default=None, description="When the worker or service made the event."
    )
    actor: Name | None = Field(
        default=None,
        description="Who sent the event: `key:ID`, `token:ID` or `user:NAME`. The gateway sets it. "
        "It is neither identity nor content.",
    )


# usage.events
# ------------------------------------------------------------------------------------------


class UsageData(Part):
    """One reported use.

    Feature, model and quantity are its content. The same identity with other content is refused.
    """

    feature: Name
    model: Name | None = None
    quantity: Quantity
    hold_id: Name | None = Field(default=None, description="The hold that this use settles.")
    dimensions: dict[str, str] | None = Field(
        default=None, description="For reports. They change no charge."
    )


class UsageRecorded(InputEvent):
    """A generation worker reports one use of a feature."""

    type: Literal["usage.recorded"]
    data: UsageData


# account.events
# ------------------------------------------------------------------------------------------


class OpenedData(Part):
    """An account's plan, and its use up to a moment."""

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
        description="Use before this moment is included in `used`. The event's time if absent.",
    )


class AccountOpened(InputEvent):
    """An account is brought in mid-cycle, without its history. It must be its first event."""

    type: Literal["account.opened"]
    data: OpenedData


class SubscribedData(Part):
    """The plan, and the billing cycle's day and time of day."""

    plan: Name
    time_zone: str | None = Field(default=None, description="An IANA name; UTC if absent.")
    anchor: CycleTime | None = Field(
        default=None, description="When the billing cycle begins. The event's time if absent."
    )


class AccountSubscribed(InputEvent):
    """A paid subscription begins, with a fresh cycle."""

    type: Literal["account.subscribed"]
    data: SubscribedData


class PlanChangedData(Part):
    """The plan that the account moves to."""

    plan: Name


class PlanChanged(InputEvent):
    """The account moves to another plan: upgrades at once, downgrades at the next renewal."""

    type: Literal["account.plan_changed"]
    data: PlanChangedData


class CancelledData(Part):
    """When the subscription ends."""

    effective: Literal["period_end", "now"] = "period_end"


class AccountCancelled(InputEvent):
    """The subscription ends, and the account falls back to Free."""

    type: Literal["account.cancelled"]
    data: CancelledData


class SuspendedData(Part):
    """Why the account is suspended."""

    reason: Name = Field(
        description="A word or a few, such as `payment_failed` or `fraud`. Limit events carry it "
        "to apps."
    )
    note: str | None = Field(default=None, description="For the ledger alone.")


class AccountSuspended(InputEvent):
    """The account is blocked, whatever it has left, until it is resumed."""

    type: Literal["account.suspended"]
    data: SuspendedData


class ResumedData(Part):
    """Why the suspension ends, if there is something to say."""

    reason: Name | None = None
    note: str | None = Field(default=None, description="For the ledger alone.")


class AccountResumed(InputEvent):
    """The account is no longer suspended. It is no longer blocked if credits remain."""

    type: Literal["account.resumed"]
    data: ResumedData


class ThresholdsSetData(Part):
    """The shares of a period's credits whose crossing is announced."""

    thresholds: Thresholds


class ThresholdsSet(InputEvent):
    """The account gets thresholds of its own, or its plan's again.

    This announces nothing. The next crossing does.
    """

    type: Literal["account.thresholds_set"]
    data: ThresholdsSetData


class GrantedData(Part):
    """How many credits, why, and until when."""

    credits: CreditsAboveZero
    reason: str = ""
    expires_at: CycleTime | None = Field(
        default=None, description="Usable before this moment. Until used if absent."
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
    """A usage event of the account is to cost nothing. It may still have to arrive."""

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
    """The worker that appends from now on, the ledger, and the rules by which it decides."""

    partition: Partition
    ledger: str = Field(description="The id that the partition's first claim gave the ledger.")
    worker: str
    decide: StrictInt = Field(ge=1, description="The version of the rules.")
    tzdata: str = Field(description="The version of the time zone data.")
    partitions: StrictInt = Field(
        default=0,
        ge=0,
        description="How many partitions the ledger has, which never changes. 0 if not stated.",
    )


class LedgerClaim(CloudEvent):
    """A worker claims a ledger partition.

    Entries that others append afterwards are at later offsets than they name, so no reader counts
    them.
    """

    type: Literal["ledger.claim"]
    data: ClaimData


class SkippedPlaceData(Part):
    """A record of the ledger or of the limit events."""

    topic: Literal["ledger", "limit"]
    partition: Partition
    offset: Offset
    digest: Sha256 = Field(description="The SHA-256 of the record's value.")


class RecordSkippedData(Part):
    """The record that is skipped, and the operator's reason."""

    place: SkippedPlaceData
    reason: str
    operator: str = Field(description="The user, the machine and the process of the command.")


class LedgerRecordSkipped(CloudEvent):
    """An operator says that a record is a stranger's.

    Readers that stopped at it go on. A record that is part of the ledger cannot be skipped.
    """

    type: Literal["ledger.record_skipped"]
    data: RecordSkippedData


class InputAddressData(Part):
    """The address of the record that an entry decides."""

    topic: Literal["usage", "account", "catalog"]
    partition: Partition
    offset: Offset


class EventReferenceData(Part):
    """The event behind an entry. It is derived if the ledger acts by itself."""

    source: str
    id: str
    occurred_at: Time
    content: str | None = Field(default=None, description="A digest of the event's content.")
    actor: str | None = Field(default=None, description="Who sent the event, if that is known.")


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
    """The cost of a use: `credits` for each `per` units."""

    credits: Microcredits
    unit: str
    per: Quantity
    rounding: Literal["up", "exact"]
    note: str | None


class VoidsData(Part):
    """The usage event that a void cancels."""

    source: str
    id: str
    reason: str
    feature: str | None = None
    entry_offset: Offset | None = Field(
        default=None, description="The offset of the entry that charged it."
    )
    awaits_usage: StrictBool = Field(
        default=False,
        description="Whether the usage event is still to arrive. It will then cost nothing.",
    )


class GrantChangeData(Part):
    """A grant that was given, or one that expired."""

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
    """A change of the account's plan or period."""

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
    """Why an account is suspended or resumed."""

    reason: str | None = None
    note: str | None = None


class UpgradeOfferData(Part):
    """The lowest plan above the account's that would leave it with credits."""

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
        default=None, description="Why the account is suspended. Absent if it is not."
    )


class InputRunData(Part):
    """Records in a row that one entry decides. The entry's input is the last of them.

    They are malformed, or a batch that cannot be read and that an operator has skipped.
    """

    first_offset: Offset
    records: StrictInt = Field(ge=1)
    reasons: dict[str, StrictInt] = Field(
        description="How many records broke each rule. Empty for a skip."
    )


class EntryData(Part):
    """One line of the ledger. Fields with their default value are left out."""

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
        description="The ledger's time: when Kafka appended the input. It never decreases within "
        "a partition."
    )
    partition: Partition
    offset: Offset = Field(description="A record at another offset than it names is no entry.")
    account: str = ""
    input: InputAddressData | None = None
    event: EventReferenceData | None = None
    period: PeriodReferenceData | None = None
    is_late: StrictBool = Field(
        default=False, description="Whether it counts in the previous period."
    )
    feature: str | None = None
    model: str | None = None
    quantity: Quantity | None = None
    rate: RateData | None = None
    catalog_version: str | None = None
    credits: Microcredits = Field(
        default=0, description="Micro-credits charged. Negative if they are given back."
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
        description="Of a `thresholds_set`: the account's own. Absent if it has its plan's again.",
    )
    reason: str | None = Field(
        default=None, description="The rule that an input broke, or why it was skipped."
    )
    detail: str | None = None
    run: InputRunData | None = Field(
        default=None, description="Of a refusal of several malformed records in a row."
    )
    crossings: tuple[CrossingData, ...] = ()
    previous_hash: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = Field(
        default="",
        description="The hash of the partition's entry before this one. Absent in the first.",
    )
    hash: Sha256 = Field(
        description="SHA-256 of this object's bytes without this field, which is the last one."
    )


class LedgerEntry(CloudEvent):
    """An entry of the ledger: the decision on an input, or a renewal or expiry."""

    type: Literal["ledger.entry"]
    subject: Name | None = Field(
        default=None, description="The account. Absent if the entry is of no account."
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
    """The event that crossed the limit. It is derived for a renewal or an expiry."""

    source: str
    id: str
    occurred_at: Time


class EntryAddress(Part):
    """Which entry of the ledger, and which of its crossings.

    An event whose address is not beyond the last one seen of its partition is a repeat.
    """

    partition: Partition
    offset: Offset
    index: StrictInt = Field(ge=0)
    crossings: StrictInt = Field(ge=1, description="How many crossings the entry has.")


class SuspensionData(Part):
    """Why the account is suspended."""

    reason: str


class LimitData(Part):
    """Everything that an app needs in order to act."""

    account: str
    plan: str
    period: PeriodTimes
    used: Credits
    remaining: Credits
    allotment: Credits
    granted: Credits
    threshold: str | None = Field(
        description="The share of `used + remaining` that was crossed, such as '0.8'. Null for "
        "the limit itself."
    )
    reason: _Reason
    action: _Action | None
    upgrade: UpgradeData | None = Field(
        description="Null if no plan would free the account. None frees a suspended one."
    )
    suspension: SuspensionData | None = Field(
        default=None, description="Null unless the account is suspended."
    )
    resets_at: Time | None = Field(description="When the period ends. Null on Free.")
    crossed_by: CrossedBy | None
    entry: EntryAddress


class LimitEvent(CloudEvent):
    """The fields of the three limit events.

    The id is derived from the entry's address. The time is when the entry's input was appended.
    """

    subject: Name = Field(description="The account.")
    time: Time
    data: LimitData


class LimitThreshold(LimitEvent):
    """The account's use has reached a share of its period's credits."""

    type: Literal["limit.threshold"]


class LimitReached(LimitEvent):
    """The account is blocked: no credits remain, or it is suspended."""

    type: Literal["limit.reached"]


class LimitCleared(LimitEvent):
    """The account is no longer blocked: credits remain, and it is not suspended."""

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
    "ledger.record_skipped": LedgerRecordSkipped,
    "limit.threshold": LimitThreshold,
    "limit.reached": LimitReached,
    "limit.cleared": LimitCleared,
}
"""Every message by its CloudEvents type."""
