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


def commands_of(*scripts: str) -> set[str]:
    """The commands that these scripts call, and what is before each script."""
    texts = [
        (files("usageledger.counters.scripts") / f"{name}.lua").read_text(encoding="utf-8")
        for name in (*scripts, "prelude")
    ]
    return {
        command.lower()
        for text in texts
        for command in re.findall(r"(?:call\(|command = )'([A-Z]+)'", text)
    }


def allowed_to(role: str) -> set[str]:
    return {rule.removeprefix("+") for rule in redis_rules(role)}


def test_the_processor_may_call_what_its_scripts_call() -> None:
    names = {
        script.name.removesuffix(".lua")
        for script in files("usageledger.counters.scripts").iterdir()
        if script.name.endswith(".lua")
    }
    # Holds are placed by gates and gateways alone.
    assert commands_of(*names - {"hold"}) <= allowed_to("processor")


@pytest.mark.parametrize("role", ["gate", "gateway", "operator"])
def test_whoever_places_holds_may_call_what_their_scripts_call(role: str) -> None:
    """A gate whose Redis user had the printed rights could check, and could hold nothing."""
    asking = ("hold", "release", "find_hold", "read_account", "read_accounts")
    assert commands_of(*asking) <= allowed_to(role)


def test_a_subscriber_without_a_group_needs_no_group() -> None:
    assert {right.resource for right in kafka_rights("subscriber")} == {"topic"}
    assert "Read on group editor" in map(str, kafka_rights("subscriber", group="editor"))


def test_an_unknown_role_is_refused_with_the_known_ones() -> None:
    with pytest.raises(OperatorError, match="there is no role 'root': choose one of worker, "):
        kafka_rights("root")
