"""Telemetry of services: alive, ready or why not, and figures that Prometheus reads."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from usageledger.history.service import HistoryHealth
from usageledger.limits import announcer
from usageledger.limits.reporting import report_of
from usageledger.processor.health import PartitionHealth, WorkerHealth
from usageledger.runtime.telemetry import Figure, Report, Telemetry, serve_telemetry


def metrics_in(service: str, report: Report) -> dict[str, float]:
    """The values in a report's /metrics, by name and label."""
    telemetry = Telemetry(service)
    telemetry.update(report)
    answer = telemetry.answer("/metrics")
    assert answer.status == 200
    families = text_string_to_metric_families(answer.body.decode())
    samples = (
        sample
        for family in families
        for sample in family.samples
        if sample.name.startswith("usageledger_")
    )
    return {
        sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value
        for sample in samples
    }


def unready(report: Report) -> list[str]:
    telemetry = Telemetry("x")
    telemetry.update(report)
    answer = telemetry.answer("/readyz")
    reasons: list[str] = json.loads(answer.body)["reasons"]
    assert answer.status == (503 if reasons else 200)
    return reasons


def test_a_service_is_alive_from_the_start_and_ready_once_it_has_said_so() -> None:
    telemetry = Telemetry("processor")
    assert telemetry.answer("/healthz").status == 200
    assert telemetry.answer("/readyz").status == 503
    telemetry.update(Report())
    assert telemetry.answer("/readyz").status == 200
    assert telemetry.answer("/").status == 404


def test_what_keeps_a_service_from_its_servers_comes_first() -> None:
    obstacles: list[str | None] = ["the broker refuses the user", None]
    telemetry = Telemetry("processor", lambda: obstacles.pop(0))
    telemetry.update(Report())
    assert readiness(telemetry) == (503, ["the broker refuses the user"])
    assert readiness(telemetry) == (200, [])


def readiness(telemetry: Telemetry) -> tuple[int, list[str]]:
    answer = telemetry.answer("/readyz")
    return answer.status, json.loads(answer.body)["reasons"]


def test_figures_are_named_after_their_service() -> None:
    report = Report(
        figures=(
            Figure("done", "d", {"": 5}, is_total=True),
            Figure("lag", "l", {"usage": 3, "account": 0}, label="input"),
        ),
    )
    assert metrics_in("processor", report) == {
        "usageledger_processor_done_total": 5,
        "usageledger_processor_lag/usage": 3,
        "usageledger_processor_lag/account": 0,
    }


def partition(number: int = 0, **changes: object) -> PartitionHealth:
    fields = {
        "partition": number,
        "state": "running",
        "stopped_because": None,
        "usage_lag_records": 0,
        "account_lag_records": 0,
    }
    return PartitionHealth(**(fields | changes))  # type: ignore[arg-type] # its fields, by name


def test_a_processor_is_ready_when_it_has_partitions_and_none_has_stopped() -> None:
    assert unready(WorkerHealth(partitions=()).report()) == ["no partition is assigned to it"]
    assert (
        unready(WorkerHealth(partitions=(partition(), partition(1, state="catching_up"))).report())
        == []
    )
    stopped = partition(1, state="stopped", stopped_because="it was truncated")
    assert unready(WorkerHealth(partitions=(partition(), stopped)).report()) == [
        "partition 1 stopped: it was truncated"
    ]


def test_a_processor_that_waits_for_redis_is_not_ready_and_says_why() -> None:
    full = "Redis is full and writes nothing: raise its maxmemory, or make room in it"
    waiting = [
        partition(number, state="waiting_for_redis", waiting_because=full) for number in range(3)
    ]
    assert unready(WorkerHealth(partitions=(*waiting, partition(3))).report()) == [
        f"3 partitions wait: {full}"
    ]
    assert unready(WorkerHealth(partitions=(waiting[0],)).report()) == [
        f"1 partition waits: {full}"
    ]
    # No partition has anything to write.
    assert unready(WorkerHealth(partitions=(partition(),), redis_trouble=full).report()) == [full]


def test_a_service_that_does_most_of_its_work_is_ready_and_says_what_it_does_not() -> None:
    telemetry = Telemetry("gateway")
    telemetry.update(Report(degraded=("redis: Redis is full",)))
    answer = telemetry.answer("/readyz")
    assert answer.status == 200
    assert json.loads(answer.body) == {
        "status": "ready", "reasons": [], "degraded": ["redis: Redis is full"],
    }  # fmt: skip


def test_a_processor_reports_lags_offsets_and_catching_up() -> None:
    health = WorkerHealth(
        partitions=(
            partition(
                0,
                usage_lag_records=7,
                account_lag_records=None,
                decided={"usage": 40, "account": 2},
                ledger_end=43,
                ids_reused=3,
            ),
            partition(
                1, state="catching_up", usage_lag_records=1, catch_up=(10, 25), no_progress_s=1.5
            ),
        )
    )
    assert metrics_in("processor", health.report()) == {
        "usageledger_processor_partitions/running": 1,
        "usageledger_processor_partitions/catching_up": 1,
        "usageledger_processor_lag_records/usage": 8,
        "usageledger_processor_lag_records/account": 0,
        "usageledger_processor_decided_usage_offset/0": 40,
        "usageledger_processor_decided_account_offset/0": 2,
        "usageledger_processor_ledger_offset/0": 43,
        "usageledger_processor_ids_reused_total/0": 3,
        "usageledger_processor_ids_reused_total/1": 0,
        "usageledger_processor_catch_up_records": 15,
        "usageledger_processor_no_progress_seconds": 1.5,
    }


def test_a_limits_consumer_is_ready_when_all_its_partitions_announce() -> None:
    announcing, stopped = (
        announcer.PartitionHealth("announcing", 12),
        announcer.PartitionHealth("stopped", detail="a gap"),
    )
    assert unready(report_of({}, {}, 0)) == ["no partition is assigned to it"]
    assert unready(report_of({0: announcing}, {0: 12}, 0)) == []
    assert unready(report_of({0: announcing, 1: stopped}, {}, 0)) == ["partition 1: stopped: a gap"]
    assert metrics_in("limits", report_of({0: announcing, 1: stopped}, {0: 15, 1: 99}, 4)) == {
        "usageledger_limits_partitions/announcing": 1,
        "usageledger_limits_partitions/stopped": 1,
        "usageledger_limits_announced_total": 4,
        "usageledger_limits_lag_records": 3,
        "usageledger_limits_announced_offset/0": 12,
    }


def test_a_history_is_ready_while_it_can_read_and_no_partition_has_stopped() -> None:
    assert unready(HistoryHealth(partition_count=2, lag_records=5).report()) == []
    assert unready(
        HistoryHealth(partition_count=2, stopped={1: "a gap"}, trouble="no Kafka").report()
    ) == [
        "partition 1 stopped: a gap",
        "no Kafka",
    ]
    assert metrics_in(
        "history",
        HistoryHealth(
            partition_count=2, folded_count=9, lag_records=5, stopped={1: "a gap"}
        ).report(),
    ) == {
        "usageledger_history_entries_total": 9,
        "usageledger_history_lag_records": 5,
        "usageledger_history_partitions/folding": 1,
        "usageledger_history_partitions/stopped": 1,
    }


def test_a_service_works_on_though_nothing_can_listen_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse_to_listen(*_: object) -> SimpleNamespace:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr("usageledger.runtime.telemetry._server", refuse_to_listen)
    with serve_telemetry("processor", host="127.0.0.1", port=1) as telemetry:
        telemetry.update(Report())
    assert "telemetry cannot be served at 127.0.0.1:1" in caplog.text
