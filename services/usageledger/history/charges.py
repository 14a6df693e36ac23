"""Which ledger entries the history lists as charges."""

from __future__ import annotations

from typing import Literal, assert_never

from usageledger.domain.entry import Kind

ChargeKind = Literal[
    "usage",
    "void",
    "grant",
    "grant_expired",
    "renewal",
    "plan_change",
    "account_opened",
    "suspension",
    "resumption",
]


def charge_kind(kind: Kind) -> ChargeKind | None:
    """The same kind; None if an entry of it changes neither an account's credits nor its plan."""
    match kind:
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
        ):
            return kind
        case "thresholds_set" | "refusal" | "duplicate" | "skip" | "catalog_adopted":
            return None
        case _:
            assert_never(kind)
