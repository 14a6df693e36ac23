"""The stack as a whole, with services that are stand-ins: real servers, real processes, real
signals.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from usageledger.local.addresses import Addresses
from usageledger.local.daemon import read_status, start_detached, stop_stack
from usageledger.local.docker_servers import why_not_docker
from usageledger.local.errors import StackError
from usageledger.local.processes import ends_within
from usageledger.local.progress import Remembering
from usageledger.local.servers import Backend
from usageledger.local.stack import Stack
from usageledger.operations.errors import OperatorError
from usageledger.operations.topics import create_topics, is_importing
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.runtime.redaction import redacted
from usageledger.runtime.settings import Settings

STEADY = [sys.executable, "-c", "import time; time.sleep(600)"]
TELLING = [
    sys.executable,
    "-c",
    "import os, time; print(os.environ['USAGELEDGER_KAFKA'], flush=True); time.sleep(600)",
]
CRASHING = [
    sys.executable,
    "-c",
    "import time; time.sleep(0.3); raise SystemExit('out of credits')",
]

UP = """
import sys
from pathlib import Path
from usageledger.local.stack import Stack
from usageledger.runtime.kafka_connection import KafkaConnection
kafka, redis = sys.argv[2:4]
services = {"processor": [sys.executable, "-c", "import time; time.sleep(600)"]}
Stack(
    Path(sys.argv[1]),
    kafka=KafkaConnection(servers=kafka) if kafka else None,
    redis=redis or None,
    prefix=sys.argv[4],
    partitions=2,
    services=services,
).run()
"""


def up_command(
    data: Path, kafka: KafkaConnection | None = None, redis: str = "", prefix: str = ""
) -> list[str]:
    return [sys.executable, "-c", UP, str(data), str(kafka or ""), redis, prefix]


def services_of(status: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {service["name"]: service for service in status["services"]}


def within(seconds: float, check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    "backend", ["packages", pytest.param("docker", marks=pytest.mark.docker_backend)]
)
def test_a_stack_of_our_own_servers_comes_up_heals_and_goes_down(
    tmp_path: Path, backend: Backend
) -> None:
    if backend == "docker" and (reason := why_not_docker()) is not None:
        pytest.skip(reason)
    progress = Remembering()
    prepared: list[Addresses] = []
    services = {"processor": TELLING, "limits": STEADY}
    stack = Stack(
        tmp_path, backend=backend, partitions=2, prepare=prepared.append, services=services
    )
    addresses = stack.start(progress)
    try:
        assert prepared == [addresses]
        assert create_topics(addresses.kafka, partitions=2) == []
        assert Settings.find(tmp_path).kafka == addresses.kafka
        assert (tmp_path / "logs" / "processor.log").read_text(
            encoding="utf-8"
        ) == f"{addresses.kafka}\n"

        before = services_of(stack.status())
        assert list(before) == ["kafka", "redis", "processor", "limits"]
        assert {service["state"] for service in before.values()} == {"running"}
        killed = [name for name in ("redis", "processor") if before[name]["pid"] is not None]
        for name in killed:
            os.kill(before[name]["pid"], signal.SIGKILL)
        assert within(
            30, lambda: all(services_of(stack.status())[name]["restarts"] == 1 for name in killed)
        )
        assert within(
            30, lambda: {service["state"] for service in stack.status()["services"]} == {"running"}
        )
        after = services_of(stack.status())
        assert after["processor"]["pid"] != before["processor"]["pid"]
        assert after["limits"]["pid"] == before["limits"]["pid"]
        assert any(
            warning.startswith("processor was killed by signal 9") for warning in progress.warned
        )
    finally:
        stack.stop()
    assert all(
        ends_within(service["pid"], 60) for service in after.values() if service["pid"] is not None
    )
    status = read_status(tmp_path)
    assert status["state"] == "stopped"
    assert {service["state"] for service in status["services"]} == {"stopped"}


def test_a_broker_that_is_killed_is_started_again_at_its_address(
    tmp_path: Path, redis_url: str
) -> None:
    stack = Stack(tmp_path, redis=redis_url, partitions=1, services={})
    addresses = stack.start()
    try:
        os.kill(services_of(stack.status())["kafka"]["pid"], signal.SIGKILL)
        assert within(60, lambda: services_of(stack.status())["kafka"]["restarts"] == 1)
        assert within(60, lambda: services_of(stack.status())["kafka"]["state"] == "running")
        assert create_topics(addresses.kafka, partitions=1) == []
    finally:
        stack.stop()


def test_given_servers_are_used_and_left_running(
    tmp_path: Path, kafka: KafkaConnection, redis_url: str, prefix: str
) -> None:
    stack = Stack(
        tmp_path,
        kafka=kafka,
        redis=redis_url,
        prefix=prefix,
        partitions=2,
        services={"limits": STEADY},
    )
    stack.start()
    try:
        status = stack.status()
        assert (status["kafka"], status["redis"]) == (str(kafka), redacted(redis_url))
        assert services_of(status)["kafka"] | {"since": ""} == {
            "name": "kafka", "pid": None, "state": "running", "restarts": 0, "since": "",
            "description": f"Kafka at {kafka}, as given", "log": None,
        }  # fmt: skip
    finally:
        stack.stop()
    assert create_topics(kafka, prefix, partitions=2) == []


def test_a_crashing_service_is_reported_with_its_log_and_the_stack_comes_up(
    tmp_path: Path, kafka: KafkaConnection, redis_url: str, prefix: str
) -> None:
    progress = Remembering()
    services = {"processor": CRASHING, "limits": STEADY}
    stack = Stack(
        tmp_path, kafka=kafka, redis=redis_url, prefix=prefix, partitions=2, services=services
    )
    stack.start(progress)
    try:
        assert within(60, lambda: services_of(stack.status())["processor"]["restarts"] >= 2)
        assert services_of(stack.status())["limits"]["restarts"] == 0
        assert (
            "processor ended with exit code 1; it is started again in 0.5 s" in progress.warned[0]
        )
        assert "out of credits" in progress.warned[0]
        assert "it is started again in 1 s" in progress.warned[1]
    finally:
        stack.stop()


def test_a_second_stack_in_one_directory_is_refused(
    tmp_path: Path, kafka: KafkaConnection, redis_url: str, prefix: str
) -> None:
    stack = Stack(tmp_path, kafka=kafka, redis=redis_url, prefix=prefix, partitions=2, services={})
    stack.start()
    try:
        with pytest.raises(
            StackError, match=f"a stack runs in .* already \\(process {os.getpid()}\\)"
        ):
            Stack(tmp_path, services={}).start()
        with pytest.raises(
            StackError, match=f"a stack runs in .* already \\(process {os.getpid()}\\)"
        ):
            start_detached(up_command(tmp_path), tmp_path, fetch=False)
        assert stack.status()["state"] == "running"
    finally:
        stack.stop()


def test_a_failure_on_the_way_up_is_raised_and_nothing_is_left_running(
    tmp_path: Path, kafka: KafkaConnection, prefix: str
) -> None:
    def refuse(addresses: Addresses) -> None:
        raise StackError("the catalog does not fit")

    stack = Stack(
        tmp_path,
        kafka=kafka,
        prefix=prefix,
        partitions=2,
        prepare=refuse,
        services={"limits": STEADY},
    )
    with pytest.raises(StackError, match="the catalog does not fit"):
        stack.start()
    assert read_status(tmp_path)["state"] == "stopped"
    assert [service["state"] for service in read_status(tmp_path)["services"]] == [
        "stopped",
        "stopped",
    ]


def test_a_port_for_the_gateway_that_is_taken_is_refused_before_anything_starts(
    tmp_path: Path, kafka: KafkaConnection, redis_url: str
) -> None:
    """It came up without its gateway, said "ready", and sent its user to somebody else's server."""
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        with pytest.raises(
            StackError, match=f"something listens on port {port} of 127.0.0.1 already"
        ):
            Stack(tmp_path, kafka=kafka, redis=redis_url, port=port).start()
    assert not (tmp_path / "logs" / "gateway.log").exists()


def test_an_address_where_nobody_answers_is_refused(tmp_path: Path, kafka: KafkaConnection) -> None:
    with pytest.raises(StackError, match=r"no Redis answers at redis://127.0.0.1:1/0"):
        Stack(tmp_path, kafka=kafka, redis="redis://127.0.0.1:1/0", services={}).start()


@pytest.mark.importing
def test_a_ledger_in_import_mode_comes_up_again_in_import_mode(
    tmp_path: Path, kafka: KafkaConnection, redis_url: str, prefix: str
) -> None:
    progress = Remembering()
    stack = Stack(tmp_path, kafka=kafka, redis=redis_url, prefix=prefix, partitions=2, services={})
    stack.start(progress)
    try:
        assert is_importing(kafka, prefix)
        assert "the ledger is in import mode until `usageledger go-live`" in progress.said
    finally:
        stack.stop()


def test_a_live_ledger_cannot_be_brought_up_for_import(
    tmp_path: Path, kafka: KafkaConnection, redis_url: str, prefix: str
) -> None:
    with pytest.raises(OperatorError, match="cannot go back to import mode"):
        Stack(
            tmp_path,
            kafka=kafka,
            redis=redis_url,
            prefix=prefix,
            partitions=2,
            importing=True,
            services={},
        ).start()


def test_a_daemon_comes_up_and_ends_when_told(
    tmp_path: Path, kafka: KafkaConnection, prefix: str
) -> None:
    progress = Remembering()
    addresses = start_detached(up_command(tmp_path, kafka, prefix=prefix), tmp_path, progress)
    status = read_status(tmp_path)
    try:
        assert status["state"] == "running"
        assert Settings.find(tmp_path).kafka == addresses.kafka
        assert "starting processor" in progress.said
    finally:
        stop_stack(tmp_path)
    assert read_status(tmp_path)["state"] == "stopped"
    ours = [service["pid"] for service in status["services"] if service["name"] != "kafka"]
    assert all(ends_within(pid, 60) for pid in [status["pid"], *ours])
    with pytest.raises(StackError, match="no running stack"):
        stop_stack(tmp_path)


def test_a_daemon_that_cannot_come_up_says_why(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"nobody listens at 127\.0\.0\.1:1"):
        start_detached(
            up_command(tmp_path, kafka=KafkaConnection(servers="127.0.0.1:1")),
            tmp_path,
            fetch=False,
        )


def test_nothing_outlives_a_killed_supervisor_and_its_directory_can_be_used_again(
    tmp_path: Path, kafka: KafkaConnection, prefix: str
) -> None:
    command = up_command(tmp_path, kafka, prefix=prefix)
    start_detached(command, tmp_path)
    status = read_status(tmp_path)
    os.kill(status["pid"], signal.SIGKILL)
    for name, service in services_of(status).items():
        assert name == "kafka" or ends_within(service["pid"], 60), name
    # The directory's lock goes with the supervisor itself, which may end last.
    assert ends_within(status["pid"], 60)
    assert read_status(tmp_path)["state"] == "stopped"
    start_detached(command, tmp_path)
    again = read_status(tmp_path)
    stop_stack(tmp_path)
    assert again["redis"] == status["redis"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stack_in_the_foreground_ends_in_order_on_a_signal(
    tmp_path: Path, kafka: KafkaConnection, redis_url: str, prefix: str, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        up_command(tmp_path, kafka, redis_url, prefix),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert within(
            30,
            lambda: (
                (tmp_path / "status.json").exists()
                and read_status(tmp_path)["state"] in ("running", "starting")
            ),
        )
        assert within(
            30, lambda: read_status(tmp_path)["state"] == "running" or process.poll() is not None
        )
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
        assert (process.returncode, output) == (0, b"")
    finally:
        process.kill()
        process.wait(60)
    assert (
        json.loads((tmp_path / "status.json").read_text(encoding="utf-8"))["services"][-1]["state"]
        == "stopped"
    )
    assert not (tmp_path / "stack.json").exists()
