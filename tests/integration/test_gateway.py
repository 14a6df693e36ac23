"""The gateway as the stack runs it: ready when it answers, the same key after a restart, no secret
in its log.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.servers import RunningGateway
from usageledger.local.gateway_files import gateway_key
from usageledger.local.ports import free_port
from usageledger.local.stack import Stack
from usageledger.operations.waiting import is_true_within
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.tokens import mint_account_token


def test_a_gateway_that_is_killed_is_started_again_and_knows_its_keys(
    tmp_path: Path, kafka: KafkaConnection, redis_url: str, prefix: str
) -> None:
    stack = Stack(
        tmp_path,
        kafka=kafka,
        redis=redis_url,
        prefix=prefix,
        partitions=2,
        services=_gateway_alone(),
    )
    addresses = stack.start()
    try:
        key = gateway_key(tmp_path)
        made = _ask(
            addresses.gateway, "POST", "/v1/keys", key, {"name": "check", "scopes": ["check"]}
        ).json()["key"]
        pid = _status_of(stack)["pid"]
        os.kill(int(str(pid)), signal.SIGKILL)
        assert is_true_within(
            lambda: _status_of(stack)["restarts"] == 1 and _status_of(stack)["state"] == "running",
            30,
        )
        assert _ask(addresses.gateway, "GET", "/v1/keys", key).status_code == 200
        assert _ask(addresses.gateway, "GET", "/v1/keys", made).status_code == 403
    finally:
        stack.stop()


def test_the_key_is_kept_from_others_and_is_the_same_after_a_restart(
    tmp_path: Path, kafka: KafkaConnection, redis_url: str, prefix: str
) -> None:
    seen = []
    for port in (free_port(), None):
        stack = Stack(
            tmp_path,
            kafka=kafka,
            redis=redis_url,
            prefix=prefix,
            partitions=2,
            port=port,
            services=_gateway_alone(),
        )
        addresses = stack.start()
        try:
            assert port is None or addresses.gateway.endswith(f":{port}")
            seen.append(gateway_key(tmp_path))
            assert _ask(addresses.gateway, "GET", "/v1/keys", seen[-1]).status_code == 200
        finally:
            stack.stop()
    assert seen[0] == seen[1]
    for name in ("key", "gateway.db"):
        assert stat.S_IMODE((tmp_path / "gateway" / name).stat().st_mode) == 0o600


def test_no_secret_is_in_the_log_whatever_goes_wrong(gateway: RunningGateway) -> None:
    token = mint_account_token(gateway.key, "acct_1")
    wrong = f"ulk_0a1b2c3d_{'x' * 43}"
    for credential in (gateway.key, token, wrong):
        for method, path in (
            ("GET", "/v1/keys"),
            ("GET", f"/v1/keys?key={credential}"),
            ("POST", "/v1/keys"),
            ("GET", f"/{credential}"),
        ):
            _ask(gateway.url, method, path, credential)
    httpx.post(f"{gateway.url}/session", json={"key": wrong})
    log = (gateway.addresses.data / "logs" / "gateway.log").read_text(encoding="utf-8")
    assert f"answering at {gateway.url}" in log
    assert [secret for secret in (gateway.key, token, wrong) if secret in log] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"USAGELEDGER_PREFIX": "nobody"},
            "there is no topic nobody.ledger.entries.v1: `usageledger up` makes a ledger",
        ),
        ({"USAGELEDGER_GATEWAY_KEY": "secret"}, "this is no key"),
    ],
)
def test_a_gateway_that_cannot_begin_says_why(
    changes: dict[str, str],
    said: str,
    tmp_path: Path,
    kafka: KafkaConnection,
    redis_url: str,
    prefix: str,
) -> None:
    environment = (
        _environment(tmp_path, kafka, redis_url, prefix)
        | {"USAGELEDGER_GATEWAY_PORT": str(free_port())}
        | changes
    )
    done = subprocess.run(
        _command("gateway"), env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert said in done.stderr


def test_a_port_that_is_taken_is_named(
    gateway: RunningGateway, tmp_path: Path, kafka: KafkaConnection, redis_url: str, prefix: str
) -> None:
    port = gateway.url.rpartition(":")[2]
    environment = _environment(tmp_path, kafka, redis_url, prefix) | {
        "USAGELEDGER_GATEWAY_PORT": port
    }
    done = subprocess.run(
        _command("gateway"), env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr


def _gateway_alone() -> Mapping[str, tuple[str, ...]]:
    return {"gateway": _command("gateway")}


def _command(service: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "usageledger.cli", "service", service)


def _environment(data: Path, kafka: KafkaConnection, redis_url: str, prefix: str) -> dict[str, str]:
    own = {"KAFKA": str(kafka), "REDIS_URL": redis_url, "PREFIX": prefix, "DATA": str(data)}
    return os.environ | {f"USAGELEDGER_{name}": value for name, value in own.items()}


def _status_of(stack: Stack) -> dict[str, object]:
    found: dict[str, object] = next(
        service for service in stack.status()["services"] if service["name"] == "gateway"
    )
    return found


def _ask(url: str, method: str, path: str, credential: str, body: object = None) -> httpx.Response:
    return httpx.request(
        method,
        f"{url}{path}",
        json=body,
        headers={"Authorization": f"Bearer {credential}"},
        timeout=30,
    )
