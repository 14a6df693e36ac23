"""A claim: a worker's record that it now appends to a ledger partition.

It names the ledger and the rules by which the worker decides.
"""

from __future__ import annotations

import msgspec

from usageledger.domain.chain import CLAIM_TYPE, UNREADABLE
from usageledger.domain.cycle import rules_version
from usageledger.domain.head import Head

DECIDE_VERSION = 1
"""Raised with every change of what `decide` or `evolve` makes of the same input.

The older rules stay in the code, so that old history still verifies.
"""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a claim.

    ``ledger`` is the ledger's id. The partition's first claim gave it, and later claims repeat it.
    """

    partition: int
    ledger: str
    worker: str
    decide: int
    tzdata: str
    partitions: int = 0
    """How many partitions the ledger has, or 0 in claims that do not say.

    The number never changes, because each account's partition depends on it.
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
    """Write a claim as the value of its record: a CloudEvent.

    A worker's claims all have the same id. Only their addresses differ.
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
    """Read a claim back. The result is None for anything else."""
    try:
        envelope = msgspec.json.decode(value or b"", type=_Envelope)
        return (
            msgspec.json.decode(envelope.data, type=Claim) if envelope.type == CLAIM_TYPE else None
        )
    except UNREADABLE:
        return None


def knows_rules_of(decided: Claim | Head) -> bool:
    """Whether this code has the rules that a claim names, or those that a view's head names.

    It does not if a newer release wrote them.
    """
    return decided.decide <= DECIDE_VERSION and decided.tzdata <= rules_version()
