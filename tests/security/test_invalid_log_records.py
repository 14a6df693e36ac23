"""Strangers write to the ledger and to the limit events, which only our services may do."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest
from kafka import KafkaProducer

from tests.integration.operated import Operated, operated
from usageledger.domain.chain import seal
from usageledger.domain.claim import Claim, encode_claim
from usageledger.domain.entry import LedgerEntry
from usageledger.domain.head import Head
from usageledger.log.reading import log_reader
from usageledger.log.topics import Topics
from usageledger.operations.lags import lag_reader
from usageledger.operations.partition_states import partition_states
from usageledger.sdk.limits.limit_event import LimitEvent
from usageledger.sdk.limits.subscriber import LimitSubscriber

__all__ = ["operated"]


def write(operated: Operated, topic: str, partition: int, *values: bytes | None) -> int:
    """Write as a stranger, and return the offset of the last record."""
    producer = KafkaProducer(**operated.kafka.for_kafka_python())
    try:
        sent = [
            producer.send(topic, key=b"x", value=value, partition=partition) for value in values
        ]
        return int(sent[-1].get(timeout=30).offset)
    finally:
        producer.close(timeout=10)


def ledger_end(operated: Operated, partition: int) -> int:
    with log_reader(operated.kafka) as reader:
        return reader.end_offset(Topics(operated.prefix).ledger, partition)


def detail_of(operated: Operated, partition: int) -> str:
    """The detail that `usageledger status` shows for a partition."""
    with lag_reader(operated.kafka, operated.redis_url, operated.prefix) as reader:
        return partition_states(reader.look(), reader.owner_reports())[partition].detail


def forged_entry(partition: int, offset: int) -> bytes:
    """An entry with a right hash at its own offset, which does not continue the chain."""
    draft = LedgerEntry(kind="usage", appended_at=datetime.now(UTC), account="a", credits=-1)
    head = Head(ledger="?", next_offset=offset, hash="0" * 64)
    ((_, _, value),), _ = seal([draft], head, partition)
    return value


def test_junk_in_the_ledger_stops_nothing_and_is_reported_until_it_is_skipped(
    operated: Operated,
) -> None:
    """One record of junk stopped the partition, the history and the audit for good."""

    async def work() -> None:
        account = operated.account_in(1)
        async with operated.processor():
            await asyncio.to_thread(operated.use, account, "u1")
            await operated.decided(1)
            at = write(operated, Topics(operated.prefix).ledger, 1, b"junk", None)
            await asyncio.to_thread(operated.use, account, "u2")
            await operated.decided(2)
        report = await operated.audit()
        assert [place.offset for place in report.invalid_records] == [at - 1, at]
        shown = await operated.run("audit", "verify")
        assert (shown.exit_code, f"skip 1@{at} --topic ledger" in shown.output) == (1, True)
        for offset in (at - 1, at):
            skipped = await operated.run(
                "processor", "skip", f"1@{offset}", "--topic", "ledger", "--reason", "a stranger"
            )
            assert skipped.exit_code == 0, skipped.output
        assert (await operated.run("audit", "verify")).exit_code == 0

    asyncio.run(work())


@pytest.mark.parametrize("kind", ["entry", "claim"])
def test_a_forged_record_stops_its_partition_until_it_is_skipped(
    operated: Operated, kind: str
) -> None:
    async def work() -> None:
        account, other = operated.account_in(1), operated.account_in(0)
        topic = Topics(operated.prefix).ledger
        async with operated.processor():
            await asyncio.to_thread(operated.use, account, "u1")
            await operated.decided(1)
            newer = Claim(partition=1, ledger="x", worker="x", decide=99, tzdata="2099z")
            end = ledger_end(operated, 1)
            forged = forged_entry(1, end) if kind == "entry" else encode_claim(newer)
            at = write(operated, topic, 1, forged)
            assert at == end
            await asyncio.to_thread(operated.use, account, "u2")
            await asyncio.to_thread(operated.use, other, "v1")
            await operated.decided(2)
            command = f"usageledger processor skip 1@{at} --topic ledger"
            await operated.until(lambda: command in detail_of(operated, 1))
            skip = ("processor", "skip", f"1@{at}", "--topic", "ledger", "--reason", "forged")
            skipped = await operated.run(*skip)
            assert skipped.exit_code == 0, skipped.output
            await operated.decided(3)
        report = await operated.audit()
        assert (report.differences, report.invalid_records) == ([], [])
        assert (await operated.run(*skip)).exit_code == 1

    asyncio.run(work())


def test_what_is_the_ledgers_cannot_be_skipped(operated: Operated) -> None:
    async def work() -> None:
        account = operated.account_in(1)
        async with operated.processor():
            await asyncio.to_thread(operated.use, account, "u1")
            await operated.decided(1)
        for offset in range(ledger_end(operated, 1)):
            refused = await operated.run(
                "processor", "skip", f"1@{offset}", "--topic", "ledger", "--reason", "a trial"
            )
            assert (refused.exit_code, "nothing was skipped" in refused.output) == (1, True)
        beyond = await operated.run(
            "processor", "skip", "1@999", "--topic", "ledger", "--reason", "a trial"
        )
        assert (beyond.exit_code, "has the offsets 0 to" in beyond.output) == (1, True)

    asyncio.run(work())


def test_junk_among_the_limit_events_ends_no_app_and_is_reported(operated: Operated) -> None:
    """One record of junk ended every app's subscriber, again after each restart."""
    topic = Topics(operated.prefix).limit
    heard: list[LimitEvent] = []
    event = {
        "id": "1-5-0",
        "type": "limit.reached",
        "data": {
            "account": "a",
            "entry": {"partition": 1, "offset": 5, "index": 0, "crossings": 1},
        },
    }
    half_an_event = json.dumps(event).encode()
    at = write(operated, topic, 1, b"junk", None, half_an_event)
    subscriber = LimitSubscriber(kafka=operated.kafka, prefix=operated.prefix, group="app")
    subscriber.on_reached(heard.append)

    async def work() -> None:
        with subscriber:
            assert not subscriber.is_blocked("a")
            write(operated, topic, 1, b"more junk")
            await operated.until(lambda: not subscriber.is_blocked("a"))
        refused = await operated.run("audit", "verify")
        assert (refused.exit_code, f"skip 1@{at - 2} --topic limit" in refused.output) == (1, True)

    asyncio.run(work())
    assert heard == []


def test_a_forged_limit_event_of_right_form_is_named_by_the_audit(operated: Operated) -> None:
    """An app believes it. So nobody but the limits service may write to that topic."""
    topic, account = Topics(operated.prefix).limit, operated.account_in(1)

    async def work() -> None:
        async with operated.processor():
            operated.publish_catalog()
            await asyncio.to_thread(operated.use, account, "u1")
            await operated.decided(1)
        offset = ledger_end(operated, 1) - 1
        entry = {"partition": 1, "offset": offset, "index": 0, "crossings": 1}
        event = {
            "id": f"1-{offset}-0",
            "type": "limit.reached",
            "data": {"account": account, "entry": entry},
        }
        write(operated, topic, 1, json.dumps(event).encode())
        refused = await operated.run("audit", "verify")
        assert refused.exit_code == 1
        assert f"1-{offset}-0" in refused.output

    asyncio.run(work())
