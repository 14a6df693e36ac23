"""From a ledger entry to the limit events that it makes: pure, and the same bytes each time."""

from __future__ import annotations

from dataclasses import asdict
from typing import NamedTuple

import msgspec

from usageledger.domain.credits import format_credits
from usageledger.domain.entry import Crossing, LedgerEntry
from usageledger.ledger.limit_address import Place

SOURCE = "/usageledger/limits"


class LimitMessage(NamedTuple):
    """One limit event as its record holds it, for the ledger's own partition number."""

    place: Place
    key: bytes
    value: bytes


_encoder = msgspec.json.Encoder()


def limit_events(entry: LedgerEntry) -> list[LimitMessage]:
    """What a valid, sealed entry announces: an event for each of its crossings, in their order.

    Most entries announce nothing.
    """
    return [
        _message(entry, crossing, Place(entry.partition, entry.offset, index, len(entry.crossings)))
        for index, crossing in enumerate(entry.crossings)
    ]


def _message(entry: LedgerEntry, crossing: Crossing, place: Place) -> LimitMessage:
    event = {
        "specversion": "1.0",
        "type": crossing.type,
        "source": SOURCE,
        "id": place.id,
        "subject": entry.account,
        "time": entry.appended_at,
        "datacontenttype": "application/json",
        "data": _data(entry, crossing, place),
    }
    return LimitMessage(place, entry.account.encode(), _encoder.encode(event))


def _data(entry: LedgerEntry, crossing: Crossing, place: Place) -> dict[str, object]:
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
        "entry": asdict(place),
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
