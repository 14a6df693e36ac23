"""Holds: credits reserved before a generation.

They are in Redis alone, in the slot of their account's partition, and expire by themselves. The
ledger does not know them. A usage event that names a hold settles it in the commit of the event's
entry. A failover may lose the holds of the last second: then a generation may start that should
have waited, but no charge is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Literal, NamedTuple
from urllib.parse import quote

import msgspec

from usageledger.counters.keys import PartitionKeys
from usageledger.counters.scripts import Word
from usageledger.domain.checking import Use
from usageledger.domain.quantity import format_quantity

OPEN_MAX = 1_000
"""How many holds of one account may be open. It bounds the work of one call in the store."""

OPEN_OF_HOLDER_MAX = 10_000
"""How many holds of one holder may be open in one partition."""

OPEN_IN_PARTITION_MAX = 20_000
"""How many holds may be open in one partition. Each takes about 400 bytes in Redis."""

REMEMBERED_MS = 15 * 60 * 1_000
"""For how long a settled or released hold is remembered, if it would have counted for longer.

`prelude.lua` has the same number. At most 10,000 released holds of an account are remembered, so a
client that holds and releases without end fills no memory (`release.lua`).
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


Holder = str
"""Who placed a hold: ``key:<id>``, ``token:<id of its key>``, or ``source:<name>``.

Such a hold is released by its holder alone, and one of a source is settled by uses of this source
alone. An empty holder is unknown: anybody may release its hold, and any use settles it.
"""


def holder_of_source(source: str) -> Holder:
    """The holder of holds that programs of this source place, as one word."""
    return f"source:{quote(source, safe='')}"


class Hold(NamedTuple):
    """A hold as it is stored.

    ``credits`` is what it reserves, in micro-credits, and ``counts_until_ms`` until when it counts
    (ms since 1970). ``holder`` is whoever placed it: see `Holder`. ``content`` is what it is for:
    see `content_of`.
    """

    state: HoldState
    credits: int
    counts_until_ms: int
    holder: Holder
    content: bytes


class Held(NamedTuple):
    """The reply to a request to hold.

    ``sum`` is what the account's open holds reserve after it, in micro-credits, and ``hold`` the
    one under the id. ``account`` is the stored state if it is not the one that the caller saw.
    """

    outcome: Outcome
    sum: int
    hold: Hold | None = None
    account: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceHold:
    """Reserve ``credits`` for an account that has ``remaining`` left by the state ``seen``.

    A repeat of a hold reserves nothing more. A hold that has expired or was released can be placed
    again under its id. One that was settled cannot, for as long as it is remembered.
    """

    script: ClassVar[str] = "hold"
    account: str
    seen: bytes | None
    remaining: int
    id: str
    credits: int
    life_ms: int
    content: bytes
    holder: Holder = ""
    open_max: int = OPEN_MAX
    open_of_holder_max: int = OPEN_OF_HOLDER_MAX
    open_in_partition_max: int = OPEN_IN_PARTITION_MAX

    def keys(self, partition: PartitionKeys) -> Sequence[str]:
        return [
            partition.accounts,
            partition.holds(self.account),
            partition.hold_ends(self.account),
            partition.placed_by(self.holder),
            partition.placed,
        ]

    def words(self) -> Sequence[Word]:
        return [
            self.account,
            self.seen or b"",
            self.remaining,
            self.id,
            self.credits,
            self.life_ms,
            self.open_max,
            self.holder,
            self.content,
            self.open_of_holder_max,
            self.open_in_partition_max,
        ]

    def answer(self, reply: Any) -> Held:
        outcome = _OUTCOMES[reply[0]]
        if outcome == "account_moved":
            return Held(outcome, reply[1], account=reply[2] or None)
        return Held(outcome, reply[1], parse_hold(reply[2]) if len(reply) > 2 else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseHold:
    """Free an open hold. The answer is the hold as it then is; None if it has expired.

    It is free only if its holder is among ``holders`` or unknown, and stays open otherwise. None
    frees it whoever its holder is.
    """

    script: ClassVar[str] = "release"
    account: str
    id: str
    holders: tuple[Holder, ...] | None

    def keys(self, partition: PartitionKeys) -> Sequence[str]:
        return [partition.holds(self.account), partition.hold_ends(self.account)]

    def words(self) -> Sequence[Word]:
        return [self.id, ""] if self.holders is None else [self.id, "only", *self.holders]

    def answer(self, reply: Any) -> Hold | None:
        return None if reply is None else parse_hold(reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class FindHold:
    """Look up a hold. The answer is None if there is none, or it has expired."""

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
    """The use of a hold in one canonical form: a repeat of the same request has the same."""
    return _json.encode((use.feature, use.model, format_quantity(use.quantity)))


def use_of(hold: Hold) -> Use:
    """The use that a hold is for."""
    feature, model, quantity = _content.decode(hold.content)
    return Use(feature=feature, model=model, quantity=Decimal(quantity))


def parse_hold(value: bytes) -> Hold:
    """A hold from the text that the scripts write."""
    state, credits, counts_until_ms, holder, content = value.split(b" ", 4)
    return Hold(
        state.decode(),  # type: ignore[arg-type] # the scripts write no other state
        int(credits),
        int(counts_until_ms),
        holder.decode(),
        content,
    )
