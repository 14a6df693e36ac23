"""The least rights of each role, as commands."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from usageledger.operations.access_rights import (
    ROLES,
    kafka_commands,
    kafka_rights,
    redis_command,
    redis_rules,
)
from usageledger.operations.errors import OperatorError


def test_a_worker_may_only_report_usage() -> None:
    assert list(kafka_commands("worker", "acme")) == [
        "kafka-acls.sh --bootstrap-server HOST:PORT --command-config admin.properties --add "
        "--allow-principal User:worker --allow-host '*' --operation Write "
        "--topic acme.usage.events.v1"
    ]
    assert redis_command("worker") is None


def test_nobody_but_the_processor_and_the_operator_writes_the_ledger() -> None:
    writers = {
        (role, right.name)
        for role in ROLES
        for right in kafka_rights(role)
        if right.operation == "Write" and right.name == "ledger.entries.v1"
    }
    assert writers == {(role, "ledger.entries.v1") for role in ("processor", "operator")}


def test_a_redis_user_reaches_the_keys_of_its_ledger_alone() -> None:
    for role in ROLES:
        keys = [rule for rule in redis_rules(role, "acme") if rule.startswith("~")]
        assert keys in ([], ["~{acme:*"])


def test_the_processor_may_call_what_each_script_calls() -> None:
    scripts = files("usageledger.counters.scripts")
    called = {
        command.lower()
        for script in scripts.iterdir()
        if script.name.endswith(".lua")
        for command in re.findall(
            r"(?:call\(|command = )'([A-Z]+)'", script.read_text(encoding="utf-8")
        )
    }
    allowed = {rule.removeprefix("+") for rule in redis_rules("processor")}
    # Holds are placed by gates and gateways alone, and only they let keys expire.
    assert called - allowed == {"pexpireat", "pexpiretime"}


def test_a_subscriber_without_a_group_needs_no_group() -> None:
    assert {right.resource for right in kafka_rights("subscriber")} == {"topic"}
    assert "Read on group editor" in map(str, kafka_rights("subscriber", group="editor"))


def test_an_unknown_role_is_refused_with_the_known_ones() -> None:
    with pytest.raises(OperatorError, match="there is no role 'root': choose one of worker, "):
        kafka_rights("root")
