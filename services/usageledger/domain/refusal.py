"""Why an input is refused.

The order is the precedence: an input that breaks several rules is refused for the first of them.
"""

from __future__ import annotations

from enum import Enum


class Refusal(str, Enum):
    """The rules that an input can break, in the order in which they are checked.

    The value is the entry's ``reason``.
    """

    WRONG_PARTITION = "wrong_partition"
    """The record's key does not hash (Kafka's murmur2) to the record's partition."""
    EMPTY_RECORD = "empty_record"
    """The record has no value, or an empty one."""
    RECORD_TOO_LARGE = "record_too_large"
    """The record has more bytes than an event may have."""
    NOT_JSON = "not_json"
    NOT_A_CLOUDEVENT = "not_a_cloudevent"
    """Not a CloudEvents 1.0 object in structured mode."""
    UNKNOWN_TYPE = "unknown_type"
    """The event's type does not belong on this topic."""
    INVALID_EVENT = "invalid_event"
    """A field is missing, of the wrong type or out of range. The detail names it."""
    WRONG_KEY = "wrong_key"
    """The record's key is not the event's subject."""
    MALFORMED_RECORDS = "malformed_records"
    """Records in a row break different rules of those above. The entry counts each rule."""

    DATED_IN_THE_FUTURE = "dated_in_the_future"
    """It is dated more than 5 minutes after Kafka appended it."""
    TOO_OLD = "too_old"
    """It is dated more than 35 days before Kafka appended it."""
    ID_REUSED = "id_reused_with_different_content"

    UNKNOWN_ACCOUNT = "unknown_account"
    """The catalog refuses unknown accounts, and this one was never opened or subscribed."""
    COUNTED_BEFORE_OPENING = "counted_before_opening"
    """It occurred before the account was brought in, so the account's ``used`` includes it."""
    ALREADY_VOIDED = "already_voided"
    PERIOD_CLOSED = "period_closed"
    """Its period ended 72 hours ago or more. The correction is a grant."""
    UNKNOWN_FEATURE = "unknown_feature"
    UNKNOWN_MODEL = "unknown_model"
    GRANT_ALREADY_EXPIRED = "grant_already_expired"
    TOO_MANY_OPEN_GRANTS = "too_many_open_grants"
    """The account has 100 grants with credits left. Wait until one is used up or ends."""
    QUANTITY_OUT_OF_RANGE = "quantity_out_of_range"
    """With it, the period would have or have used more credits than the ledger can count."""

    ACCOUNT_ALREADY_KNOWN = "account_already_known"
    """``account.opened`` can only be an account's first event."""
    UNKNOWN_PLAN = "unknown_plan"
    PLAN_HAS_NO_CYCLE = "plan_has_no_cycle"
    """Nobody can subscribe to Free. Cancel instead."""
    UNKNOWN_TIME_ZONE = "unknown_time_zone"
    ALREADY_SUBSCRIBED = "already_subscribed"
    """A running subscription changes by ``account.plan_changed``.

    To subscribe again would bring credits that were not paid for.
    """
    NOT_SUBSCRIBED = "not_subscribed"

    ALREADY_SUSPENDED = "already_suspended"
    """Only one reason counts at a time. For another one, resume the account first."""
    NOT_SUSPENDED = "not_suspended"
