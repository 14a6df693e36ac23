"""The code writes what the schemas describe, and the models accept exactly what the ledger does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from usageledger.contracts import messages
from usageledger.contracts.asyncapi import asyncapi_document
from usageledger.contracts.examples import example_entries, examples
from usageledger.contracts.messages import MESSAGES
from usageledger.contracts.schemas import schema_of
from usageledger.domain import account as account_state
from usageledger.domain import catalog, entry
from usageledger.domain.catalog import Catalog
from usageledger.domain.claim import Claim, claim_of, encode_claim
from usageledger.domain.events import AnyEvent
from usageledger.domain.head import Head
from usageledger.ledger.adoption import adopted_catalogs
from usageledger.ledger.decoding import Malformed, decode_account, decode_catalog, decode_usage
from usageledger.ledger.limit_events import limit_events
from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.records import Record
from usageledger.ledger.timestamps import milliseconds
from usageledger.log.topics import Topics
from usageledger.operations.topics import topic_settings
from usageledger.sdk.producer import events as produced

INPUTS = [type_ for type_ in MESSAGES if not type_.startswith(("ledger.", "limit.", "catalog."))]
NOW = datetime(2026, 11, 22, 10, 15, 30, 250_000, tzinfo=UTC)


def validate(value: bytes) -> None:
    """Validate a record's value with the schema and the model of its type."""
    message = json.loads(value)
    schema = schema_of(message["type"])
    jsonschema.validate(
        message,
        schema,
        cls=jsonschema.Draft202012Validator,
        format_checker=jsonschema.FormatChecker(),
    )
    MESSAGES[message["type"]].model_validate_json(value)


def encoded(message: object) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode()


def decoded(message: dict[str, Any]) -> AnyEvent | Malformed:
    """Decode a usage or account event whose record is in the right partition."""
    subject = message.get("subject")
    key = subject.encode("utf-8", "replace") if isinstance(subject, str) else b"acct"
    record = Record(0, milliseconds(NOW), key, json.dumps(message).encode())
    decode = decode_usage if message.get("type") == "usage.recorded" else decode_account
    return decode(record, 0, 1)


# The records that the code writes
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", MESSAGES)
def test_each_schema_is_valid_and_so_are_its_examples(type_: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema_of(type_))
    assert examples()[type_]
    for message in examples()[type_]:
        validate(encoded(message))


def test_the_example_limit_events_are_those_that_the_example_entries_announce() -> None:
    announced = [
        json.loads(message.value)
        for sealed in example_entries()
        for message in limit_events(sealed.entry)
    ]
    assert announced == [
        examples()[type_][0] for type_ in ("limit.threshold", "limit.reached", "limit.cleared")
    ]


@pytest.mark.parametrize("type_", INPUTS)
def test_the_ledger_accepts_the_example_inputs(type_: str) -> None:
    for message in examples()[type_]:
        assert not isinstance(decoded(message), Malformed)


def test_the_ledger_accepts_the_example_catalog() -> None:
    assert isinstance(
        decode_catalog(Record(0, 0, None, encoded(examples()["catalog.published"][0]))), Catalog
    )


def test_every_field_of_an_entry_and_a_claim_is_in_the_contract() -> None:
    pairs: list[tuple[type[msgspec.Struct], type[BaseModel], set[str]]] = [
        (entry.LedgerEntry, messages.EntryData, {"hash"}),
        (entry.InputAddress, messages.InputAddressData, set()),
        (entry.EventReference, messages.EventReferenceData, set()),
        (entry.PeriodReference, messages.PeriodReferenceData, set()),
        (entry.Figures, messages.FiguresData, set()),
        (entry.Voids, messages.VoidsData, set()),
        (entry.GrantChange, messages.GrantChangeData, set()),
        (entry.PlanChange, messages.PlanChangeData, set()),
        (entry.SuspensionChange, messages.SuspensionChangeData, set()),
        (entry.UpgradeOffer, messages.UpgradeOfferData, set()),
        (entry.Crossing, messages.CrossingData, set()),
        (account_state.Period, messages.PeriodData, set()),
        (catalog.Rate, messages.RateData, set()),
        (Claim, messages.ClaimData, set()),
    ]
    for struct, model, more in pairs:
        assert model.model_fields.keys() == {*struct.__struct_fields__, *more}, model.__name__


def test_the_ledgers_records_are_valid_by_their_schemas() -> None:
    validate(encode_claim(claim_of(0, "5f0c61a2", "worker/1")))
    values = list(_ledger_of_a_story())
    kinds = {json.loads(value)["data"].get("kind") for value in values}
    assert kinds >= {
        "catalog_adopted",
        "account_opened",
        "usage",
        "duplicate",
        "refusal",
        "plan_change",
        "grant",
        "void",
        "renewal",
    }
    assert kinds >= {"suspension", "resumption", "thresholds_set"}
    types = {json.loads(value)["type"] for value in values}
    assert types == {"ledger.entry", "limit.threshold", "limit.reached", "limit.cleared"}
    for value in values:
        validate(value)


def test_the_sdks_events_are_valid_by_their_schemas_and_are_accepted() -> None:
    built = list(_built_by_the_sdks())
    assert {event["type"] for event in built} == set(INPUTS)
    for event in built:
        validate(produced.encode(event))
        assert not isinstance(decoded(event), Malformed)


def _built_by_the_sdks() -> Iterator[dict[str, Any]]:
    head: Any = {"source": "/billing", "account": "acct_4821", "id": "event_1", "now": NOW}
    yield produced.usage_recorded(
        **head, feature="genai_video", model="veo_3", quantity="1.5", dimensions={"project": "p_77"}
    )
    yield produced.usage_recorded(**head, feature="chat_message", hold_id="hold_7")
    yield produced.usage_voided(
        source="/s", account="a", usage_source="/render", usage_id="gen", reason="black", now=NOW
    )
    yield produced.account_opened(
        **head,
        plan="pro",
        anchor=NOW,
        time_zone="Europe/Berlin",
        used="86.5",
        free_used="200",
        as_of=NOW,
    )
    yield produced.account_opened(**head, plan="free")
    yield produced.account_subscribed(**head, plan="pro", time_zone="Asia/Tokyo", anchor=NOW)
    yield produced.account_plan_changed(**head, plan="max")
    yield produced.account_cancelled(**head, effective="now")
    yield produced.account_suspended(**head, reason="fraud", note="a stolen card")
    yield produced.account_resumed(**head)
    yield produced.account_resumed(**head, reason="settled", note="the bank says so")
    yield produced.account_thresholds_set(**head, thresholds=["0.5", Decimal("0.90")])
    yield produced.account_thresholds_set(**head, thresholds=[])
    yield produced.account_thresholds_set(**head, thresholds=None)
    yield produced.credits_granted(
        **head, credits="12.5", reason="goodwill", expires_at=NOW.replace(year=2027)
    )


def _ledger_of_a_story() -> Iterator[bytes]:
    """The values of an account's entries and limit events, with nearly every kind of them."""
    catalogs = adopted_catalogs([Record(0, 0, None, encoded(examples()["catalog.published"][0]))])
    book = PartitionBook(0, 1, Head(ledger="5f0c61a2"), catalogs)
    sealed = book.adopt(Record(1, 0, None, encoded(_another_catalog())))
    for number, (day, type_, id_, data) in enumerate(_STORY):
        at = f"2027-{day}T12:00:00Z"
        message = {
            "specversion": "1.0",
            "type": type_,
            "id": id_,
            "source": "/s",
            "subject": "acct",
            "time": at,
            "data": data,
        }
        topic: entry.Topic = "usage" if type_ == "usage.recorded" else "account"
        record = Record(number, milliseconds(datetime.fromisoformat(at)), b"acct", encoded(message))
        (item,) = book.decode(topic, [record])
        sealed += book.decide_input(item)
    for line in sealed:
        yield line.value
        yield from (message.value for message in limit_events(line.entry))


def _another_catalog() -> dict[str, Any]:
    message = examples()["catalog.published"][0]
    return {**message, "data": {**message["data"], "version": "2027-01"}}


_VIDEO = {"feature": "genai_video", "model": "veo_3", "quantity": 1}
_STORY: list[tuple[str, str, str, dict[str, Any]]] = [
    ("01-05", "usage.recorded", "u1", _VIDEO),
    ("01-05", "usage.recorded", "u1", _VIDEO),
    ("01-05", "usage.recorded", "u2", {**_VIDEO, "model": "unheard_of"}),
    ("01-06", "usage.recorded", "u3", _VIDEO),
    ("01-07", "account.subscribed", "s1", {"plan": "pro", "time_zone": "Europe/Berlin"}),
    ("01-08", "usage.recorded", "u4", {**_VIDEO, "quantity": "3", "hold_id": "h1"}),
    (
        "01-09",
        "credits.granted",
        "g1",
        {"credits": "150", "reason": "goodwill", "expires_at": "2027-01-20T00:00:00Z"},
    ),
    ("01-10", "usage.voided", "v1", {"source": "/s", "id": "u4", "reason": "black"}),
    ("01-11", "usage.voided", "v2", {"source": "/s", "id": "u5", "reason": "too early"}),
    ("01-12", "usage.recorded", "u5", _VIDEO),
    ("01-13", "account.plan_changed", "p1", {"plan": "max"}),
    ("01-14", "account.cancelled", "c1", {}),
    (
        "01-15",
        "account.suspended",
        "x1",
        {"reason": "payment_failed", "note": "the card has expired"},
    ),
    ("01-16", "account.thresholds_set", "t1", {"thresholds": ["0.5"]}),
    ("01-17", "account.thresholds_set", "t2", {"thresholds": []}),
    ("01-18", "account.thresholds_set", "t3", {"thresholds": None}),
    ("01-19", "account.resumed", "x2", {"reason": "paid"}),
    ("03-14", "usage.recorded", "u6", _VIDEO),
]


# AsyncAPI
# ------------------------------------------------------------------------------------------


def test_the_asyncapi_document_has_the_topics_that_are_created() -> None:
    """They agree in names, retention and sizes.

    The document describes a ledger without a prefix that is no longer in import mode.
    """
    channels = asyncapi_document()["channels"]
    made = {topic.name: topic for topic in topic_settings(Topics())}
    assert {channel["address"] for channel in channels.values()} == made.keys()
    for channel in channels.values():
        stated = channel["bindings"]["kafka"]["topicConfiguration"]
        real = made[channel["address"]].configs
        assert real["cleanup.policy"] in stated["cleanup.policy"]
        assert [
            str(stated[name]) for name in ("retention.ms", "retention.bytes", "max.message.bytes")
        ] == [real[name] for name in ("retention.ms", "retention.bytes", "max.message.bytes")]
        assert channel["x-compression-type"] == real["compression.type"]
        assert channel["x-message-timestamp-type"] == real["message.timestamp.type"]


def test_every_message_is_in_exactly_one_channel() -> None:
    channels = asyncapi_document()["channels"].values()
    assert sorted(type_ for channel in channels for type_ in channel["messages"]) == sorted(
        MESSAGES
    )


# The events that are accepted
# ------------------------------------------------------------------------------------------

_names: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [
            "pro",
            "acct_1",
            "/render",
            "",
            " ",
            " a",
            "a ",
            "a b",
            "é",
            "a\n",
            "\u00a0a",
            "a\u2028",
            "\ufeffa",
            "a\x7f",
            "x" * 201,
        ]
    ),
    st.text(max_size=8),
)
_times: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [
            "2026-11-22T10:15:30Z",
            "2026-11-22T10:15:30.250+05:30",
            "2026-11-22 10:15:30Z",
            "2026-11-22T10:15:30",
            "2026-11-22T10:15Z",
            "2026-11-22",
            "2026-13-01T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T23:59:60Z",
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-14:00",
            "2026-11-22T10:15:30.1234567Z",
            "1969-12-31T23:00:00-05:00",
            "1970-01-01T00:00:00+14:00",
            "3000-01-01T00:00:00Z",
            "1764000000",
            1764000000,
            1764000000.5,
            "",
            None,
        ]
    ),
    st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
)
_amounts: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [
            *(
                "1",
                "0",
                "-1",
                "1.0",
                "0.000001",
                "0.0000001",
                "1e3",
                "1_000",
                " 1",
                "１",
                "",
                "NaN",
                "Infinity",
                "+1",
                "1.",
                ".5",
            ),
            *(
                "1000000000",
                "1000000000.000001",
                "9007199254.740991",
                "9007199254.740992",
                "00000000001",
            ),
            *(
                1,
                0,
                -1,
                1.0,
                0.5,
                10**9,
                10**9 + 1,
                9007199254,
                9007199255,
                10**25,
                -(10**25),
                True,
                False,
                None,
                [],
                {},
            ),
        ]
    ),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
)
_shares: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(
            "0.5",
            "0.50",
            "00.8",
            "0.8",
            "0.9",
            "0.999999",
            "0.9999999",
            "0",
            "1",
            "1.5",
            "-0.5",
            ".5",
            "0.",
            "NaN",
            "",
        ),
        0.5,
        1,
        None,
        ["0.5"],
    ]
)
_MANY_SHARES = [f"0.{n:02d}" for n in range(1, 21)]
_other: st.SearchStrategy[Any] = st.sampled_from(
    [None, 1, 1.5, True, [], {}, "", "text", {"a": "b"}, {"a": 1}]
)
_values: st.SearchStrategy[Any] = st.one_of(_names, _times, _amounts, _other)

# The values that are tried in a field of that name, most of the time.
_FITTING: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("time", "recordedtime", "anchor", "as_of", "expires_at"), _times),
    **dict.fromkeys(("quantity", "credits", "used", "free_used"), _amounts),
    "effective": st.sampled_from(["period_end", "now", "later", "", None]),
    "thresholds": st.one_of(
        _other,
        st.lists(_shares, max_size=3),
        st.lists(_shares, min_size=19, max_size=22),
        st.just(_MANY_SHARES),
    ),
    "specversion": st.sampled_from(["1.0", "1", "0.3", 1.0]),
    "type": st.sampled_from([*INPUTS, "ledger.entry", ""]),
    "dimensions": st.one_of(
        _other,
        st.dictionaries(st.text(max_size=3), st.one_of(st.text(max_size=3), st.none()), max_size=2),
    ),
    **dict.fromkeys(
        ("id", "source", "subject", "feature", "model", "hold_id", "plan", "time_zone", "reason"),
        _names,
    ),
}


@st.composite
def _events(draw: st.DrawFn) -> dict[str, Any]:
    """A valid event of some type in which up to three fields are changed or missing."""
    message: dict[str, Any] = json.loads(
        json.dumps(draw(st.sampled_from([examples()[type_][0] for type_ in INPUTS])))
    )
    for _ in range(draw(st.integers(0, 3))):
        data = message.get("data")
        place = draw(st.sampled_from([message, data])) if isinstance(data, dict) else message
        name = draw(
            st.sampled_from(
                sorted(
                    {*place, "recordedtime"} if place is message else {*place, "hold_id", "anchor"}
                )
            )
        )
        if draw(st.integers(0, 9)) == 0:
            place.pop(name, None)
        else:
            # A copy: a value that is drawn twice must not end up within itself.
            place[name] = deepcopy(
                draw(st.one_of(_FITTING.get(name, _values), _FITTING.get(name, _values), _values))
            )
    return message


def model_accepts(message: dict[str, Any]) -> BaseModel | None:
    model = MESSAGES.get(message["type"]) if isinstance(message.get("type"), str) else None
    if model is None or message["type"] not in INPUTS:
        return None
    try:
        return model.model_validate_json(json.dumps(message))
    except ValidationError:
        return None


_USE = examples()["usage.recorded"][0]
_THRESHOLDS = examples()["account.thresholds_set"][0]


@given(_events())
@example({**_USE, "data": {**_USE["data"], "quantity": 1.0}})
@example({**_USE, "data": {**_USE["data"], "quantity": True}})
@example({**_USE, "time": 1764000000})
@example({**_USE, "subject": "\ud800"})
@example({**_THRESHOLDS, "data": {"thresholds": _MANY_SHARES}})
@example({**_THRESHOLDS, "data": {"thresholds": [*_MANY_SHARES, "0.9"]}})
@example({**_THRESHOLDS, "data": {"thresholds": ["0.9", "0.5"]}})
@example({**_THRESHOLDS, "data": {"thresholds": "0.5"}})
@example({**_THRESHOLDS, "data": {}})
@example({**_USE, "recordedtime": "0001-01-01T00:00:00+14:00"})
def test_a_model_accepts_an_event_exactly_if_the_ledger_does(message: dict[str, Any]) -> None:
    result, model = decoded(message), model_accepts(message)
    assert (model is None) == isinstance(result, Malformed), result
    if model is not None and not isinstance(result, Malformed):
        _same_meaning(model, result)


def _same_meaning(model: Any, event: Any) -> None:
    """Whether the fields that both have by one name have equal values.

    Credits are micro-credits, times are in UTC, and quantities have one form.
    """
    assert (model.subject, model.source, model.id, model.time) == (
        event.account,
        event.source,
        event.id,
        event.occurred_at,
    )
    shared = set(type(model.data).model_fields) & set(event.__struct_fields__) - {"source", "id"}
    for name in shared:
        value = getattr(model.data, name)
        if value is not None:
            assert value == getattr(event, name) or (name, value) == ("time_zone", ""), name


@given(st.floats(), st.sampled_from(["quantity", "credits", "used", "free_used"]))
def test_credits_and_quantities_are_never_floats(number: float, field: str) -> None:
    """Neither from JSON nor from Python, where pydantic would turn a whole float into an int."""
    type_ = {"quantity": "usage.recorded", "credits": "credits.granted"}.get(
        field, "account.opened"
    )
    message = examples()[type_][0]
    with pytest.raises(ValidationError):
        MESSAGES[type_].model_validate({**message, "data": {**message["data"], field: number}})
    assert isinstance(decoded({**message, "data": {**message["data"], field: number}}), Malformed)
