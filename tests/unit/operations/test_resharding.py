"""A new ledger with another number of partitions is filled from an old one, and compared."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.worlds.resharded_ledger import LiveLedger, MemoryLedger
from usageledger.counters.holding import Hold, PlaceHold, holder_of_source
from usageledger.domain.account import AccountState
from usageledger.domain.catalog_document import catalog_document, load_shipped_catalog
from usageledger.domain.encoding import decode_account
from usageledger.ledger.partitioning import partition_of
from usageledger.operations.resharding.comparing import hold_differences
from usageledger.operations.resharding.deciding import DecidingStopped
from usageledger.operations.resharding.history import HistoryUnreadable
from usageledger.operations.resharding.running import ReshardReport, fill_and_compare

NEW_PARTITIONS = 5
ACCOUNTS = [f"acct-{n}" for n in range(12)]


def in_a_loop(scenario: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that runs a scenario in an event loop of its own."""

    @functools.wraps(scenario)
    def run(**arguments: Any) -> None:
        asyncio.run(scenario(**arguments))

    return run


async def reshard(old: LiveLedger, new: MemoryLedger) -> ReshardReport:
    return await fill_and_compare(
        old,
        new,
        old_partitions=old.partitions,
        new_partitions=new.partitions,
        input_counts={"usage": old.topic_partitions, "account": old.partitions},
        now=lambda: old.now,
    )


def states_of(ledger: MemoryLedger) -> dict[str, AccountState]:
    return {
        account: decode_account(state)
        for view in ledger.views
        for account, state in view.stored_accounts.items()
    }


def hold_on(ledger: MemoryLedger, account: str, id_: str) -> None:
    view = ledger.views[partition_of(account.encode(), ledger.partitions)]
    held = view.ask(
        PlaceHold(
            account=account,
            seen=view.stored_accounts.get(account),
            remaining=1_000_000_000,
            id=id_,
            credits=32_000_000,
            life_ms=3_600_000,
            content=b'["genai_video","veo_3","1"]',
            holder=holder_of_source("/test"),
        )
    )
    assert held.outcome == "held"


async def live_a_life(old: LiveLedger) -> None:
    """Four months of plans, uses, grants, voids and refusals, as they happen."""
    old.publish()
    for n, account in enumerate(ACCOUNTS):
        if n % 3:
            plan = ("pro", "max")[n % 2]
            old.send("account.subscribed", "2026-01-05T10:00:00Z", account, plan=plan)
        old.use("2026-01-06T10:00:00Z", account, event_id="u1")
        # The same moment: the account's event is decided behind its use.
        old.send("account.suspended", "2026-01-06T10:00:00Z", account, reason="fraud")
    await old.settle("2026-01-06T11:00:00Z")
    for account in ACCOUNTS:
        # On another topic, and late: the ledger's clock is beyond it.
        old.send("account.resumed", "2026-01-06T09:59:00Z", account)
        old.use("2026-01-06T12:00:00Z", account, event_id="u1")  # a duplicate
        old.use("2026-01-06T12:00:00Z", account, model="veo_99", event_id="u2")  # refused
    await old.settle("2026-01-06T13:00:00Z")
    document = catalog_document(load_shipped_catalog())
    features: Any = document["features"]
    for feature in features:
        if feature["id"] == "genai_video":
            feature["models"].append({**feature["models"][0], "id": "veo_99", "name": "Veo 99"})
    old.publish(version="with-veo-99", features=features)
    await asyncio.sleep(0.1)
    for account in ACCOUNTS[:6]:
        old.use("2026-01-06T14:00:00Z", account, model="veo_99", event_id="u2")
    for account in ACCOUNTS[::2]:
        old.use("2026-01-20T10:00:00Z", account, quantity="20", event_id="all")
        old.send(
            *("credits.granted", "2026-01-21T10:00:00Z", account),
            credits="50",
            expires_at="2026-02-20T00:00:00Z",
        )
        old.send("account.thresholds_set", "2026-01-21T10:00:00Z", account, thresholds=["0.5"])
    # Blocked accounts renew, and grants expire, without an input.
    await old.settle("2026-02-28T00:00:00Z")
    for account in ACCOUNTS[1::3]:
        old.send("account.plan_changed", "2026-03-01T10:00:00Z", account, plan="scale")
        old.send(
            *("usage.voided", "2026-03-01T11:00:00Z", account),
            source="/test",
            id="u1",
            reason="failed",
        )
    for account in ACCOUNTS[2::3]:
        # Late by a day beyond the end of a period, and one that is too late.
        old.use("2026-03-04T10:00:00Z", account, appended="2026-03-06T10:00:00Z")
        old.use("2026-02-01T10:00:00Z", account, appended="2026-03-06T10:00:00Z")
        old.send("account.cancelled", "2026-03-07T10:00:00Z", account)
    await old.settle("2026-04-20T00:00:00Z")


@in_a_loop
async def test_a_whole_life_comes_out_the_same_in_another_number_of_partitions() -> None:
    old, new = LiveLedger("old", 2), MemoryLedger("new", NEW_PARTITIONS)
    async with old.running():
        await live_a_life(old)
    hold_on(old, ACCOUNTS[3], "h1")
    hold_on(old, "never-seen", "h2")
    report = await reshard(old, new)
    assert report.differences == []
    assert (report.accounts, report.holds, report.catalogs) == (len(ACCOUNTS), 2, 2)
    assert report.left_out == {}, [
        sealed.entry.detail for sealed in old.entries() if sealed.entry.reason == "invalid_event"
    ]
    assert report.copied == old.decided() == new.decided()
    assert report.uncovered == 0
    refusals = [sealed.entry.reason for sealed in old.entries() if sealed.entry.kind == "refusal"]
    assert refusals.count("unknown_model") == len(ACCOUNTS)
    assert "period_closed" in refusals
    kinds = {sealed.entry.kind for sealed in old.entries()}
    assert kinds >= {"renewal", "grant_expired", "void", "duplicate", "suspension", "plan_change"}
    assert any(sealed.entry.is_late for sealed in old.entries())
    held = [hold for view in new.views for hold in view.holds.items()]
    assert {key for key, _ in held} == {(ACCOUNTS[3], "h1"), ("never-seen", "h2")}
    assert all(hold.holder == holder_of_source("/test") for _, hold in held)


@in_a_loop
async def test_what_a_grown_topic_kept_from_the_ledger_is_decided_by_the_new_one() -> None:
    old, new = LiveLedger("old", 2), MemoryLedger("new", NEW_PARTITIONS)
    async with old.running():
        old.publish()
        for account in ACCOUNTS:
            old.use("2026-01-02T10:00:00Z", account)
        await old.settle("2026-01-02T11:00:00Z")
    old.topic_partitions = 5
    for account in ACCOUNTS:
        old.use("2026-01-03T10:00:00Z", account)
    hold_on(old, ACCOUNTS[0], "generation")
    old.use("2026-01-03T10:00:01Z", ACCOUNTS[0], hold_id="generation")
    old.append(old.topics.usage, 4, None, b"junk", 1_767_000_000_000)
    report = await reshard(old, new)
    assert report.differences == []
    assert (report.copied, report.uncovered) == (len(ACCOUNTS), len(ACCOUNTS) + 2)
    used = {account: state.period.used for account, state in states_of(new).items()}
    assert used == dict.fromkeys(ACCOUNTS, 64000000) | {ACCOUNTS[0]: 96_000_000}
    assert new.decided() == report.copied + report.uncovered
    view = new.views[partition_of(ACCOUNTS[0].encode(), NEW_PARTITIONS)]
    assert view.holds[ACCOUNTS[0], "generation"].state == "settled"


@pytest.mark.parametrize("partitions", [1, 3, 8])
@in_a_loop
async def test_any_order_in_which_a_ledger_decided_comes_out_the_same(
    partitions: int, rng: random.Random
) -> None:
    """Many events share a millisecond, and either topic can be behind the other."""
    old, new = LiveLedger("old", 3), MemoryLedger("new", partitions)
    async with old.running():
        old.publish()
        at = datetime(2026, 1, 1, 12, tzinfo=UTC)
        for _ in range(25):
            for _ in range(rng.randrange(20)):
                happen(old, rng, at)
                at += timedelta(milliseconds=rng.choice((0, 0, 0, 1)))
            if rng.random() < 0.3:
                at += timedelta(days=rng.randrange(20))
            await old.settle(at.isoformat())
    report = await reshard(old, new)
    assert report.differences == []
    assert report.copied == new.decided() == old.decided()


def happen(old: LiveLedger, rng: random.Random, at: datetime) -> None:
    account, time = (
        rng.choice(ACCOUNTS[:5]),
        (at - timedelta(hours=rng.choice((0, 0, 1, 50, 100)))).isoformat(),
    )
    now = at.isoformat()
    match rng.randrange(8):
        case 0:
            old.send("account.subscribed", time, account, appended=now, plan="pro")
        case 1:
            plan = rng.choice(("pro", "max", "scale"))
            old.send("account.plan_changed", time, account, appended=now, plan=plan)
        case 2:
            old.send("account.suspended", time, account, appended=now, reason="fraud")
        case 3:
            old.send("account.resumed", time, account, appended=now)
        case 4:
            expires = (at + timedelta(days=rng.randrange(1, 40))).isoformat()
            old.send(
                "credits.granted", time, account, appended=now, credits="30", expires_at=expires
            )
        case _:
            old.use(time, account, appended=now, event_id=f"u{rng.randrange(60)}")


@in_a_loop
async def test_an_account_that_differs_is_named_and_nothing_more_is_sent() -> None:
    old, new = LiveLedger("old", 2), MemoryLedger("new", NEW_PARTITIONS)
    async with old.running():
        old.publish()
        old.use("2026-01-02T10:00:00Z", "acct-1")
        old.use("2026-01-02T10:00:01Z", "acct-1", quantity="2")
        old.use("2026-01-02T10:00:01Z", "acct-2")
        await old.settle("2026-01-02T11:00:00Z")
    lost = [
        r
        for records in old.records.values()
        for r in records
        if b'"quantity": "2"' in (r.value or b"")
    ]
    new.garbles = {record.value for record in lost if record.value is not None}
    old.use("2026-01-02T12:00:00Z", "acct-2")
    report = await reshard(old, new)
    assert {(each.account, each.what): (each.old, each.new) for each in report.differences} == {
        ("acct-1", "used"): ("96", "32"),
        ("acct-1", "remaining"): ("104", "168"),
        ("acct-1", "used by feature"): ("genai_video 96", "genai_video 32"),
    }
    assert report.uncovered == 0
    assert len(states_of(new)) == 2


@in_a_loop
async def test_an_account_that_is_missing_is_a_difference() -> None:
    old, new = LiveLedger("old", 1), MemoryLedger("new", 2)
    async with old.running():
        old.publish()
        old.use("2026-01-02T10:00:00Z", "acct-1")
        await old.settle("2026-01-02T11:00:00Z")
    new.garbles = {r.value for r in old.records[old.topics.usage, 0] if r.value is not None}
    report = await reshard(old, new)
    assert [each.account for each in report.differences] == ["acct-1"]


@in_a_loop
async def test_records_that_are_no_events_are_counted_and_left_out() -> None:
    old, new = LiveLedger("old", 2), MemoryLedger("new", 3)
    async with old.running():
        old.publish()
        at_ms = 1_767_300_000_000
        for n in range(40):
            old.append(old.topics.usage, 0, None, f"junk {n}".encode(), at_ms)
        old.use("2026-01-02T10:00:00Z", "acct-1")
        wrong = 1 - partition_of(b"acct-1", 2)
        record = next(r for (_, p), rs in old.records.items() for r in rs if r.key and p != wrong)
        assert record.value is not None
        old.append(old.topics.usage, wrong, record.key, record.value, at_ms + 100_000_000)
        await old.settle("2026-01-02T11:00:00Z")
    report = await reshard(old, new)
    assert report.differences == []
    assert report.left_out == {"malformed": 40, "wrong_partition": 1}
    assert report.copied == 1


@in_a_loop
async def test_an_input_that_was_lost_is_named() -> None:
    old, new = LiveLedger("old", 1), MemoryLedger("new", 2)
    async with old.running():
        old.publish()
        old.use("2026-01-02T10:00:00Z", "acct-1")
        await old.settle("2026-01-02T11:00:00Z")
    old.records[old.topics.usage, 0].clear()
    with pytest.raises(HistoryUnreadable, match="usage 0@0 is no longer in its topic"):
        await reshard(old, new)


@in_a_loop
async def test_a_stranger_who_writes_to_the_new_ledger_meanwhile_ends_the_command() -> None:
    old, new = LiveLedger("old", 1), MemoryLedger("new", 1)
    async with old.running():
        old.publish()
        old.use("2026-01-02T10:00:00Z", "acct-1")
        await old.settle("2026-01-02T11:00:00Z")
    new.append(new.topics.usage, 0, b"acct-1", b"{}", 0)
    with pytest.raises(DecidingStopped, match="has 2 records, and 1 were sent: nothing else may"):
        await reshard(old, new)


@in_a_loop
async def test_a_partition_of_the_new_ledger_that_stops_ends_the_command() -> None:
    """Its counters are another ledger's."""
    old, new = LiveLedger("old", 1), MemoryLedger("new", 2)
    async with old.running():
        old.publish()
        old.use("2026-01-02T10:00:00Z", "acct-1")
        await old.settle("2026-01-02T11:00:00Z")
    new.views[0].stored_head = old.views[0].stored_head
    with pytest.raises(DecidingStopped, match="partition 0 of the new ledger has stopped"):
        await reshard(old, new)


@pytest.mark.parametrize("change", [{"credits": 1}, {"holder": "key:k"}, {"content": b"[]"}])
def test_a_hold_that_differs_is_named(change: dict[str, Any]) -> None:
    hold = Hold("open", 32_000_000, 99, "source:/render", b'["video",null,"1"]')
    old, new = {("acct-1", "h1"): hold}, {("acct-1", "h1"): hold._replace(counts_until_ms=98)}
    assert list(hold_differences(old, new)) == []
    changed = {("acct-1", "h1"): hold._replace(**change)}
    assert [each.what for each in hold_differences(old, changed)] == ["hold h1"]
    assert [each.new for each in hold_differences(old, {})] == ["–"]
