"""Claiming a ledger partition: the record that says who appends from here on, and what is made sure
of before it is written.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from usageledger.domain.chain import CLAIM_TYPE
from usageledger.domain.claim import Claim, claim_of, decode_claim, encode_claim, knows_rules_of
from usageledger.domain.head import Head
from usageledger.ledger.records import KeyedValue, LedgerPartition, Superseded
from usageledger.processor.catch_up import LOOK_BACK_RECORDS, PartitionStopped

_CLAIM_TYPE = CLAIM_TYPE.encode()


async def claim_partition(
    ledger: LedgerPartition,
    partition: int,
    partition_count: int,
    worker: str,
    new_ledger_id: Callable[[], str],
    rules: Head | Claim | None = None,
) -> tuple[Claim, int]:
    """Append a claim and return it with its offset.

    The ledger's id is what the partition's first claim says; ours, if ours is the first.

    ``rules``: see `rules_gone_by`; those that this code does not know, or None, are this code's
    own. An operator's command never raises those that the workers go by. Raises PartitionStopped
    where this is no ledger, or one that has lost its beginning; LedgerError.
    """
    end = await ledger.end_offset()
    ledger_id = await ledger_id_of(ledger, partition) if end > 0 else new_ledger_id()
    claim = claim_of(partition, ledger_id, worker, partition_count)
    if rules is not None and knows_rules_of(rules):
        claim = replace(claim, decide=rules.decide, tzdata=rules.tzdata)
    claimed_at = await ledger.claim(KeyedValue(None, encode_claim(claim)))
    if end == 0 and claimed_at > 0 and await ledger_id_of(ledger, partition) != ledger_id:
        raise Superseded(f"another worker was the first to claim partition {partition}")
    return claim, claimed_at


async def rules_gone_by(head: Head | None, ledger: LedgerPartition) -> Head | Claim | None:
    """By which rules a partition is decided: its view's head says so, or the ledger's last claim
    where there is none that can be read.

    Raises LedgerError.
    """
    if head is not None:
        return head
    start, stop, count = await ledger.start_offset(), await ledger.end_offset(), LOOK_BACK_RECORDS
    while stop > start:
        begin = max(start, stop - count)
        last = None
        async for records in ledger.read(begin, stop):
            for record in records:
                if _CLAIM_TYPE in (record.value or b""):
                    last = decode_claim(record.value) or last
        if last is not None:
            return last
        stop, count = begin, 10 * count
    return None


async def ledger_id_of(ledger: LedgerPartition, partition: int) -> str:
    """The id of the ledger that lies in a partition.

    Raises PartitionStopped where it has lost its beginning, or is none; LedgerError.
    """
    start = await ledger.start_offset()
    if start > 0:
        raise PartitionStopped(
            f"partition {partition} of the ledger begins at offset {start}: it was truncated, and "
            "the log is the truth;"
            " restore it, or begin another ledger with a prefix of its own"
        )
    async for records in ledger.read(0, 1):
        first = decode_claim(records[0].value) if records and records[0].offset == 0 else None
        if first is not None:
            return first.ledger
    raise PartitionStopped(
        f"partition {partition} of the ledger does not begin with a claim: this is not a ledger's "
        "topic"
    )
