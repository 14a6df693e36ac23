"""Refused inputs: which they are, and which are sent again."""

from __future__ import annotations

from tests.worlds.decided_partition import HOUR_MS, JAN_31_MS, DecidedPartition, InputReader
from usageledger.ledger.records import Record
from usageledger.operations.refusals import (
    CAN_CHANGE,
    refusal_detail,
    refused_inputs,
    resent_records,
    to_send_again,
)


def test_a_refused_input_is_shown_with_its_place_and_reason() -> None:
    ledger = DecidedPartition()
    ledger.use("u1")
    ledger.send("usage", b"not json", key=None)
    ledger.use("u2", model="veo_9")
    not_json, unknown = refused_inputs(ledger.entries)
    assert (not_json.reason, not_json.account, not_json.place, not_json.entry, not_json.event) == (
        "not_json",
        "",
        "usage 0-1",
        "0-2",
        None,
    )
    assert (unknown.reason, unknown.account, unknown.place, unknown.model) == (
        "unknown_model",
        "acct_1",
        "usage 0-2",
        "veo_9",
    )


def test_a_refused_event_that_is_accepted_later_is_resolved() -> None:
    ledger = DecidedPartition()
    ledger.use("u1", model="veo_9")
    ledger.use("u2", model="veo_9")
    ledger.use("u1")
    assert [refusal.is_resolved for refusal in refused_inputs(ledger.entries)] == [True, False]


def test_only_reasons_that_can_change_are_sent_again_and_each_event_once() -> None:
    ledger = DecidedPartition()
    ledger.use("u1", model="veo_9")
    ledger.use("u1", model="veo_9")
    ledger.send("usage", b"not json", key=None)
    ledger.use("u2", model="veo_9")
    ledger.use("u2")
    ledger.send_account_event("account.subscribed", "s1", plan="platinum")
    chosen = to_send_again(refused_inputs(ledger.entries), CAN_CHANGE)
    assert [(refusal.input.topic, refusal.input.offset) for refusal in chosen] == [
        ("usage", 0),
        ("account", 0),
    ]


def test_a_reason_that_is_asked_for_is_sent_again_whichever_it_is() -> None:
    ledger = DecidedPartition()
    ledger.send("usage", b"not json", key=None)
    assert len(to_send_again(refused_inputs(ledger.entries), ["not_json"])) == 1


def test_a_refused_record_is_sent_again_unchanged() -> None:
    """In import mode it keeps its own time. Otherwise Kafka gives it a new one."""
    ledger = DecidedPartition()
    ledger.use("u0")
    ledger.use("u1", model="veo_9")
    chosen = to_send_again(refused_inputs(ledger.entries), CAN_CHANGE)
    (imported,) = resent_records(InputReader(ledger), "", chosen, partition_count=1, importing=True)
    (live,) = resent_records(InputReader(ledger), "", chosen, partition_count=1, importing=False)
    assert (imported.input, imported.key, imported.value) == (
        "usage",
        b"acct_1",
        ledger.inputs["usage"][1].value,
    )
    assert (imported.timestamp_ms, live.timestamp_ms) == (JAN_31_MS + HOUR_MS, None)


def test_the_records_of_a_run_are_sent_again_one_by_one() -> None:
    """A producer with another partitioner had all its events refused as one run."""
    ledger = DecidedPartition()
    ledger.use("u0")
    chunk = [Record(1 + n, JAN_31_MS + HOUR_MS, b"acct_1", b"%d" % n) for n in range(12)]
    ledger.inputs["usage"] += chunk
    (item,) = ledger.book.decode("usage", chunk)
    ledger.entries += ledger.book.decide_input(item)
    (run,) = to_send_again(refused_inputs(ledger.entries), ["not_a_cloudevent"])
    assert run.place == "usage 0-1"
    assert refusal_detail(run).startswith("12 records in a row, up to offset 12: 12 not_a_cloud")
    again = resent_records(InputReader(ledger), "", [run], partition_count=1, importing=False)
    assert [record.value for record in again] == [record.value for record in chunk]
