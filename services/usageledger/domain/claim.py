"""A claim: a worker's record that it now appends to a ledger partition.

It names the ledger and the rules that the worker decides by.
"""

from __future__ import annotations

import msgspec

from usageledger.domain.chain import CLAIM_TYPE, UNREADABLE
from usageledger.domain.cycle import rules_version
from usageledger.domain.head import Head

DECIDE_VERSION = 1
"""Raised with every change of what `decide` or `evolve` make of the same input.

The older rules stay in the code: old history verifies.
"""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """``ledger`` is the id that the partition's first claim gave it and every later one repeats."""

    partition: int
    ledger: str
    worker: str
    decide: int
    tzdata: str
    partitions: int = 0
    """How many partitions the ledger has: an account's place hangs on it, so it never changes. 0 in
    claims that do not say.
    """


class _Envelope(msgspec.Struct):
    type: str
    data: msgspec.Raw


def claim_of(partition: int, ledger: str, worker: str, partitions: int = 0) -> Claim:
    """The claim of a worker that runs this code."""
    return Claim(
        partition=partition,
        ledger=ledger,
        worker=worker,
        decide=DECIDE_VERSION,
        tzdata=rules_version(),
        partitions=partitions,
    )


def encode_claim(claim: Claim) -> bytes:
    """The record value: a CloudEvent.

    Its id repeats with its worker's next claim: a claim's address tells it apart.
    """
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "type": CLAIM_TYPE,
            "source": f"/usageledger/ledger/{claim.partition}",
            "id": f"claim/{claim.worker}",
            "datacontenttype": "application/json",
            "data": claim,
        }
    )


def decode_claim(value: bytes | None) -> Claim | None:
    """Read a claim back; None for anything else."""
    try:
        envelope = msgspec.json.decode(value or b"", type=_Envelope)
        return (
            msgspec.json.decode(envelope.data, type=Claim) if envelope.type == CLAIM_TYPE else None
        )
    except UNREADABLE:
        return None


def knows_rules_of(decided: Claim | Head) -> bool:
    """Whether this code can decide a ledger that was last claimed, or a view that was last moved,
    so. A newer release of either says no.
    """
    return decided.decide <= DECIDE_VERSION and decided.tzdata <= rules_version()
