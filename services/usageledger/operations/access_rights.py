"""The least rights of each role, in Kafka and in Redis.

One table serves the command ``usageledger acls``, the secured local stack and the tests, in which
every role has exactly these rights.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from usageledger.counters.keys import DEFAULT_PREFIX
from usageledger.log.topics import Topics, limits_group, processor_group
from usageledger.operations.errors import OperatorError

Resource = Literal["topic", "group"]
Operation = Literal["Read", "Write", "Create", "Describe", "DescribeConfigs", "AlterConfigs"]

_TOPICS = ("usage", "account", "ledger", "limit", "catalog")
# The operations of each role on each topic. To read or to write includes to describe.
_TOPIC_RIGHTS: dict[str, dict[str, tuple[Operation, ...]]] = {
    "worker": {"usage": ("Write",)},
    "billing": {"account": ("Write",)},
    "publisher": {"catalog": ("Read", "Write")},
    "processor": {
        "usage": ("Read", "DescribeConfigs"),
        "account": ("Read", "DescribeConfigs"),
        "ledger": ("Read", "Write"),
        # A service checks that all four have one partition count.
        "limit": ("Describe",),
        "catalog": ("Read",),
    },
    "limits": {
        "usage": ("Describe",),
        "account": ("Describe",),
        "ledger": ("Read",),
        "limit": ("Read", "Write"),
    },
    # With the history, which is a process of its own.
    "gateway": {
        "usage": ("Read", "Write", "DescribeConfigs"),
        "account": ("Read", "Write", "DescribeConfigs"),
        "ledger": ("Read",),
        "limit": ("Read",),
        "catalog": ("Read",),
    },
    "auditor": dict.fromkeys(_TOPICS, ("Read",)),
    "subscriber": {"limit": ("Read",)},
    "gate": {"ledger": ("Describe",), "catalog": ("Read",)},
    "operator": dict.fromkeys(
        _TOPICS, ("Create", "Read", "Write", "DescribeConfigs", "AlterConfigs")
    ),
}
_GROUP_RIGHTS: dict[str, dict[str, Operation]] = {
    "processor": {"processor": "Read"},
    "limits": {"limits": "Read"},
    "gateway": {"limits": "Describe"},
    "operator": {"limits": "Describe"},
}
# A script needs the right to each command that it calls. Redis has no rights to single scripts.
_SCRIPTS = ("eval", "evalsha", "time")
_READ_VIEW = ("hget", "hmget", "zcount")
_HOLD = (
    *("type", "hset", "hdel", "zadd", "zrem", "zrange", "zrangebyscore", "zremrangebyscore"),
    *("zcard", "zrandmember", "pexpireat", "pexpiretime"),
)
_WRITE_VIEW = (
    *("hset", "hdel", "hlen", "hgetall", "zadd", "zrem", "zrange", "zrangebyscore"),
    *("exists", "type", "unlink", "rename"),
)
_REDIS_COMMANDS: dict[str, tuple[str, ...]] = {
    "processor": (*_SCRIPTS, *_READ_VIEW, *_WRITE_VIEW, "set", "scan", "info", "config|get"),
    "gateway": (*_SCRIPTS, *_READ_VIEW, *_HOLD, "get", "ping"),
    "gate": (*_SCRIPTS, *_READ_VIEW, *_HOLD),
    "auditor": (*_SCRIPTS, "hmget", "hlen", "hgetall", "zrange"),
    "operator": (
        *_SCRIPTS, *_READ_VIEW, *dict.fromkeys((*_WRITE_VIEW, *_HOLD)),
        *("get", "set", "scan", "info", "config|get", "ping"),
    ),
}  # fmt: skip
ROLES: tuple[str, ...] = tuple(_TOPIC_RIGHTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaRight:
    """One operation on one topic or consumer group."""

    resource: Resource
    name: str
    operation: Operation

    def __str__(self) -> str:
        return f"{self.operation} on {self.resource} {self.name}"


def kafka_rights(role: str, prefix: str = "", *, group: str | None = None) -> list[KafkaRight]:
    """The rights of a role of one ledger. ``group`` is a subscriber's. Raises OperatorError."""
    _check_role(role)
    topics, groups = Topics(prefix), _groups(prefix)
    rights = [
        KafkaRight(resource="topic", name=getattr(topics, topic), operation=operation)
        for topic, operations in _TOPIC_RIGHTS[role].items()
        for operation in operations
    ]
    rights += [
        KafkaRight(resource="group", name=groups[name], operation=operation)
        for name, operation in _GROUP_RIGHTS.get(role, {}).items()
    ]
    if role == "subscriber" and group is not None:
        rights.append(KafkaRight(resource="group", name=group, operation="Read"))
    return rights


def kafka_commands(
    role: str,
    prefix: str = "",
    *,
    principal: str | None = None,
    group: str | None = None,
    host: str = "*",
) -> Iterator[str]:
    """The commands of kafka-acls.sh that give a role its rights, one for each topic and group.

    ``principal`` is by default "User:" and the role. Raises OperatorError.
    """
    named: dict[tuple[Resource, str], list[str]] = {}
    for right in kafka_rights(role, prefix, group=group):
        named.setdefault((right.resource, right.name), []).append(right.operation)
    for (resource, name), operations in named.items():
        words = [
            *("kafka-acls.sh", "--bootstrap-server", "HOST:PORT"),
            *("--command-config", "admin.properties", "--add"),
            *("--allow-principal", principal or f"User:{role}", "--allow-host", host),
            *(word for operation in operations for word in ("--operation", operation)),
            *(f"--{resource}", name),
        ]
        yield shlex.join(words)


def redis_rules(role: str, prefix: str = "") -> list[str]:
    """The rules of a role's Redis user, which forget its earlier ones; none if it needs no Redis.

    Raises OperatorError.
    """
    _check_role(role)
    commands = _REDIS_COMMANDS.get(role, ())
    if not commands:
        return []
    keys = f"~{{{prefix or DEFAULT_PREFIX}:*"
    return ["resetkeys", "resetchannels", "-@all", keys, *(f"+{each}" for each in commands)]


def redis_command(role: str, prefix: str = "", *, user: str | None = None) -> str | None:
    """The command of redis-cli that makes a role's user; None if the role needs no Redis.

    Raises OperatorError.
    """
    rules = redis_rules(role, prefix)
    if not rules:
        return None
    return shlex.join(["redis-cli", "ACL", "SETUSER", user or role, "on", ">PASSWORD", *rules])


def grant(admin: Any, user: str, rights: list[KafkaRight]) -> None:
    """Give a Kafka user these rights. ``admin`` is kafka-python's client.

    Raises OperatorError if the broker refuses one.
    """
    created = admin.create_acls([_acl(user, right) for right in rights])
    if created["failed"]:
        raise OperatorError(f"the rights of {user} could not be set: {created['failed']}")


def revoke(admin: Any, user: str, right: KafkaRight) -> None:
    """Take one right from a Kafka user. ``admin`` is kafka-python's client."""
    from kafka.admin import ACLFilter, ResourcePatternFilter

    acl = _acl(user, right)
    pattern = acl.resource_pattern
    admin.delete_acls(
        [
            ACLFilter(
                acl.principal,
                acl.host,
                acl.operation,
                acl.permission_type,
                ResourcePatternFilter(
                    pattern.resource_type, pattern.resource_name, pattern.pattern_type
                ),
            )
        ]
    )


def _acl(user: str, right: KafkaRight) -> Any:
    from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

    names = {
        "Read": "READ",
        "Write": "WRITE",
        "Create": "CREATE",
        "Describe": "DESCRIBE",
        "DescribeConfigs": "DESCRIBE_CONFIGS",
        "AlterConfigs": "ALTER_CONFIGS",
    }
    return ACL(
        f"User:{user}",
        "*",
        ACLOperation[names[right.operation]],
        ACLPermissionType.ALLOW,
        ResourcePattern(ResourceType[right.resource.upper()], right.name),
    )


def _groups(prefix: str) -> dict[str, str]:
    return {"processor": processor_group(prefix), "limits": limits_group(prefix)}


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise OperatorError(f"there is no role {role!r}: choose one of {', '.join(ROLES)}")
