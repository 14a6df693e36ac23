"""What the owners of partitions say of themselves, for `status` and `doctor`: kept beside each
view, for as long as its owner lives.

It is no part of the view and nothing is decided by it. An owner that is gone says nothing any more,
so its report expires.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from usageledger.counters.connection import AsyncClient, Client
from usageledger.counters.keys import PartitionKeys
from usageledger.counters.replies import REDIS_FAILURES, view_error

LIFE_MS = 6_000
"""Owners report about once a second."""


class OwnerReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``state`` is the owner's; ``no_progress_s``: for how long there has been something to do and
    nothing was done.

    A view that is being caught up stands at ledger offset ``caught_up_to`` of ``catch_up_end``.
    """

    worker: str
    state: str
    stopped_because: str | None = None
    no_progress_s: float = 0.0
    caught_up_to: int | None = None
    catch_up_end: int | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(OwnerReport)


async def write_reports(
    redis: AsyncClient, prefix: str, reports: Mapping[int, OwnerReport]
) -> None:
    """Write the reports of a worker's partitions. Raises ViewError."""
    pipeline = redis.pipeline(transaction=False)
    for partition, report in reports.items():
        pipeline.set(PartitionKeys(prefix, partition).owner, _encoder.encode(report), px=LIFE_MS)
    try:
        await pipeline.execute()
    except REDIS_FAILURES as error:
        raise view_error(error) from error


def read_reports(
    redis: Client, prefix: str, partitions: Iterable[int]
) -> dict[int, OwnerReport | None]:
    """The reports of partitions; None where no owner has reported lately, or one of another
    release. Raises ViewError.
    """
    wanted = list(partitions)
    pipeline = redis.pipeline(transaction=False)
    for partition in wanted:
        pipeline.get(PartitionKeys(prefix, partition).owner)
    try:
        found = pipeline.execute()
    except REDIS_FAILURES as error:
        raise view_error(error) from error
    return {partition: _read(reply) for partition, reply in zip(wanted, found, strict=True)}


def _read(reply: bytes | None) -> OwnerReport | None:
    try:
        return None if reply is None else _decoder.decode(reply)
    except msgspec.MsgspecError:
        return None
