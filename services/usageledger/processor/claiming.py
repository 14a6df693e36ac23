"""Claiming a ledger partition: the record that says who appends from here on.

Before it is written, the partition is checked to be this ledger's.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from usageledger.domain.chain import CLAIM_TYPE
from usageledger.domain.claim import Claim, claim_of, decode_claim, encode_claim, knows_rules_of
from usageledger.domain.head import Head
from usageledger.ledger.reader_rule import BEFORE_FIRST_CLAIM_MAX
from usageledger.ledger.records import KeyedValue, LedgerPartition, Superseded
from usageledger.processor.catch_up import PartitionStopped
from usageledger.processor.owner_settings import DEFAULT_SETTINGS

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

    The first claim of a partition names the ledger's id, with ``new_ledger_id``; later ones repeat
    it. ``rules``: see `current_rules`; None, and rules that this code does not know, mean this
    code's own. So an operator's command never raises the rules of the workers. Raises
    PartitionStopped where the topic is no ledger, or has lost its beginning; LedgerError.
    """
    known_id = await ledger_id_of(ledger, partition)
    ledger_id = new_ledger_id() if known_id is None else known_id
    claim = claim_of(partition, ledger_id, worker, partition_count)
    if rules is not None and knows_rules_of(rules):
        claim = replace(claim, decide=rules.decide, tzdata=rules.tzdata)
    claimed_at = await ledger.claim(KeyedValue(None, encode_claim(claim)))
    if known_id is None and claimed_at > 0 and await ledger_id_of(ledger, partition) != ledger_id:
        raise Superseded(f"another worker was the first to claim partition {partition}")
    return claim, claimed_at


async def current_rules(head: Head | None, ledger: LedgerPartition) -> Head | Claim | None:
    """The rules that a partition is decided by: those of its view's head, or of its last claim.

    The last claim counts where no head can be read. Raises LedgerError.
    """
    if head is not None:
        return head
    start, stop, count = (
        await ledger.start_offset(),
        await ledger.end_offset(),
        DEFAULT_SETTINGS.look_back_records,
    )
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


async def ledger_id_of(ledger: LedgerPartition, partition: int) -> str | None:
    """The id of the ledger that a partition belongs to: that of its first claim.

    It is None before that claim, though strangers may have written already. Raises PartitionStopped
    where it has lost its beginning, or is no ledger's; LedgerError.
    """
    start = await ledger.start_offset()
    if start > 0:
        raise PartitionStopped(
            f"partition {partition} of the ledger begins at offset {start}: it was truncated, and "
            "the log is the truth; restore it, or begin another ledger with a prefix of its own"
        )
    end = await ledger.end_offset()
    if end == 0:
        return None
    async for records in ledger.read(0, min(end, BEFORE_FIRST_CLAIM_MAX)):
        for record in records:
            claim = decode_claim(record.value)
            if claim is not None:
                return claim.ledger
    if end < BEFORE_FIRST_CLAIM_MAX:
        return None
    raise PartitionStopped(
        f"partition {partition} of the ledger has no claim among its first "
        f"{BEFORE_FIRST_CLAIM_MAX} records: this is not a ledger's topic"
    )
