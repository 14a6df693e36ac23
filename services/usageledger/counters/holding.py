"""Holds: credits reserved before a generation.

They live in Redis alone, in the slot of their account's partition, and free themselves.

The ledger does not know them; a usage event that names one settles it in the commit of its entry. A
failover may forget the last second of them: that can let a generation start that should have
waited, it never loses a charge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec

from usageledger.counters.keys import PartitionKeys
from usageledger.counters.scripts import Word
from usageledger.domain.checking import Use
from usageledger.domain.quantity import format_quantity

OPEN_MAX = 1_000
"""How many holds of one account may be open at once. It bounds what the store does in one call."""

KEPT_MS = 15 * 60 * 1_000
"""For how long it is known of a hold that it was settled or released, where it would have counted
for longer. The scripts know it too.

Of 10,000 at most that is known: who holds and releases without end fills no memory (`release.lua`).
"""

HoldState = Literal["open", "settled", "released"]
Outcome = Literal[
    "account_moved",
    "held",
    "insufficient_credits",
    "id_holds_something_else",
    "too_many_open_holds",
]

# As hold.lua numbers them.
_OUTCOMES: tuple[Outcome, ...] = (
    "account_moved",
    "held",
    "insufficient_credits",
    "id_holds_something_else",
    "too_many_open_holds",
)

_json = msgspec.json.Encoder()
_content = msgspec.json.Decoder(tuple[str, str | None, str])


class Hold(NamedTuple):
    """A hold as it is kept: what it reserved, in micro-credits, until when it counts (ms since
    1970), and for what: see `content_of`.
    """

    state: HoldState
    credits: int
    counts_until_ms: int
    content: bytes


class Held(NamedTuple):
    """What became of a request to hold: ``sum`` is of the account's open holds after it. ``hold``:
    the one that the id names.

    ``account``: the state that is stored by now, where it is not the one that the caller reckoned
    with.
    """

    outcome: Outcome
    sum: int
    hold: Hold | None = None
    account: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceHold:
    """Reserve ``credits`` for an account, of which ``remaining`` are left by the state ``seen``.

    The same hold again reserves nothing more.

    A hold that has run out or was released can be placed anew under its id; one that was settled
    cannot, for as long as that is known.
    """

    script: ClassVar[str] = "hold"
    account: str
    seen: bytes | None
    remaining: int
    id: str
    credits: int
    life_ms: int
    content: bytes
    open_max: int = OPEN_MAX

    def keys(self, partition: PartitionKeys) -> Sequence[str]:
        return [
            partition.accounts,
            partition.holds(self.account),
            partition.hold_ends(self.account),
        ]

    def words(self) -> Sequence[Word]:
        reserved = (
            self.remaining,
            self.id,
            self.credits,
            self.life_ms,
            self.open_max,
            self.content,
        )
        return [self.account, self.seen or b"", *reserved]

    def answer(self, reply: Any) -> Held:
        outcome = _OUTCOMES[reply[0]]
        if outcome == "account_moved":
            return Held(outcome, reply[1], account=reply[2] or None)
        return Held(outcome, reply[1], parse_hold(reply[2]) if len(reply) > 2 else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseHold:
    """Free an open hold.

    The answer is what it then is; None where there is none, or it has run out.
    """

    script: ClassVar[str] = "release"
    account: str
    id: str

    def keys(self, partition: PartitionKeys) -> Sequence[str]:
        return [partition.holds(self.account), partition.hold_ends(self.account)]

    def words(self) -> Sequence[Word]:
        return [self.id]

    def answer(self, reply: Any) -> Hold | None:
        return None if reply is None else parse_hold(reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class FindHold:
    """Look one hold up. None where there is none, or it has run out."""

    script: ClassVar[str] = "find_hold"
    account: str
    id: str

    def keys(self, partition: PartitionKeys) -> Sequence[str]:
        return [partition.holds(self.account)]

    def words(self) -> Sequence[Word]:
        return [self.id]

    def answer(self, reply: Any) -> Hold | None:
        return None if reply is None else parse_hold(reply)


def content_of(use: Use) -> bytes:
    """What a hold is for, in its one canonical form: a repeat of the same request has the same."""
    return _json.encode((use.feature, use.model, format_quantity(use.quantity)))


def use_of(hold: Hold) -> Use:
    """What a hold is for."""
    feature, model, quantity = _content.decode(hold.content)
    return Use(feature=feature, model=model, quantity=Decimal(quantity))


def parse_hold(value: bytes) -> Hold:
    """Read a hold back as the scripts write it."""
    state, credits, counts_until_ms, content = value.split(b" ", 3)
    return Hold(state.decode(), int(credits), int(counts_until_ms), content)  # type: ignore[arg-type] # the scripts write no other state
