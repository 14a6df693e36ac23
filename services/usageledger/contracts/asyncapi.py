"""The AsyncAPI 3.0 document: five topics, who writes them and which messages they hold.

It is written from the ledger's side: the ledger receives the inputs and sends the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from usageledger.contracts.examples import examples
from usageledger.contracts.messages import MESSAGES

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Topic:
    name: str
    address: str
    title: str
    written_by: str
    description: str
    messages: tuple[str, ...]
    key: str | None
    action: str
    bytes_max: int
    partitions: int | None = None


_ACCOUNT_KEY = (
    "The account id in UTF-8: the CloudEvent's subject. Kafka's default partitioner (murmur2) "
    "derives the partition from it."
)

_TOPICS = (
    _Topic(
        name="usage",
        address="usage.events.v1",
        title="Usage events",
        written_by="generation workers",
        description="Uses that generation workers report.",
        messages=("usage.recorded",),
        key=_ACCOUNT_KEY,
        action="receive",
        bytes_max=1 * MIB,
    ),
    _Topic(
        name="account",
        address="account.events.v1",
        title="Account events",
        written_by="billing, CRM, support",
        description="Changes to accounts: their plans, thresholds, grants and suspensions, and "
        "which usage is void.",
        messages=(
            "account.opened",
            "account.subscribed",
            "account.plan_changed",
            "account.cancelled",
            "account.suspended",
            "account.resumed",
            "account.thresholds_set",
            "credits.granted",
            "usage.voided",
        ),
        key=_ACCOUNT_KEY,
        action="receive",
        bytes_max=1 * MIB,
    ),
    _Topic(
        name="catalog",
        address="catalog.v1",
        title="Catalogs",
        written_by="product",
        description="Versions of plans and rates.",
        messages=("catalog.published",),
        key=None,
        action="receive",
        bytes_max=8 * MIB,
        partitions=1,
    ),
    _Topic(
        name="ledger",
        address="ledger.entries.v1",
        title="Ledger entries",
        written_by="processor",
        description=(
            "The truth: what became of every input, in order, and which worker owns the partition. "
            "An entry is valid if it is at the offset that it names; for a reader, an entry "
            "elsewhere does not exist. Entries are chained by their hashes."
        ),
        messages=("ledger.claim", "ledger.entry", "ledger.record_skipped"),
        key="The account id in UTF-8; none for a claim, a skip and an entry of no account.",
        action="send",
        bytes_max=8 * MIB,
    ),
    _Topic(
        name="limit",
        address="limit.events.v1",
        title="Limit events",
        written_by="limits",
        description=(
            "The events that apps react to. Partition i announces the limits that entries in "
            "partition i of the ledger cross, in their order. An event whose `data.entry` is not "
            "beyond the last one seen of its partition is a repeat, and has the same id."
        ),
        messages=("limit.threshold", "limit.reached", "limit.cleared"),
        key=_ACCOUNT_KEY,
        action="send",
        bytes_max=8 * MIB,
    ),
)


def asyncapi_document() -> dict[str, Any]:
    """The whole document, as plain values."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "usageledger",
            "version": "1",
            "description": (
                "An event-sourced ledger of AI-generation credits. Every message is a CloudEvent "
                "1.0 in JSON, structured mode. The topics usage, account, ledger and limit have "
                "the same number of partitions and the same key, so that partition i of one "
                "belongs with partition i of the others. If a ledger has a prefix, each topic's "
                "name begins with it and a dot."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in _TOPICS},
        "operations": {f"{topic.action}_{topic.name}": _operation(topic) for topic in _TOPICS},
        "components": {"messages": {type_: _message(type_) for type_ in MESSAGES}},
    }


def _channel(topic: _Topic) -> dict[str, Any]:
    binding: dict[str, Any] = {"topic": topic.address}
    if topic.partitions is not None:
        binding["partitions"] = topic.partitions
    binding["topicConfiguration"] = {
        "cleanup.policy": ["delete"],
        "retention.ms": -1,
        "retention.bytes": -1,
        "max.message.bytes": topic.bytes_max,
    }
    # AsyncAPI's binding knows no compression.type.
    binding["bindingVersion"] = "0.5.0"
    return {
        "address": topic.address,
        "title": topic.title,
        "summary": f"Written by: {topic.written_by}.",
        "description": " ".join(_channel_description(topic)),
        "messages": {type_: {"$ref": f"#/components/messages/{type_}"} for type_ in topic.messages},
        "bindings": {"kafka": binding},
        "x-written-by": topic.written_by,
        "x-message-timestamp-type": "LogAppendTime",
        "x-compression-type": "producer" if topic.action == "send" else "uncompressed",
    }


def _channel_description(topic: _Topic) -> Iterator[str]:
    yield topic.description
    yield "Records are kept without end, and dated by Kafka when it appends them."
    if topic.action == "receive" and topic.key is not None:
        yield "While a ledger is in import mode, records keep their own dates."
    if topic.key is not None:
        yield f"Key: {topic.key}"


def _operation(topic: _Topic) -> dict[str, Any]:
    return {
        "action": topic.action,
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "messages": [
            {"$ref": f"#/channels/{topic.name}/messages/{type_}"} for type_ in topic.messages
        ],
    }


def _message(type_: str) -> dict[str, Any]:
    topic = next(topic for topic in _TOPICS if type_ in topic.messages)
    message: dict[str, Any] = {
        "name": type_,
        "title": type_,
        "summary": " ".join((MESSAGES[type_].__doc__ or "").partition("\n\n")[0].split()),
        "contentType": "application/cloudevents+json",
        "payload": {"$ref": f"./{type_}.json"},
        "examples": [
            {"name": f"{type_}_{number}", "payload": example}
            for number, example in enumerate(examples()[type_], start=1)
        ],
    }
    if topic.key is not None and type_ not in ("ledger.claim", "ledger.record_skipped"):
        key = {"type": "string", "description": topic.key}
        message["bindings"] = {"kafka": {"key": key, "bindingVersion": "0.5.0"}}
    return message
