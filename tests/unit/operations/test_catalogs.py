"""The checks and warnings of publishing a catalog."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog import Catalog
from usageledger.domain.catalog_document import load_shipped_catalog
from usageledger.ledger.decoding import decode_catalog
from usageledger.ledger.records import Record
from usageledger.operations.catalogs import Publication, catalog_event, publish, wait_until_adopted
from usageledger.operations.errors import OperatorError
from usageledger.operations.lags import Lag, LedgerLags
from usageledger.sdk.producer.publisher import Blame, Done, Publisher, PublishError

NOW = datetime(2026, 11, 24, tzinfo=UTC)
SHIPPED = load_shipped_catalog()


def version(name: str, effective_from: datetime) -> Catalog:
    return replace(SHIPPED, version=name, effective_from=effective_from)


def test_a_published_catalog_is_read_back_as_it_was() -> None:
    value = catalog_event(SHIPPED, NOW)
    assert decode_catalog(Record(0, 0, b"k", value)) == SHIPPED
    event = json.loads(value)
    assert (event["id"], event["source"], event["time"]) == (
        SHIPPED.version,
        "/usageledger/catalog",
        "2026-11-24T00:00:00Z",
    )


def test_a_version_that_was_published_is_not_published_again() -> None:
    assert publish(_Acknowledging, SHIPPED, AdoptedCatalogs((SHIPPED,)), NOW) == Publication(
        SHIPPED.version, is_new=False
    )


def test_a_version_never_changes() -> None:
    with pytest.raises(
        OperatorError, match="has been published with other content, and a version never changes"
    ):
        publish(_Acknowledging, version(SHIPPED.version, NOW), AdoptedCatalogs((SHIPPED,)), NOW)


def test_a_broker_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(OperatorError, match=r"no Kafka broker answers \(it sleeps\)"):
        publish(_unreachable, version("v2", NOW), AdoptedCatalogs((SHIPPED,)), NOW)


def test_adoption_is_waited_for_until_the_last_partition() -> None:
    looks = iter([_behind(3, 2), _behind(0, 1), _behind(0, 0)])
    counts: list[int] = []
    assert (
        wait_until_adopted(
            lambda: next(looks), 10, on_look=counts.append, sleep=lambda seconds: None
        )
        == []
    )
    assert counts == [2, 1, 0]


def test_partitions_that_do_not_adopt_in_time_are_named() -> None:
    assert wait_until_adopted(lambda: _behind(0, 1), 0) == [1]


@pytest.mark.parametrize(
    ("effective_from", "warning"),
    [
        (SHIPPED.effective_from - timedelta(days=1), "is before that of 'captions-2026-11'"),
        (NOW - timedelta(days=1), "is in the past: this version rates usage since then"),
        (NOW + timedelta(days=1), None),
    ],
)
def test_an_effective_date_in_the_past_is_warned_of(
    effective_from: datetime, warning: str | None
) -> None:
    found = publish(_Acknowledging, version("v2", effective_from), AdoptedCatalogs((SHIPPED,)), NOW)
    assert found.is_new
    assert (
        [warning in each for each in found.warnings] == [True] if warning else found.warnings == ()
    )


def test_a_plan_that_is_dropped_is_warned_of() -> None:
    without = replace(
        SHIPPED, version="v2", effective_from=NOW + timedelta(days=1), plans=SHIPPED.plans[:-1]
    )
    (warning,) = publish(_Acknowledging, without, AdoptedCatalogs((SHIPPED,)), NOW).warnings
    assert warning.startswith("plan 'scale_4x' (5600 credits) is gone")


class _Acknowledging:
    """A publisher whose broker acknowledges everything."""

    def send(
        self, key: bytes, value: bytes, done: Done, *, timestamp_ms: int | None = None
    ) -> None:
        done(None)

    def close(self) -> None: ...


def _unreachable() -> Publisher:
    raise PublishError("it sleeps", Blame.CONNECTION)


def _behind(*records: int) -> LedgerLags:
    return LedgerLags(
        tuple(Lag("catalog", partition, count) for partition, count in enumerate(records)), {}
    )
