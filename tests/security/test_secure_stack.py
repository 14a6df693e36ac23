"""`usageledger up --secure`: a stack whose Kafka and Redis refuse strangers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import redis

from usageledger import UsageMeter
from usageledger.log.diagnosis import connection_problem
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.runtime.settings import stack_redis_url

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("secure")
    usageledger("up", "--secure", "--detach", "--partitions", "2", "--data", str(directory))
    try:
        yield directory
    finally:
        usageledger("down", "--data", str(directory))


def usageledger(*arguments: str) -> str:
    given = ("USAGELEDGER_KAFKA", "USAGELEDGER_REDIS_URL")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(given)}
    command = [sys.executable, "-m", "usageledger.cli", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, env=variables)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_a_workers_event_is_counted(data: Path, tmp_path: Path) -> None:
    worker = json.loads(usageledger("env", "--json", "--data", str(data)))
    assert worker["USAGELEDGER_KAFKA_SASL_USERNAME"] == "worker"
    assert "USAGELEDGER_REDIS_URL" not in worker
    kafka = KafkaConnection.from_environment(environment=worker)
    with UsageMeter(source="render", kafka=kafka, spool_directory=tmp_path / "spool") as meter:
        meter.record(account="acct_1", feature="chat_message", id="one")
        assert meter.flush(60.0), meter.waiting().last_error
    usageledger("wait-idle", "--timeout", "60", "--data", str(data))
    shown = json.loads(usageledger("account", "show", "acct_1", "--json", "--data", str(data)))
    assert shown["used"] != "0"
    usageledger("doctor", "--data", str(data))
    status = json.loads(usageledger("status", "--json", "--data", str(data)))
    assert {service["state"] for service in status["services"]} == {"running"}
    assert len(status["partitions"]) == 2


def test_the_gateways_redis_user_may_hold_and_release(data: Path) -> None:
    """The rights that were printed for it lacked a command that its scripts call."""
    shown = json.loads(usageledger("env", "--json", "--data", str(data)))
    account = f"{shown['USAGELEDGER_GATEWAY_URL']}/v1/accounts/acct_9"
    use = {"id": "gen_1", "feature": "genai_video", "model": "veo_3"}
    with httpx.Client(
        headers={"Authorization": f"Bearer {shown['USAGELEDGER_KEY']}"}, timeout=30
    ) as client:
        held = client.post(f"{account}/holds", json=use)
        assert (held.status_code, held.json().get("state")) == (201, "open")
        released = client.post(f"{account}/holds/gen_1/release")
        assert (released.status_code, released.json()["state"]) == (200, "released")


def test_strangers_are_refused(data: Path) -> None:
    servers = json.loads(usageledger("env", "--json", "--data", str(data)))["USAGELEDGER_KAFKA"]
    assert "uses TLS: set USAGELEDGER_KAFKA_SECURITY_PROTOCOL" in str(
        connection_problem(KafkaConnection(servers=servers))
    )
    host = stack_redis_url(data).rpartition("@")[2]
    with closing(administrator(data)) as admin:
        users = {client["user"] for client in admin.client_list()}
    assert {"processor", "gateway"} <= users <= {"processor", "gateway", "operator", "default"}
    with (
        redis.Redis.from_url(f"redis://{host}") as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def administrator(data: Path) -> redis.Redis:
    host, _, port = stack_redis_url(data).rpartition("@")[2].partition("/")[0].partition(":")
    password = (data / "redis" / "password").read_text().strip()
    return redis.Redis(host=host, port=int(port), password=password, decode_responses=True)


def test_each_service_has_the_user_of_its_role(data: Path) -> None:
    status = json.loads(usageledger("status", "--json", "--data", str(data)))
    users = {
        service["name"]: user_of(service["pid"])
        for service in status["services"]
        if service["name"] not in ("kafka", "redis")
    }
    assert users == {
        "processor": "processor",
        "limits": "limits",
        "history": "gateway",
        "gateway": "gateway",
    }


def user_of(pid: int) -> str:
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    [user] = [line for line in lines if line.startswith("USAGELEDGER_KAFKA_SASL_USERNAME=")]
    return user.partition("=")[2]


def test_no_other_user_can_read_passwords_and_keys(data: Path) -> None:
    open_to_others = [
        str(path) for path in data.rglob("*") if path.exists() and path.lstat().st_mode & 0o077
    ]
    assert open_to_others == []
