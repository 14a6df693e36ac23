"""Which stacks can be secured."""

from __future__ import annotations

from pathlib import Path

import pytest

from usageledger.local.errors import StackError
from usageledger.local.secured_stack import SecuredServers, was_secured
from usageledger.local.stack import Stack


def test_data_of_an_open_kafka_cannot_be_secured(tmp_path: Path) -> None:
    (tmp_path / "kafka" / "data").mkdir(parents=True)
    (tmp_path / "kafka" / "data" / "meta.properties").touch()
    with pytest.raises(StackError, match="was made without --secure"):
        SecuredServers.under(tmp_path, "")


def test_a_directory_that_was_secured_stays_so(tmp_path: Path) -> None:
    assert not was_secured(tmp_path)
    SecuredServers.under(tmp_path, "").security.prepare()
    assert was_secured(tmp_path)
    SecuredServers.under(tmp_path, "")


def test_a_secured_stack_runs_its_own_servers(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="runs its own Kafka and Redis"):
        Stack(tmp_path, redis="redis://elsewhere:6379/0", secure=True).start()
