"""`UsageGate` without a ledger: arguments, degraded answers, and the gateway's responses."""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from usageledger import AsyncUsageGate, NotEnoughCredits, UsageGate
from usageledger.domain.checking import Use
from usageledger.sdk.gate.answers import (
    GateError,
    GateMisconfigured,
    GateUnavailable,
    HoldAnswer,
    HoldIdReused,
    InvalidUse,
    NotTheHolder,
    UnknownUse,
    Upgrade,
)
from usageledger.sdk.gate.over_http import (
    answer_from,
    check_request,
    hold_request,
    release_request,
)
from usageledger.testing import InMemoryGate

NOWHERE: dict[str, Any] = {"gateway": "http://gateway.invalid", "key": "ulk_x"}
USE = Use(feature="genai_video", model="veo_3", quantity=Decimal("1.5"))
STANDING = {
    "remaining": "10",
    "held": "4",
    "available": "6",
    "resets_at": "2026-12-01T00:00:00Z",
    "as_of": None,
}
MAX = {"plan": "max", "name": "Max", "price_cents": 2499, "allotment": "500"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gateway": "http://g"},
        {"key": "k"},
        {"kafka": "k:9092"},
        {"redis_url": "redis://r"},
        {"gateway": "http://g", "key": "k", "kafka": "k:9092"},
        {"gateway": "http://g", "key": "k", "kafka": "k:9092", "redis_url": "redis://r"},
    ],
)
def test_a_gate_has_exactly_one_transport(options: dict[str, Any]) -> None:
    for kind in (UsageGate, AsyncUsageGate):
        with pytest.raises(ValueError, match="either gateway and key, or kafka and redis_url"):
            kind(on_unavailable="allow", **options)


def test_a_gate_takes_its_prefix_from_the_variable_that_every_client_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It asked another ledger on the same Kafka, the one without a prefix."""
    monkeypatch.setenv("USAGELEDGER_PREFIX", "acme")
    servers: dict[str, Any] = {"kafka": "nowhere:9092", "redis_url": "redis://nowhere"}
    for kind in (UsageGate, AsyncUsageGate):
        gate: Any = kind(on_unavailable="allow", **servers)
        assert gate._transport._facts._prefix == "acme"
        other: Any = kind(on_unavailable="allow", prefix="", **servers)
        assert other._transport._facts._prefix == ""


def test_on_unavailable_has_no_default() -> None:
    with pytest.raises(TypeError, match="on_unavailable"):
        UsageGate(**NOWHERE)
    with pytest.raises(ValueError, match='"allow" or "deny"'):
        # The wrong value is the point.
        UsageGate(**NOWHERE, on_unavailable="maybe")  # type: ignore[arg-type]


def said_by(answer: object, *names: str) -> tuple[object, ...]:
    """Some fields of an answer."""
    return tuple(getattr(answer, name) for name in names)


BAD_USES: list[tuple[dict[str, Any], str]] = [
    ({"account": ""}, "account"),
    ({"account": 7}, "account"),
    ({"feature": " genai_video"}, "feature"),
    ({"model": ""}, "model"),
    ({"quantity": 1.5}, "quantity"),
    ({"quantity": "-1"}, "quantity"),
    ({"quantity": "0.0000001"}, "quantity"),
]


@pytest.mark.parametrize(("wrong", "named"), BAD_USES)
def test_malformed_arguments_are_refused_before_anything_is_asked(
    wrong: dict[str, Any], named: str
) -> None:
    asked: dict[str, Any] = {
        "account": "a",
        "feature": "genai_video",
        "model": "veo_3",
        "quantity": 1,
    } | wrong
    gate = InMemoryGate()
    gate.is_available = False
    for ask in (gate.check, lambda **use: gate.hold(id="job", **use)):
        with pytest.raises(InvalidUse, match=named):
            ask(**asked)
    with pytest.raises(InvalidUse, match=named):
        asyncio.run(gate.for_asyncio().check(**asked))


@pytest.mark.parametrize(
    "expires_in",
    [
        timedelta(0),
        timedelta(milliseconds=999),
        timedelta(hours=24, microseconds=1),
        900,
        timedelta(days=-1),
    ],
)
def test_a_hold_lasts_a_second_to_a_day(expires_in: Any) -> None:
    with pytest.raises(InvalidUse, match="1 second to 24 hours"):
        InMemoryGate().hold("a", "job", "genai_video", "veo_3", expires_in=expires_in)


def test_a_hold_lasts_15_minutes_by_default_and_never_less_than_it_should() -> None:
    now = [datetime(2026, 11, 25, 10, tzinfo=UTC)]
    gate = InMemoryGate(now=lambda: now[0])
    assert gate.hold("a", "job-1", "chat_action").expires_at == now[0] + timedelta(minutes=15)
    options = gate.hold(
        "a", "job-2", "chat_action", expires_in=timedelta(seconds=1, microseconds=1)
    )
    assert options.expires_at == now[0] + timedelta(seconds=2)
    now[0] += timedelta(minutes=15)
    check = gate.check("a", "chat_action")
    assert said_by(check, "held", "available") == (0, 200)


@pytest.mark.parametrize(
    "uses",
    [[], [("chat_action", None, 1)] * 101, [{"model": "veo_3"}], [{"feature": "f", "amount": 1}]],
)
def test_a_quote_names_its_uses(uses: Any) -> None:
    with pytest.raises(InvalidUse):
        InMemoryGate().quote(uses)


def test_a_quote_says_what_uses_cost_and_where_they_fit() -> None:
    quote = InMemoryGate().quote(
        [("genai_video", "veo_3", 2), {"feature": "prompt_to_video", "quantity": "30.1"}]
    )
    assert [use.credits for use in quote.uses] == [64, 248]
    assert quote.total == 312
    assert quote.fits[0].plan == "max"
    with pytest.raises(UnknownUse, match="veo_99") as refused:
        InMemoryGate().quote([("genai_video", "veo_99", 1)])
    assert refused.value.reason == "unknown_model"


def test_a_check_says_what_is_left_and_which_upgrade_would_do() -> None:
    gate = InMemoryGate()
    gate.open("a", plan="pro", used="190")
    refused = gate.check("a", "chat_action", quantity=11)
    assert not refused
    assert said_by(refused, "reason", "cost", "remaining", "available") == (
        "insufficient_credits",
        11,
        10,
        10,
    )
    assert refused.upgrade == Upgrade(
        plan="max", name="Max", price_cents=2499, allotment=Decimal(500)
    )
    allowed = gate.check("a", "chat_action", quantity=10)
    assert allowed
    assert allowed.upgrade is None
    gate.suspend("a", "fraud")
    suspended = gate.check("a", "chat_action", quantity=0)
    assert said_by(suspended, "allowed", "reason", "suspension", "upgrade") == (
        False,
        "suspended",
        "fraud",
        None,
    )


def test_a_suspended_account_gets_no_hold_and_keeps_the_one_it_has() -> None:
    gate = InMemoryGate()
    assert gate.hold("a", "job", "chat_action")
    gate.use("a", "chat_message", quantity=0)
    gate.suspend("a")
    again, other = gate.hold("a", "job", "chat_action"), gate.hold("a", "other", "chat_action")
    assert said_by(again, "allowed", "state") == (True, "open")
    assert said_by(other, "allowed", "reason", "suspension") == (
        False,
        "suspended",
        "payment_failed",
    )
    with pytest.raises(HoldIdReused, match="1 of chat_action"):
        gate.hold("a", "job", "chat_message")


def test_a_hold_is_settled_by_its_use_and_released_by_a_failure() -> None:
    gate = InMemoryGate()
    with gate.held("a", id="job-1", feature="genai_video", model="veo_3", quantity=2) as hold:
        assert said_by(hold, "credits", "state", "held", "available") == (64, "open", 64, 136)
        gate.use("a", "genai_video", "veo_3", 1, hold_id=hold.id)
    assert gate.check("a", "chat_action").available == 168
    with (
        pytest.raises(ZeroDivisionError),
        gate.held("a", id="job-2", feature="genai_video", model="veo_3"),
    ):
        raise ZeroDivisionError
    check = gate.check("a", "chat_action")
    assert said_by(check, "held", "available") == (0, 168)
    assert gate.release("a", "job-2").state == "released"
    assert gate.release("a", "job-1").state == "settled"
    assert gate.release("a", "job-3").state == "gone"
    done = gate.hold("a", "job-1", "genai_video", "veo_3", 2)
    assert said_by(done, "allowed", "state", "held") == (True, "settled", 0)


def test_a_body_without_a_hold_does_not_run() -> None:
    gate = InMemoryGate()
    gate.open("a", used="190")
    with (
        pytest.raises(NotEnoughCredits) as refused,
        gate.held("a", id="job", feature="chat_action", quantity=11),
    ):
        pytest.fail("the body ran")
    assert refused.value.answer.upgrade is not None
    assert refused.value.answer.upgrade.plan == "pro"


def test_the_same_gate_serves_asyncio() -> None:
    async def test(gate: AsyncUsageGate) -> None:
        async with gate:
            await gate.prepare()
            async with gate.held("a", id="job-1", feature="genai_video", model="veo_3") as hold:
                assert said_by(hold, "credits", "state") == (32, "open")
            with pytest.raises(ZeroDivisionError):
                async with gate.held("a", id="job-2", feature="genai_video", model="veo_3"):
                    raise ZeroDivisionError
            with pytest.raises(NotEnoughCredits):
                async with gate.held("a", id="job-3", feature="chat_action", quantity=169):
                    pytest.fail("the body ran")
            assert (await gate.quote([("chat_action", None, 3)])).total == 3

    gate = InMemoryGate()
    asyncio.run(test(gate.for_asyncio()))
    assert gate.check("a", "chat_action").held == 32


@pytest.mark.parametrize("on_unavailable", ["allow", "deny"])
def test_without_an_answer_on_unavailable_decides_and_the_answer_is_degraded(
    on_unavailable: Any, caplog: pytest.LogCaptureFixture
) -> None:
    allowed = on_unavailable == "allow"
    gate = InMemoryGate(on_unavailable=on_unavailable)
    gate.is_available = False
    check, hold, release = (
        gate.check("a", "chat_action"),
        gate.hold("a", "job", "chat_action"),
        gate.release("a", "job"),
    )
    for answer in (check, hold):
        assert (answer.allowed, bool(answer), answer.degraded) == (allowed, allowed, True)
        assert answer.reason == (None if allowed else "unavailable")
        assert said_by(answer, "remaining", "available", "upgrade") == (None, None, None)
    assert said_by(release, "state", "degraded") == (None, True)
    assert (
        f"no answer about whether an account may start a use, so on_unavailable={on_unavailable}"
        in caplog.text
    )
    with pytest.raises(GateUnavailable):
        gate.quote([("chat_action", None, 1)])


def response(status: int, said: Any) -> httpx.Response:
    request = httpx.Request("POST", "http://gateway/v1")
    content = {"content": said} if isinstance(said, bytes) else {"json": said}
    return httpx.Response(status, request=request, **content)


def test_a_request_names_the_account_in_the_path_and_the_use_in_the_body() -> None:
    assert check_request("team/7 ü", USE).path == "/v1/accounts/team%2F7%20%C3%BC/check"
    assert check_request("..", USE).path == "/v1/accounts/%2E%2E/check"
    assert check_request("a", USE).body == {
        "feature": "genai_video",
        "model": "veo_3",
        "quantity": "1.5",
    }
    hold = hold_request("a", "job", USE, 90)
    assert said_by(hold, "path", "body") == (
        "/v1/accounts/a/holds",
        {
            "id": "job",
            "feature": "genai_video",
            "model": "veo_3",
            "quantity": "1.5",
            "expires_in": 90,
        },
    )
    assert release_request("a", "j/1").path == "/v1/accounts/a/holds/j%2F1/release"


def test_a_refused_hold_is_an_answer() -> None:
    said = {
        "code": "insufficient_credits",
        "detail": "…",
        "credits": "7",
        "suspension": None,
        "upgrade": MAX,
        **STANDING,
    }
    assert answer_from(response(402, said), hold_request("a", "job", USE, 90)) == HoldAnswer(
        account="a",
        id="job",
        allowed=False,
        reason="insufficient_credits",
        credits=Decimal(7),
        remaining=Decimal(10),
        held=Decimal(4),
        available=Decimal(6),
        upgrade=Upgrade(plan="max", name="Max", price_cents=2499, allotment=Decimal(500)),
        resets_at=datetime(2026, 12, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("status", "said", "raised"),
    [
        (503, {"code": "counters_unavailable", "detail": "d"}, GateUnavailable),
        (503, {"code": "log_unavailable", "detail": "d"}, GateUnavailable),
        (500, {"code": "internal", "detail": "d"}, GateUnavailable),
        (429, {"code": "rate_limited", "detail": "d"}, GateUnavailable),
        (502, b"<html>bad gateway</html>", GateUnavailable),
        (401, {"code": "unauthenticated", "detail": "d"}, GateMisconfigured),
        (403, {"code": "forbidden", "detail": "d"}, GateMisconfigured),
        (404, {"code": "not_found", "detail": "d"}, GateMisconfigured),
        (200, b"<html>welcome</html>", GateMisconfigured),
        (200, {"hello": "world"}, GateMisconfigured),
        (200, [], GateMisconfigured),
        (402, {"code": "insufficient_credits"}, GateMisconfigured),
        (409, {"code": "id_reused_with_different_content", "detail": "d"}, HoldIdReused),
        (403, {"code": "not_the_holder", "detail": "d"}, NotTheHolder),
        (422, {"code": "invalid_request", "detail": "d"}, InvalidUse),
        (422, {"code": "unknown_model", "detail": "d"}, UnknownUse),
        (422, {"code": "unknown_feature", "detail": "d"}, UnknownUse),
    ],
)
def test_a_response_that_is_no_answer_is_raised_as_the_error_it_means(
    status: int, said: Any, raised: type[GateError]
) -> None:
    with pytest.raises(raised) as failed:
        answer_from(response(status, said), hold_request("a", "job", USE, 90))
    assert type(failed.value) is raised


def test_the_sync_and_the_async_gate_have_the_same_methods_and_parameters() -> None:
    blocking, looping = _methods_of(UsageGate), _methods_of(AsyncUsageGate)
    assert {"check", "close", "held", "hold", "prepare", "quote", "release"} <= blocking.keys()
    assert blocking == looping


def _methods_of(gate: type) -> dict[str, tuple[list[str], str]]:
    """Each public method's parameters with their defaults, and its docstring's first line."""
    found = {}
    for name, method in inspect.getmembers(gate, callable):
        if name == "__init__" or not name.startswith("_"):
            parameters = inspect.signature(method).parameters.values()
            summary = (method.__doc__ or "").partition("\n")[0]
            found[name] = ([str(parameter) for parameter in parameters], summary)
    return found
