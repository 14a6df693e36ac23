"""How the entries of many inputs share record batches: a group is never split, and its size is
known before anything is sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from usageledger.ledger.records import GroupTooLarge, KeyedValue

BATCH_OVERHEAD_BYTES = 61
"""The header of a record batch, format 2."""

RECORD_OVERHEAD_BYTES = 36
"""The most that a record adds to its key and value without headers: four varints of 32 bits, one of
64, attributes and a count.
"""


def pack(
    groups: Sequence[Sequence[KeyedValue]], *, batch_bytes: int, group_bytes_max: int
) -> list[list[KeyedValue]]:
    """Fill batches with whole groups, in order, up to ``batch_bytes`` each; a larger group has a
    batch of its own.

    Sizes are upper bounds, before compression. Raises GroupTooLarge, before any batch is made, if a
    group exceeds ``group_bytes_max``.
    """
    sizes = [_size_bytes(group) for group in groups]
    _refuse_too_large(sizes, group_bytes_max)
    batches: list[list[KeyedValue]] = []
    room = 0
    for group, size in zip(groups, sizes, strict=True):
        if not group:
            continue
        if size > room:
            batches.append([])
            room = batch_bytes - BATCH_OVERHEAD_BYTES
        batches[-1].extend(group)
        room -= size
    return batches


def _size_bytes(group: Sequence[KeyedValue]) -> int:
    return sum(RECORD_OVERHEAD_BYTES + len(key or b"") + len(value) for key, value in group)


def _refuse_too_large(sizes: Sequence[int], group_bytes_max: int) -> None:
    largest = max(sizes, default=0) + BATCH_OVERHEAD_BYTES
    if largest > group_bytes_max:
        raise GroupTooLarge(
            f"one input's entries take {largest} bytes in one record batch; the ledger takes at "
            f"most {group_bytes_max}"
        )
