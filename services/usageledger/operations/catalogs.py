"""The catalog topic: reading what is published there, and publishing another version."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec

from usageledger.contracts.catalog_message import CATALOG_PUBLISHED
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog import Catalog
from usageledger.domain.catalog_document import catalog_document, load_shipped_catalog
from usageledger.domain.credits import format_credits
from usageledger.ledger.adoption import adopted_catalogs
from usageledger.log.reading import LogReader, log_reader
from usageledger.log.topics import Topics
from usageledger.operations.actors import system_user
from usageledger.operations.errors import OperatorError
from usageledger.operations.lags import LookAtLags
from usageledger.operations.topics import MIB
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.producer.events import format_time
from usageledger.sdk.producer.publisher import Connect, PublishError

CATALOG_SOURCE = "/usageledger/catalog"
PUBLISH_TIMEOUT_S = 30.0
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Publication:
    """The outcome of publishing a version.

    ``is_new`` is False if the version had been published before, with the same content.
    """

    version: str
    is_new: bool
    warnings: tuple[str, ...] = ()


def catalog_event(catalog: Catalog, at: datetime, actor: str | None = None) -> bytes:
    """The record value that publishes a catalog. The event's id is the catalog's version.

    ``actor`` is who publishes it, such as ``user:NAME``.
    """
    event = {
        "specversion": "1.0",
        "type": CATALOG_PUBLISHED,
        "id": catalog.version,
        "source": CATALOG_SOURCE,
        "time": format_time(at),
        "datacontenttype": "application/json",
        "data": catalog_document(catalog),
    }
    if actor is not None:
        event["actor"] = actor
    return msgspec.json.encode(event)


def published_catalogs(reader: LogReader, prefix: str) -> AdoptedCatalogs:
    """All versions in a ledger's catalog topic, in their order; empty if there are none yet.

    Raises OperatorError where there is no such topic.
    """
    topic = Topics(prefix).catalog
    if reader.partition_count(topic) == 0:
        raise OperatorError(
            f"there is no topic {topic}: is the prefix {prefix!r} right? `usageledger up` makes a "
            "ledger"
        )
    return adopted_catalogs(
        reader.read(topic, 0, reader.start_offset(topic, 0), reader.end_offset(topic, 0))
    )


def catalog_connector(kafka: KafkaConnection, prefix: str) -> Connect:
    """A function that connects to a ledger's catalog topic."""
    from usageledger.sdk.producer.kafka_publisher import connector_to

    return connector_to(kafka, {"max_request_size": 8 * MIB})(Topics(prefix).catalog)


def publish_to(kafka: KafkaConnection, prefix: str, catalog: Catalog, now: datetime) -> Publication:
    """Publish a catalog to a ledger. Raises as `publish` and `published_catalogs` do."""
    with log_reader(kafka) as reader:
        published = published_catalogs(reader, prefix)
    return publish(catalog_connector(kafka, prefix), catalog, published, now)


def publish_shipped(kafka: KafkaConnection, prefix: str, now: datetime) -> bool:
    """Publish the shipped catalog if the topic is empty. Returns whether it was."""
    with log_reader(kafka) as reader:
        if reader.end_offset(Topics(prefix).catalog, 0) > 0:
            return False
    publish(catalog_connector(kafka, prefix), load_shipped_catalog(), AdoptedCatalogs(), now)
    return True


def publish(
    connect: Connect, catalog: Catalog, published: AdoptedCatalogs, now: datetime
) -> Publication:
    """Publish a catalog.

    ``connect`` makes a connection to the catalog topic (`catalog_connector`); ``published`` is
    what the topic has. Raises OperatorError if the version was published with other content, or if
    Kafka does not acknowledge the catalog.
    """
    known = published.version(catalog.version)
    if known is not None and known != catalog:
        raise OperatorError(
            f"version {catalog.version!r} has been published with other content, and a version "
            "never changes: give this catalog another version"
        )
    if known is not None:
        return Publication(catalog.version, is_new=False)
    warnings = tuple(_warnings(catalog, published, now))
    append_catalog(connect, catalog_event(catalog, now, f"user:{system_user()}"))
    return Publication(catalog.version, is_new=True, warnings=warnings)


def wait_until_adopted(
    look: LookAtLags,
    timeout_s: float,
    *,
    on_look: Callable[[int], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[int]:
    """Wait until every partition has adopted the newest catalog.

    Returns the partitions that have not within ``timeout_s``. ``on_look`` gets their number at
    each look.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        behind = [lag.partition for lag in look().lags if lag.what == "catalog" and lag.records > 0]
        if on_look is not None:
            on_look(len(behind))
        if not behind or time.monotonic() >= deadline_s:
            return behind
        sleep(POLL_S)


def _warnings(catalog: Catalog, published: AdoptedCatalogs, now: datetime) -> list[str]:
    if not published:
        return []
    warnings = []
    in_force = published.in_force(now)
    if catalog.effective_from < in_force.effective_from:
        warnings.append(
            f"effective_from {format_time(catalog.effective_from)} is before that of "
            f"{in_force.version!r}, which stays in force: this version rates usage from before "
            f"{format_time(in_force.effective_from)}, and models that no later version knows"
        )
    elif catalog.effective_from < now:
        warnings.append(
            f"effective_from {format_time(catalog.effective_from)} is in the past: this version "
            "rates usage since then that is decided from now on; what was decided stays as it is"
        )
    dropped = [plan for plan in in_force.plans if catalog.plan(plan.id) is None]
    warnings += [
        f"plan {plan.id!r} ({format_credits(plan.allotment)} credits) is gone: accounts on it "
        "keep it, but no account can change to it"
        for plan in dropped
    ]
    return warnings


def append_catalog(connect: Connect, value: bytes) -> None:
    """Append a record to the catalog topic. Raises OperatorError."""
    try:
        publisher = connect()
    except PublishError as error:
        raise OperatorError(
            f"no Kafka broker answers ({error}): see `usageledger status` for whether it runs"
        ) from error
    outcome: list[PublishError | None] = []
    is_done = threading.Event()

    def done(error: PublishError | None) -> None:
        outcome.append(error)
        is_done.set()

    try:
        publisher.send(CATALOG_SOURCE.encode(), value, done)
        if not is_done.wait(PUBLISH_TIMEOUT_S):
            raise OperatorError(
                f"Kafka did not acknowledge the catalog within {PUBLISH_TIMEOUT_S:.0f} s. Publish "
                "it again: a repeat changes nothing"
            )
        if outcome[0] is not None:
            raise outcome[0]
    except PublishError as error:
        raise OperatorError(
            f"Kafka did not acknowledge the catalog ({error}). See `usageledger status`, then "
            "publish it again: a repeat changes nothing"
        ) from error
    finally:
        publisher.close()
