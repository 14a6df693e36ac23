"""The operator's API on a real stack: refusals, accounts and lags.

A refusal is found, mended and sent again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from kafka import KafkaProducer
from msgspec.structs import replace

from tests.servers import RunningGateway
from usageledger import UsageMeter
from usageledger.domain.catalog import Feature, Model
from usageledger.domain.catalog_document import load_shipped_catalog
from usageledger.domain.entry import InputAddress
from usageledger.gateway.inspector import Inspector
from usageledger.gateway.problems import Problem
from usageledger.ledger.refused_input import RefusedInput
from usageledger.local.ports import free_port
from usageledger.log.published_catalogs import PublishedCatalogs
from usageledger.log.reading import log_reader
from usageledger.log.topics import Topics
from usageledger.operations.catalogs import catalog_connector, publish, published_catalogs
from usageledger.operations.ledger_inspection import LedgerConnections
from usageledger.operations.waiting import is_true_within
from usageledger.runtime.kafka_connection import KafkaConnection

pytestmark = pytest.mark.timeout(180)

DEADLINE_S = 60.0


class Console:
    """Asks a gateway as an operator does."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._client = httpx.Client(
            base_url=gateway.url, headers={"Authorization": f"Bearer {gateway.key}"}, timeout=30
        )

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        answer = self._client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def resend(self, *entries: str) -> list[str]:
        answer = self._client.post("/v1/refusals/resend", json={"entries": entries})
        assert answer.status_code == 200, answer.text
        return [item["result"] for item in answer.json()["items"]]

    def refusals_of(self, account: str | None, **query: Any) -> list[dict[str, Any]]:
        return [
            item
            for item in self.get("/v1/refusals", limit=200, **query)["items"]
            if item["account"] == account
        ]

    def lag(self) -> dict[str, int]:
        return {service["name"]: service["records"] for service in self.get("/v1/lag")["services"]}

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def console(gateway: RunningGateway) -> Any:
    made = Console(gateway)
    yield made
    made.close()


def test_a_refused_use_is_seen_mended_sent_again_and_resolved(
    gateway: RunningGateway, console: Console, tmp_path: Path
) -> None:
    account, model = f"acct_{uuid.uuid4().hex[:8]}", f"model_{uuid.uuid4().hex[:8]}"
    with usage_meter(gateway, tmp_path) as meter:
        meter.record(account=account, feature="genai_video", model=model, id="gen_1")
        assert meter.flush(DEADLINE_S)
    within_the_deadline(
        lambda: len(console.refusals_of(account, reason="unknown_model", resolved=False)) == 1
    )
    (refusal,) = console.refusals_of(account)
    assert (refusal["event"], refusal["feature"], refusal["model"]) == (
        {"source": "render", "id": "gen_1"},
        "genai_video",
        model,
    )

    version = publish_with(gateway, model)
    within_the_deadline(
        lambda: adopters(console, version) == console.get("/v1/catalogs")["partitions"]
    )
    assert console.resend(refusal["entry"], "0-999999") == ["sent", "not_found"]
    within_the_deadline(
        lambda: console.refusals_of(account, resolved=True) == [refusal | {"is_resolved": True}]
    )
    assert console.resend(refusal["entry"]) == ["already_resolved"]
    within_the_deadline(
        lambda: (
            [item["used"] for item in console.get("/v1/accounts", search=account.upper())["items"]]
            == ["7"]
        )
    )


def test_a_record_without_a_key_is_sent_again_as_it_was(
    gateway: RunningGateway, console: Console
) -> None:
    said = f"no event: {uuid.uuid4()}".encode()
    producer = KafkaProducer(**gateway.addresses.kafka.for_kafka_python())
    sent = producer.send(Topics(gateway.addresses.prefix).usage, said, partition=0).get(DEADLINE_S)
    producer.close()
    place = f"usage 0-{sent.offset}"
    within_the_deadline(
        lambda: place in [item["place"] for item in console.refusals_of(None, reason="not_json")]
    )
    (refusal,) = (item for item in console.refusals_of(None) if item["place"] == place)
    assert console.resend(refusal["entry"]) == ["sent"]
    within_the_deadline(
        lambda: len([item for item in console.refusals_of(None) if item["place"] > place]) == 1
    )
    again = max(item["place"] for item in console.refusals_of(None))
    with log_reader(gateway.addresses.kafka) as reader:
        offset = int(again.rpartition("-")[2])
        assert [
            record.value
            for record in reader.read(Topics(gateway.addresses.prefix).usage, 0, offset, offset + 1)
        ] == [said]


def test_accounts_are_found_page_by_page(
    gateway: RunningGateway, console: Console, tmp_path: Path
) -> None:
    mark = uuid.uuid4().hex[:8]
    accounts = [f"team_{mark}/{number}" for number in range(7)]
    with usage_meter(gateway, tmp_path) as meter:
        for account in accounts:
            meter.record(account=account, feature="ai_edit", id=account)
        assert meter.flush(DEADLINE_S)
    within_the_deadline(lambda: len(console.get("/v1/accounts", search=mark)["items"]) == 7)
    seen: list[str] = []
    page: dict[str, Any] = {"next_cursor": None}
    while not seen or page["next_cursor"] is not None:
        page = console.get(
            "/v1/accounts",
            search=mark,
            limit=3,
            **({"cursor": page["next_cursor"]} if seen else {}),
        )
        seen += [item["account"] for item in page["items"]]
    assert seen == accounts


def test_an_idle_ledger_lags_in_nothing(console: Console) -> None:
    within_the_deadline(lambda: console.lag() == {"processor": 0, "limits": 0, "history": 0})
    within_the_deadline(
        lambda: (
            {partition["state"] for partition in console.get("/v1/lag")["partitions"]}
            == {"running/idle"}
        )
    )
    assert console.get("/v1/accounts")["history_as_of"] is None


def test_where_no_broker_answers_that_is_said_within_the_bound(redis_url: str) -> None:
    nobody = KafkaConnection(servers=f"127.0.0.1:{free_port()}")
    inspector = Inspector(
        partial(LedgerConnections, nobody, redis_url, "", PublishedCatalogs(nobody, ""))
    )

    async def scenario() -> list[str]:
        asked = (
            inspector.progress,
            inspector.catalogs,
            lambda: inspector.refused_records([refused_at(0, 0)]),
        )
        codes = []
        for ask in asked:
            with pytest.raises(Problem) as raised:
                await ask()
            codes.append(raised.value.code)
        return codes

    assert asyncio.run(scenario()) == ["log_unavailable"] * 3
    inspector.close()


def test_a_record_that_is_no_longer_in_its_topic_is_told_from_one_that_is(
    gateway: RunningGateway, redis_url: str, console: Console, tmp_path: Path
) -> None:
    prefix, kafka = gateway.addresses.prefix, gateway.addresses.kafka
    with usage_meter(gateway, tmp_path) as meter:
        meter.record(account="acct_1", feature="ai_edit", id=uuid.uuid4().hex)
        assert meter.flush(DEADLINE_S)
    with log_reader(kafka) as reader:
        ends = [reader.end_offset(Topics(prefix).usage, partition) for partition in (0, 1)]
    inspector = Inspector(
        partial(LedgerConnections, kafka, redis_url, prefix, PublishedCatalogs(kafka, prefix))
    )
    wanted = [
        refused_at(partition, offset) for partition, end in enumerate(ends) for offset in (0, end)
    ]
    found = asyncio.run(inspector.refused_records(wanted))
    inspector.close()
    assert [bool(records) for records in found] == [
        end > offset for end in ends for offset in (0, end)
    ]
    assert any(found)


def refused_at(partition: int, offset: int) -> RefusedInput:
    """A refusal of one record of the usage topic."""
    return RefusedInput(
        partition=partition,
        offset=0,
        appended_at=datetime.now(UTC),
        account="",
        reason="not_json",
        detail="",
        input=InputAddress(topic="usage", partition=partition, offset=offset),
        event=None,
    )


def usage_meter(gateway: RunningGateway, directory: Path) -> UsageMeter:
    return UsageMeter(
        source="render",
        kafka=gateway.addresses.kafka,
        prefix=gateway.addresses.prefix,
        spool_directory=directory / "spool",
    )


def publish_with(gateway: RunningGateway, model: str) -> str:
    """Publish a catalog that knows this model as well, at 7 credits.

    It takes effect years from now, so it rates no other test's uses.
    """
    kafka, prefix = gateway.addresses.kafka, gateway.addresses.prefix
    shipped = load_shipped_catalog()
    rate = (
        next(feature for feature in shipped.features if feature.id == "genai_video").models[0].rate
    )
    added = Model(id=model, name=model, rate=replace(rate, credits=7_000_000))
    features: list[Feature] = [
        replace(feature, models=(*feature.models, added))
        if feature.id == "genai_video"
        else feature
        for feature in shipped.features
    ]
    later = replace(
        shipped,
        version=f"with_{model}",
        effective_from=datetime(2999, 1, 1, tzinfo=UTC),
        features=tuple(features),
    )
    with log_reader(kafka) as reader:
        published = published_catalogs(reader, prefix)
    publish(catalog_connector(kafka, prefix), later, published, datetime.now(UTC))
    return later.version


def adopters(console: Console, version: str) -> int:
    return sum(
        item["adopted_by"]
        for item in console.get("/v1/catalogs")["items"]
        if item["version"] == version
    )


def within_the_deadline(check: Callable[[], bool]) -> None:
    assert is_true_within(check, DEADLINE_S)
