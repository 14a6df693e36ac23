"""From a ledger entry to the limit events that announce it: pure, and always the same bytes."""

from __future__ import annotations

from dataclasses import asdict
from typing import NamedTuple

import msgspec

from usageledger.domain.credits import format_credits
from usageledger.domain.entry import Crossing, LedgerEntry
from usageledger.ledger.limit_address import LimitAddress

SOURCE = "/usageledger/limits"


class LimitMessage(NamedTuple):
    """The record of one limit event. Its partition has the same number as the ledger's."""

    address: LimitAddress
    key: bytes
    value: bytes


_encoder = msgspec.json.Encoder()


def limit_events(entry: LedgerEntry) -> list[LimitMessage]:
    """The limit events of a valid, sealed entry: one for each of its crossings, in their order.

    Most entries have none.
    """
    crossings = entry.crossings
    return [
        _message(entry, crossing, LimitAddress(entry.partition, entry.offset, n, len(crossings)))
        for n, crossing in enumerate(crossings)
    ]


def _message(entry: LedgerEntry, crossing: Crossing, address: LimitAddress) -> LimitMessage:
    event = {
        "specversion": "1.0",
        "type": crossing.type,
        "source": SOURCE,
        "id": address.id,
        "subject": entry.account,
        "time": entry.appended_at,
        "datacontenttype": "application/json",
        "data": _data(entry, crossing, address),
    }
    return LimitMessage(address, entry.account.encode(), _encoder.encode(event))


def _data(entry: LedgerEntry, crossing: Crossing, address: LimitAddress) -> dict[str, object]:
    figures, event = crossing.figures, entry.event
    return {
        "account": entry.account,
        "plan": crossing.plan,
        "period": {"start": crossing.period.start, "end": crossing.period.end},
        "used": format_credits(figures.used),
        "remaining": format_credits(figures.remaining),
        "allotment": format_credits(figures.allotment),
        "granted": format_credits(figures.granted),
        "threshold": crossing.threshold,
        "reason": crossing.reason,
        "action": crossing.action,
        "upgrade": _upgrade(crossing),
        "suspension": None if crossing.suspended is None else {"reason": crossing.suspended},
        "resets_at": crossing.period.end,
        "crossed_by": None
        if event is None
        else {"source": event.source, "id": event.id, "occurred_at": event.occurred_at},
        "entry": asdict(address),
    }


def _upgrade(crossing: Crossing) -> dict[str, object] | None:
    offer = crossing.upgrade
    if offer is None:
        return None
    return {
        "plan": offer.plan,
        "name": offer.name,
        "price_cents": offer.price_cents,
        "allotment": format_credits(offer.allotment),
    }
