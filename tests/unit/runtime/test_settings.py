"""The settings from which a command finds its ledger."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from usageledger.runtime.settings import Settings, SettingsError


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KAFKA", "REDIS_URL", "PREFIX", "DATA"):
        monkeypatch.delenv(f"USAGELEDGER_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def describe(data: Path, **changes: Any) -> None:
    data.mkdir(exist_ok=True)
    stack = {
        "state": "running",
        "kafka_connection": {"servers": "127.0.0.1:1"},
        "redis": "redis://***@127.0.0.1:2/0",
        "prefix": "acme",
    } | changes
    (data / "stack.json").write_text(json.dumps(stack), encoding="utf-8")
    (data / "redis_url").write_text("redis://:secret@127.0.0.1:2/0\n", encoding="utf-8")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Path]:
    """The directory of a stack that runs: its lock is held."""
    data = tmp_path / ".usageledger"
    describe(data)
    with (data / "stack.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield data


def test_a_running_stack_is_found_in_its_directory(running: Path) -> None:
    for found in (Settings.find(running), Settings.find()):
        assert (str(found.kafka), found.redis_url, found.prefix) == (
            "127.0.0.1:1",
            "redis://:secret@127.0.0.1:2/0",
            "acme",
        )


def test_variables_come_before_a_stack_that_nobody_named(
    running: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAGELEDGER_KAFKA", "broker:9092")
    monkeypatch.setenv("USAGELEDGER_REDIS_URL", "redis://cache:6379/0")
    assert str(Settings.find().kafka) == "broker:9092"
    assert str(Settings.find(running).kafka) == "127.0.0.1:1"


def test_half_of_the_variables_are_refused_naming_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("USAGELEDGER_KAFKA", "broker:9092")
    with pytest.raises(
        SettingsError, match="USAGELEDGER_KAFKA is set but USAGELEDGER_REDIS_URL is not"
    ):
        Settings.find()


def test_without_a_stack_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"no running stack in .*elsewhere: start one with `usageledger up`"
    ):
        Settings.find(tmp_path / "elsewhere")


def test_the_files_of_a_killed_stack_are_not_a_stack(tmp_path: Path) -> None:
    describe(tmp_path / ".usageledger")
    (tmp_path / ".usageledger" / "stack.lock").write_bytes(b"1")
    with pytest.raises(SettingsError, match="no running stack"):
        Settings.find()


def test_a_stack_that_is_not_up_yet_is_named_as_such(running: Path) -> None:
    describe(running, state="starting")
    with pytest.raises(SettingsError, match="is starting: wait"):
        Settings.find(running)


def test_the_variable_for_the_directory_is_read(
    running: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved"
    monkeypatch.setenv("USAGELEDGER_DATA", str(moved))
    with pytest.raises(SettingsError, match="moved"):
        Settings.find()
    monkeypatch.setenv("USAGELEDGER_DATA", str(running))
    assert Settings.find().prefix == "acme"
