"""Fourteen months imported by the real commands, compared with an oracle of the published rules."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.oracle.comparing import balance_differences, limit_event_differences, outcome_differences
from tests.oracle.generate import History, generate
from tests.oracle.oracle import EPOCH, MILLISECOND, Arrival, Oracle, is_account_event, subject_of
from usageledger.accounts.balances import AccountReader
from usageledger.accounts.queries import Clock
from usageledger.cli.account_balance import balance_document
from usageledger.counters.connection import connect_blocking
from usageledger.ledger.partitioning import partition_of
from usageledger.log.reading import log_reader
from usageledger.log.topics import Topics
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.runtime.settings import stack_redis_url

pytestmark = pytest.mark.timeout(300)  # a stack of its own, and a dozen commands

SEED = 20_261_124
ASKED_BY_COMMAND = 8
ASKED_IN_ALL = 400


def run(data: Path, *arguments: str, timeout_s: float = 120) -> str:
    """The output of the installed command. If the command fails, so does the test."""
    command = [sys.executable, "-m", "usageledger.cli", *arguments, "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, f"{arguments}: {done.stdout[-2_000:]}\n{done.stderr[-2_000:]}"
    return done.stdout


@dataclass(frozen=True)
class Imported:
    """A stack with a history in it, and an oracle that has decided the same history."""

    data: Path
    ready: dict[str, Any]
    partitions: int
    history: History
    oracle: Oracle


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Imported]:
    data = tmp_path_factory.mktemp("imported")
    history = generate(SEED)
    file = data.parent / "history.ndjson"
    file.write_bytes(history.ndjson())
    ready = json.loads(run(data, "up", "--import", "--detach", "--json", timeout_s=200))
    try:
        sent = json.loads(run(data, "send", str(file), "--json"))
        assert sent["sent"] == len(history.arrivals)
        run(data, "wait-idle", "--timeout", "100")
        with log_reader(KafkaConnection(servers=ready["kafka"])) as reader:
            partitions = reader.partition_count(Topics(ready["prefix"]).ledger)
        partition = partial(_partition, partitions=partitions)
        oracle = Oracle(_in_the_order_of_the_file(history.arrivals, partition), partition)
        yield Imported(data, ready, partitions, history, oracle)
    finally:
        run(data, "down")


def test_each_line_is_decided_as_the_oracle_decides_it(
    imported: Imported,
) -> None:
    decisions = {}
    arrival_at = _arrivals_by_address(imported)
    for line in run(imported.data, "ledger", "show", "--json").splitlines():
        entry = json.loads(line)
        address = entry.get("input")
        if address is not None and address["topic"] != "catalog":
            decisions[arrival_at[address["topic"], address["partition"], address["offset"]]] = (
                entry["kind"],
                entry.get("reason"),
            )
    found = list(outcome_differences(imported.oracle, decisions))
    assert not found, "\n".join(found[:10])


def test_every_account_agrees_with_the_oracle_at_every_moment(imported: Imported) -> None:
    """In one process, as the command does it. The next test runs the command itself."""
    rng = random.Random(SEED)
    found = []
    redis = connect_blocking(stack_redis_url(imported.data))
    try:
        with log_reader(KafkaConnection(servers=imported.ready["kafka"])) as reader:
            clock = Clock(is_importing=lambda: True)
            accounts = AccountReader(reader, redis, imported.ready["prefix"], clock)
            for name, at in rng.sample(_questions(imported.history), ASKED_IN_ALL):
                shown = balance_document(accounts.balance(name, at=at), with_holds=False)
                found += [
                    f"{name} at {at}: {each}"
                    for each in balance_differences(imported.oracle.show(name, at), shown)
                ]
    finally:
        redis.close()
    assert not found, "\n".join(found[:10])


def test_account_show_agrees_with_the_oracle(imported: Imported) -> None:
    rng = random.Random(SEED + 1)
    found = []
    for name, at in rng.sample(_questions(imported.history), ASKED_BY_COMMAND):
        shown = json.loads(
            run(imported.data, "account", "show", name, "--at", at.isoformat(), "--json")
        )
        found += [
            f"{name} at {at}: {each}"
            for each in balance_differences(imported.oracle.show(name, at), shown)
        ]
    assert not found, "\n".join(found[:10])


def test_limit_events_agree_with_the_oracle(imported: Imported) -> None:
    tail = run(imported.data, "limits", "tail", "--from-beginning", "--until-idle", "3", "--json")
    events = [json.loads(line) for line in tail.splitlines()]
    assert len({event["id"] for event in events}) == len(events)
    found = []
    for name in imported.history.names:
        mine = [event for event in events if event["subject"] == name]
        found += [
            f"{name}: {each}"
            for each in limit_event_differences(list(imported.oracle.limit_events_of(name)), mine)
        ]
    assert not found, "\n".join(found[:10])
    assert len(events) == len(imported.oracle.limit_events)


def test_the_audit_finds_every_line_and_no_difference(imported: Imported) -> None:
    report = json.loads(run(imported.data, "audit", "verify", "--json"))
    assert report["is_clean"]
    assert report["inputs"] == len(imported.history.arrivals)
    assert report["accepted"] + report["refused"] + report["duplicates"] == report["inputs"]
    assert report["limit_events"] == len(imported.oracle.limit_events)


def _partition(account: str | None, *, partitions: int) -> int:
    return 0 if account is None else partition_of(account.encode(), partitions)


def _in_the_order_of_the_file(
    arrivals: list[Arrival], partition_of: Callable[[str | None], int]
) -> list[Arrival]:
    """The arrivals, dated so that each partition decides them in the order of the file."""
    last: dict[int, Arrival] = {}
    dated = []
    for arrival in arrivals:
        partition = partition_of(subject_of(arrival.value))
        before = last.get(partition, arrival)
        earliest_ms = before.timestamp_ms + (
            is_account_event(arrival.value) and not is_account_event(before.value)
        )
        last[partition] = Arrival(arrival.value, max(arrival.timestamp_ms, earliest_ms))
        dated.append(last[partition])
    return dated


def _arrivals_by_address(imported: Imported) -> dict[tuple[str, int, int], int]:
    """The number of each line by its topic, partition and offset."""
    counts: Counter[tuple[str, int]] = Counter()
    numbers = {}
    for number, arrival in enumerate(imported.history.arrivals):
        topic = "account" if is_account_event(arrival.value) else "usage"
        partition = _partition(subject_of(arrival.value), partitions=imported.partitions)
        numbers[topic, partition, counts[topic, partition]] = number
        counts[topic, partition] += 1
    return numbers


def _questions(history: History) -> list[tuple[str, datetime]]:
    """Accounts and the times at which they change, each with the millisecond before it."""
    questions = set()
    for name in history.names:
        for moment in history.moments[name]:
            at = EPOCH + ((moment - EPOCH) // MILLISECOND) * MILLISECOND
            questions |= {(name, at), (name, at - timedelta(milliseconds=1))}
    return sorted(questions)
