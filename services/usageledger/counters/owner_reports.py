"""The reports of partitions' owners, for `status` and `doctor`.

Each is stored beside its view and expires soon, so that an owner that is gone has no report. It is
no part of the view, and no decision depends on it.
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
    """How a partition's owner is doing.

    ``no_progress_s`` is for how long it has had work and done none. A view that is being caught up
    is at ledger offset ``caught_up_to`` of ``catch_up_end``. ``ids_reused`` counts the events that
    it refused since it started because their id had been used for other content.
    """

    worker: str
    state: str
    stopped_because: str | None = None
    waiting_because: str | None = None
    no_progress_s: float = 0.0
    caught_up_to: int | None = None
    catch_up_end: int | None = None
    ids_reused: int = 0
    last_id_reused: str | None = None


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
    """The reports of partitions' owners. Raises ViewError.

    It is None if no owner has reported lately, or if one of another release has.
    """
    wanted = list(partitions)
    pipeline = redis.pipeline(transaction=False)
    for partition in wanted:
        pipeline.get(PartitionKeys(prefix, partition).owner)
    try:
        found = pipeline.execute()
    except REDIS_FAILURES as error:
        raise view_error(error) from error
    return {partition: _report_in(reply) for partition, reply in zip(wanted, found, strict=True)}


def _report_in(reply: bytes | None) -> OwnerReport | None:
    try:
        return None if reply is None else _decoder.decode(reply)
    except msgspec.MsgspecError:
        return None
