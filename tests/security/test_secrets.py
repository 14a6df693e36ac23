"""Secrets of a running stack: where they appear, and that ``--data`` is private."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

NOBODY = 65_534
KAFKA_PASSWORD = "the-password-of-a-broker"
# The files that hold secrets on purpose. Each is for the stack's user alone.
KEPT = {"gateway/key", "redis_url", "redis/password", "redis/redis.conf"}
WALK = """
import os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in sys.stdin.read().splitlines():
    try:
        os.listdir(path) if os.path.isdir(path) else open(path, "rb").close()
    except OSError:
        continue
    print(path)
"""


@dataclass(frozen=True)
class Running:
    """A stack with servers of its own, which another user can reach the directory of."""

    data: Path
    ready: str
    environment: dict[str, str]

    @property
    def key(self) -> str:
        return self.environment["USAGELEDGER_KEY"]

    @property
    def redis_password(self) -> str:
        return urlsplit(self.environment["USAGELEDGER_REDIS_URL"]).password or ""

    def client(self, key: str | None = None) -> httpx.Client:
        return httpx.Client(
            base_url=self.environment["USAGELEDGER_GATEWAY_URL"],
            headers={"Authorization": f"Bearer {key or self.key}"},
            timeout=30,
        )

    def files(self) -> list[Path]:
        return sorted(path for path in self.data.rglob("*") if path.is_file())


def usageledger(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "usageledger.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        umask=0o022,
        env=os.environ | {"USAGELEDGER_KAFKA_SASL_PASSWORD": KAFKA_PASSWORD} | variables,
    )


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """Its directory and those above it can be entered by everybody, as a careless user's can."""
    with tempfile.TemporaryDirectory() as name:
        above = Path(name)
        above.chmod(0o755)
        data = above / "data"
        data.mkdir(mode=0o755)
        up = usageledger("up", "--data", str(data), "--detach")
        try:
            assert up.returncode == 0, up.stderr
            shown = usageledger("env", "--data", str(data), "--json")
            assert shown.returncode == 0, shown.stderr
            yield Running(data, up.stdout + up.stderr, json.loads(shown.stdout))
        finally:
            usageledger("down", "--data", str(data))


def test_no_other_user_can_read_anything_under_data(running: Running) -> None:
    paths = [path for path in running.data.rglob("*") if not path.is_symlink()]
    assert len(paths) > 50
    private = [path for path in paths if stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0]
    assert sorted(str(path) for path in set(paths) - set(private)) == []
    if os.getuid() != 0:
        pytest.skip("only root can look as another user")
    bait = running.data.parent / "bait"  # Readable by everybody: the walk can find things.
    bait.write_text("readable", encoding="utf-8")
    bait.chmod(0o644)
    walked = subprocess.run(
        [sys.executable, "-I", "-c", WALK],
        input="\n".join(str(path) for path in [*paths, bait]),
        capture_output=True,
        text=True,
        check=True,
    )
    bait.unlink()
    assert walked.stdout.splitlines() == [str(bait)]


def test_no_secret_appears_in_what_a_stack_shows_and_keeps(running: Running) -> None:
    secrets = _use_the_gateway(running)
    secrets |= {running.key, running.redis_password, KAFKA_PASSWORD}
    assert all(len(secret) > 20 for secret in secrets)
    data = str(running.data)
    outputs = {"up": running.ready}
    for command in (
        ("status",), ("status", "--json"), ("doctor",), ("doctor", "--json"),
        ("audit", "verify"), ("keys", "list"), ("webhooks", "list", "--json"),
        ("keys", "revoke", running.key), ("account", "show", "nobody"),
    ):  # fmt: skip
        ended = usageledger(*command, "--data", data)
        outputs[" ".join(command[:2])] = ended.stdout + ended.stderr
    found = [name for name, text in outputs.items() if any(each in text for each in secrets)]
    assert found == []
    assert _files_with(running, secrets) == KEPT
    assert _commands_with(secrets) == []


def _use_the_gateway(running: Running) -> set[str]:
    """Make calls that succeed and calls that fail, and return the secrets that they involved."""
    with running.client() as client:
        client.headers["Idempotency-Key"] = "a key"
        made = client.post("/v1/keys", json={"name": "app", "scopes": ["read"]}).json()
        client.headers["Idempotency-Key"] = "an endpoint"
        hook = client.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/x"}).json()
        del client.headers["Idempotency-Key"]
        client.post(f"/v1/webhooks/{hook['id']}/test")
        assert client.post("/v1/keys", json={"name": made["key"]}).status_code == 422
        assert client.get("/v1/accounts/nobody/balance").status_code < 500
    with running.client(made["key"][:-1] + "!") as stranger:
        assert stranger.get("/v1/keys").status_code == 401
    with running.client(made["key"]) as reader:
        assert reader.get("/v1/keys").status_code == 403
        token = reader.post("/v1/accounts/nobody/tokens", json={})
    tokens = {token.json()["token"]} if token.status_code == 200 else set()
    return {made["key"], hook["secret"], *tokens}


def _files_with(running: Running, secrets: set[str]) -> set[str]:
    """The files that contain a secret.

    Of ``gateway.db``, only the webhook secrets that sign deliveries are left out.
    """
    found = set()
    for path in running.files():
        name = str(path.relative_to(running.data))
        content = path.read_bytes()
        if name.startswith("gateway/gateway.db"):
            content = _database_without_signing_secrets(running.data / "gateway" / "gateway.db")
        if any(secret.encode() in content for secret in secrets):
            found.add(name)
    return found


def _database_without_signing_secrets(path: Path) -> bytes:
    database = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        tables = [
            name
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if name != "webhook_secrets"
        ]
        assert "idempotency_keys" in tables
        rows = [row for name in tables for row in database.execute(f"SELECT * FROM {name}")]
    finally:
        database.close()
    return b"\n".join(
        value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row
    )


def _commands_with(secrets: set[str]) -> list[str]:
    """The command lines of all processes of this machine that contain a secret."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode("utf-8", "replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if any(secret in command for secret in secrets):
            found.append(command)
    return found


def test_a_secret_in_a_file_or_a_command_would_be_found(running: Running) -> None:
    secret = "a-secret-that-leaked-somewhere"
    (running.data / "leak.log").write_text(f"key {secret}\n", encoding="utf-8")
    child = subprocess.Popen([sys.executable, "-c", "input()", secret], stdin=subprocess.PIPE)
    try:
        assert _files_with(running, {secret}) == {"leak.log"}
        assert len(_commands_with({secret})) == 1
    finally:
        (running.data / "leak.log").unlink()
        child.communicate(b"\n")


def test_the_stacks_redis_refuses_a_client_without_its_password(running: Running) -> None:
    import redis

    url = running.environment["USAGELEDGER_REDIS_URL"]
    with redis.Redis.from_url(url) as client:
        assert client.ping()
    bare = url.replace(f":{running.redis_password}@", "")
    with redis.Redis.from_url(bare) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_a_password_among_the_arguments_of_up_is_refused(tmp_path: Path) -> None:
    ended = usageledger("up", "--data", str(tmp_path), "--redis", "redis://:hunter22@127.0.0.1:1/0")
    assert ended.returncode == 2
    assert "USAGELEDGER_REDIS_URL" in ended.stderr
    assert "hunter22" not in ended.stdout + ended.stderr


def test_a_redis_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    for more in ((), ("--detach",)):
        ended = usageledger(
            "up", "--data", str(tmp_path / "data"), "--kafka", "127.0.0.1:1", *more,
            USAGELEDGER_REDIS_URL="redis://:hunter22@127.0.0.1:1/0",
        )  # fmt: skip
        assert ended.returncode == 1
        assert "hunter22" not in ended.stdout + ended.stderr
    for path in (tmp_path / "data").rglob("*"):
        assert not path.is_file() or b"hunter22" not in path.read_bytes(), path


def test_a_first_key_is_made_without_a_gateway(tmp_path: Path) -> None:
    made = [usageledger("keys", "generate", USAGELEDGER_DATA=str(tmp_path)) for _ in range(2)]
    keys = {each.stdout.strip() for each in made}
    assert len(keys) == 2
    assert all(key.startswith("ulk_") and len(key.split("_", 2)[2]) == 43 for key in keys)
    assert list(tmp_path.iterdir()) == []
