"""`UsageGate` on a real ledger with every service running: all four kinds answer alike.

They ask directly or over HTTP, and are blocking or for asyncio.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.counters import begin_counters
from tests.servers import RunningGateway
from tests.valkey_server import running_cluster, running_valkey
from usageledger import AccountClient, AsyncUsageGate, UsageGate, UsageMeter
from usageledger.gateway.connections.server import listening_socket
from usageledger.local.ports import LOOPBACK, free_port
from usageledger.sdk.gate import ledger_facts as ledger
from usageledger.sdk.gate.answers import (
    CheckAnswer,
    GateMisconfigured,
    HoldIdReused,
    InvalidUse,
    UnknownUse,
)

PARTITIONS = 2
WITHIN_S = 30.0


class OnALoop:
    """An `AsyncUsageGate` asked from outside its loop, so that one test serves both kinds."""

    def __init__(self, runner: asyncio.Runner, gate: AsyncUsageGate) -> None:
        self._runner = runner
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        ask = getattr(self._gate, name)

        async def answer(*words: Any, **named: Any) -> Any:
            return await ask(*words, **named)

        return lambda *words, **named: self._runner.run(answer(*words, **named))


def gate_options(gateway: RunningGateway, transport: str) -> dict[str, Any]:
    if transport == "http":
        return {"gateway": gateway.url, "key": gateway.key}
    return {
        "kafka": gateway.addresses.kafka,
        "redis_url": gateway.addresses.redis_url,
        "prefix": gateway.addresses.prefix,
    }


@pytest.fixture(scope="module", params=["direct", "http", "direct-async", "http-async"])
def gate(request: pytest.FixtureRequest, gateway: RunningGateway) -> Iterator[Any]:
    transport, _, is_async = request.param.partition("-")
    options = {**gate_options(gateway, transport), "on_unavailable": "deny", "timeout_s": 10.0}
    if not is_async:
        with UsageGate(**options) as gate:
            yield gate
    else:
        with asyncio.Runner() as runner:
            on_loop = AsyncUsageGate(**options)
            yield OnALoop(runner, on_loop)
            runner.run(on_loop.close())


@pytest.fixture
def account() -> str:
    """An account that no other test uses."""
    return f"acct {uuid.uuid4().hex[:10]}/ü"


@pytest.fixture(scope="module")
def meter(
    gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[UsageMeter]:
    addresses = gateway.addresses
    with UsageMeter(
        kafka=addresses.kafka,
        prefix=addresses.prefix,
        source="/render",
        spool_directory=tmp_path_factory.mktemp("spool"),
    ) as meter:
        yield meter


@pytest.fixture(scope="module")
def billing(gateway: RunningGateway) -> Iterator[AccountClient]:
    with AccountClient(
        kafka=gateway.addresses.kafka, prefix=gateway.addresses.prefix, source="/billing"
    ) as client:
        yield client


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def test_an_unknown_account_has_its_free_credits(gate: Any, account: str) -> None:
    check = gate.check(account, "genai_video", "veo_3", "2")
    assert check == CheckAnswer(
        account=account,
        allowed=True,
        cost=Decimal(64),
        remaining=Decimal(200),
        held=Decimal(0),
        available=Decimal(200),
        as_of=check.as_of,
    )
    refused = gate.check(account, "chat_action", quantity=201)
    assert (refused.allowed, refused.reason, refused.upgrade.plan) == (
        False,
        "insufficient_credits",
        "max",
    )


def test_a_quote_is_by_the_catalog_in_force(gate: Any) -> None:
    quote = gate.quote(
        [("genai_video", "veo_3", 2), {"feature": "prompt_to_video", "quantity": "30.1"}]
    )
    assert [(use.feature, use.model, use.quantity, use.credits) for use in quote.uses] == [
        ("genai_video", "veo_3", 2, 64),
        ("prompt_to_video", None, Decimal("30.1"), 248),
    ]
    assert (quote.total, [plan.plan for plan in quote.fits]) == (
        312,
        ["max", "scale", "scale_2x", "scale_4x"],
    )
    assert quote.catalog


def test_a_use_that_the_catalog_does_not_know_has_no_answer(gate: Any, account: str) -> None:
    questions: list[Callable[[str, str | None], Any]] = [
        lambda feature, model: gate.check(account, feature, model),
        lambda feature, model: gate.hold(account, "job", feature, model),
        lambda feature, model: gate.quote([(feature, model, 1)]),
    ]
    for ask in questions:
        for use, reason in (
            (("genai_video", "veo_99"), "unknown_model"),
            (("telepathy", None), "unknown_feature"),
        ):
            with pytest.raises(UnknownUse, match="has no rate for") as refused:
                ask(*use)
            assert refused.value.reason == reason


def test_a_malformed_use_is_refused_in_the_same_words_by_every_transport(
    gate: Any, account: str
) -> None:
    for wrong in ({"quantity": 1.5}, {"feature": ""}, {"model": " x"}, {"account": "a\n"}):
        with pytest.raises(InvalidUse):
            gate.check(**({"account": account, "feature": "chat_action"} | wrong))
    with pytest.raises(InvalidUse, match="24 hours"):
        gate.hold(account, "job", "chat_action", expires_in=timedelta(hours=25))


def test_held_credits_are_not_available_to_others_until_they_are_released(
    gate: Any, account: str
) -> None:
    before = datetime.now(UTC)
    hold = gate.hold(account, "job/1", "genai_video", "veo_3", 5, expires_in=timedelta(minutes=2))
    assert (hold.allowed, hold.state, hold.credits, hold.held, hold.available) == (
        True,
        "open",
        160,
        160,
        40,
    )
    assert abs(hold.expires_at - before - timedelta(minutes=2)) < timedelta(seconds=30)
    assert gate.hold(account, "job/1", "genai_video", "veo_3", "5.0") == hold
    with pytest.raises(HoldIdReused, match="5 of genai_video/veo_3"):
        gate.hold(account, "job/1", "genai_video", "veo_3", 4)
    refused = gate.hold(account, "job/2", "chat_action", quantity=41)
    assert (refused.allowed, refused.state, refused.reason, refused.credits) == (
        False,
        None,
        "insufficient_credits",
        41,
    )
    assert (refused.held, refused.available, refused.upgrade.plan, refused.expires_at) == (
        160,
        40,
        "max",
        None,
    )
    check = gate.check(account, "chat_action", quantity=41)
    assert (check.allowed, check.held, check.available, check.upgrade) == (
        False,
        160,
        40,
        refused.upgrade,
    )
    assert gate.check(account, "chat_action", quantity=40).allowed
    for _ in range(2):
        assert gate.release(account, "job/1").state == "released"
    assert gate.release(account, "job/2").state == "gone"
    assert gate.check(account, "chat_action").held == 0
    again = gate.hold(account, "job/1", "chat_action")
    assert (again.state, again.credits) == ("open", 1)


@pytest.mark.peer_defect("FluxMeter: holds")
def test_the_hold_of_a_crashed_worker_expires(gate: Any, account: str) -> None:
    """Nothing is leaked: within a second after it expires, its credits are available again."""
    assert gate.hold(
        account, "crashed", "chat_action", quantity=200, expires_in=timedelta(seconds=1)
    )
    assert not gate.hold(account, "next", "chat_action")
    until(lambda: bool(gate.hold(account, "next", "chat_action", quantity=200)))
    assert gate.check(account, "chat_action", quantity=0).held == 200


@pytest.mark.peer_defect("FluxMeter: holds")
def test_a_use_settles_its_hold_in_the_commit_that_charges_it_and_once(
    gate: Any, account: str, meter: UsageMeter
) -> None:
    """At any moment either the hold or the charge reduces what is available, and never both."""
    assert gate.hold(account, "gen-1", "genai_video", "veo_3", 2)
    assert gate.hold(account, "gen-2", "genai_video", "veo_3", 1)
    meter.record(
        account=account,
        feature="genai_video",
        model="veo_3",
        id="gen-1",
        quantity=2,
        hold_id="gen-1",
    )
    seen = []

    def is_settled() -> bool:
        check = gate.check(account, "chat_action")
        seen.append((check.remaining, check.held, check.available))
        return bool(check.held == 32)

    until(is_settled)
    assert set(seen) <= {(200, 96, 104), (136, 32, 104)}
    for _ in range(3):
        meter.record(
            account=account,
            feature="genai_video",
            model="veo_3",
            id="gen-1",
            quantity=2,
            hold_id="gen-1",
        )
    meter.record(account=account, feature="chat_action", id="marker")
    until(lambda: gate.check(account, "chat_action").remaining == 135)
    check = gate.check(account, "chat_action")
    assert (check.held, check.available) == (32, 103)
    done = gate.hold(account, "gen-1", "genai_video", "veo_3", 2)
    assert (done.allowed, done.state, done.held, done.expires_at) == (True, "settled", 32, None)
    assert gate.release(account, "gen-1").state == "settled"


def test_a_duplicate_settles_the_hold_of_the_retry_and_a_refusal_settles_none(
    gate: Any, account: str, meter: UsageMeter
) -> None:
    assert gate.hold(account, "attempt-1", "chat_action", quantity=10)
    assert gate.hold(account, "attempt-2", "chat_action", quantity=10)
    assert gate.hold(account, "refused", "chat_action", quantity=10)
    for attempt in ("attempt-1", "attempt-2"):
        meter.record(account=account, feature="chat_action", id="gen", quantity=10, hold_id=attempt)
    meter.record(account=account, feature="telepathy", id="other", quantity=10, hold_id="refused")
    meter.record(account=account, feature="chat_action", id="marker")
    until(lambda: gate.check(account, "chat_action").remaining == 189)
    assert gate.check(account, "chat_action").held == 10
    assert gate.release(account, "refused").state == "released"
    assert gate.release(account, "attempt-2").state == "settled"


def test_an_upgrade_frees_an_account_whose_holds_stay_open(
    gate: Any, account: str, billing: AccountClient
) -> None:
    assert gate.hold(account, "job", "chat_action", quantity=190)
    refused = gate.hold(account, "more", "chat_action", quantity=50)
    assert (refused.allowed, refused.upgrade.plan) == (False, "max")
    billing.subscribe(account, refused.upgrade.plan)
    until(lambda: bool(gate.check(account, "chat_action", quantity=50)))
    hold = gate.hold(account, "more", "chat_action", quantity=50)
    assert (hold.remaining, hold.held, hold.available) == (500, 240, 260)
    assert hold.resets_at is not None


def test_a_suspended_account_starts_nothing(
    gate: Any, account: str, billing: AccountClient
) -> None:
    assert gate.hold(account, "job", "chat_action")
    billing.suspend(account, "payment_failed")
    until(lambda: not gate.check(account, "chat_action"))
    for answer in (gate.check(account, "chat_action"), gate.hold(account, "other", "chat_action")):
        assert (answer.allowed, answer.reason, answer.suspension, answer.upgrade) == (
            False,
            "suspended",
            "payment_failed",
            None,
        )
    assert gate.hold(account, "job", "chat_action").state == "open"
    billing.resume(account)
    until(lambda: bool(gate.check(account, "chat_action")))


@pytest.mark.parametrize("transport", ["direct", "http"])
@pytest.mark.peer_defect("FluxMeter: holds")
def test_200_workers_share_the_last_credits_and_no_more(
    gateway: RunningGateway, account: str, transport: str
) -> None:
    """1,000 holds of two credits for 200 credits: 100 are given."""
    given: Counter[object] = Counter()
    numbers = iter(range(1_000))

    def work() -> None:
        for _ in range(5):
            answer = shared.hold(account, f"job-{next(numbers)}", "chat_action", quantity=2)
            given[answer.allowed, answer.reason, answer.degraded] += 1

    with UsageGate(
        **gate_options(gateway, transport), on_unavailable="deny", timeout_s=60.0
    ) as shared:
        shared.prepare()
        workers = [threading.Thread(target=work) for _ in range(200)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
        assert given == {(True, None, False): 100, (False, "insufficient_credits", False): 900}
        check = shared.check(account, "chat_action")
    assert check.held == 200
    assert check.available == 0


@pytest.mark.parametrize("transport", ["direct", "http"])
def test_a_gate_that_was_used_works_in_forked_children_and_their_parent(
    gateway: RunningGateway, account: str, transport: str
) -> None:
    """The parent makes the gate and each job runs in a child of its own, as in job queues."""

    def work(number: int) -> None:
        with shared.held(account, id=f"job-{number}", feature="chat_action") as hold:
            assert not hold.degraded

    with UsageGate(
        **gate_options(gateway, transport), on_unavailable="deny", timeout_s=10.0
    ) as shared:
        assert shared.hold(account, "parent", "chat_action")
        children = [
            multiprocessing.get_context("fork").Process(target=work, args=(number,))
            for number in range(4)
        ]
        for child in children:
            child.start()
        assert shared.check(account, "chat_action")
        for child in children:
            child.join(30)
        assert [child.exitcode for child in children] == [0] * 4
        assert shared.check(account, "chat_action").held == 5


def test_a_key_may_do_what_its_scopes_say(gateway: RunningGateway, account: str) -> None:
    with httpx.Client(
        base_url=gateway.url, headers={"Authorization": f"Bearer {gateway.key}"}
    ) as admin:
        made = admin.post("/v1/keys", json={"name": "checks", "scopes": ["check"]}).json()["key"]
    with UsageGate(gateway=gateway.url, key=made, on_unavailable="allow") as gate:
        assert gate.check(account, "chat_action")
        with pytest.raises(GateMisconfigured, match="scope 'hold'"):
            gate.hold(account, "job", "chat_action")
    with (
        UsageGate(
            gateway=gateway.url, key="ulk_00000000_" + 40 * "x", on_unavailable="allow"
        ) as gate,
        pytest.raises(GateMisconfigured),
    ):
        gate.check(account, "chat_action")


def test_a_missing_ledger_is_a_misconfiguration_and_not_an_outage(gateway: RunningGateway) -> None:
    wrong = gate_options(gateway, "direct") | {"prefix": "nobodys"}
    with (
        UsageGate(**wrong, on_unavailable="allow") as gate,
        pytest.raises(GateMisconfigured, match="nobodys"),
    ):
        gate.check("a", "chat_action")


def test_while_redis_is_down_on_unavailable_decides(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    """Once it is up again, the ledger decides again."""
    with running_valkey(tmp_path) as server:
        begin_counters(server.url, gateway.addresses.prefix, PARTITIONS)
        options: dict[str, Any] = gate_options(gateway, "direct") | {"redis_url": server.url}
        with (
            UsageGate(**options, on_unavailable="allow") as lenient,
            UsageGate(**options, on_unavailable="deny") as strict,
        ):
            assert (
                lenient.check("a", "chat_action").remaining
                == strict.check("a", "chat_action").remaining
                == 200
            )
            server.kill()
            assert lenient.check("a", "chat_action") == CheckAnswer(
                account="a", allowed=True, degraded=True
            )
            assert strict.hold("a", "job", "chat_action").reason == "unavailable"
            assert strict.release("a", "job").degraded
            server.start()
            assert strict.hold("a", "job", "chat_action").state == "open"
            assert lenient.check("a", "chat_action").held == 1


def test_a_redis_cluster_is_asked_at_the_node_of_each_accounts_partition(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    with running_cluster(tmp_path) as node:
        begin_counters(node.cluster_url, gateway.addresses.prefix, PARTITIONS)
        options: dict[str, Any] = gate_options(gateway, "direct") | {
            "redis_url": node.cluster_url,
            "on_unavailable": "deny",
            "timeout_s": 5.0,
        }
        accounts = [f"acct_{n}" for n in range(20)]

        async def hold_on_a_loop() -> None:
            async with AsyncUsageGate(**options) as gate:
                assert all(
                    [
                        (await gate.hold(account, "job-2", "chat_action")).state == "open"
                        for account in accounts
                    ]
                )

        with UsageGate(**options) as gate:
            assert all(
                gate.hold(account, "job-1", "chat_action").state == "open" for account in accounts
            )
            asyncio.run(hold_on_a_loop())
            assert {gate.check(account, "chat_action").held for account in accounts} == {2}
            assert {gate.release(account, "job-1").state for account in accounts} == {"released"}


@pytest.mark.parametrize("transport", ["http", "direct"])
def test_an_unreachable_gateway_or_kafka_is_an_outage(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "PATIENCE_S", 0.5)
    address = f"{LOOPBACK}:{free_port()}"
    nowhere: dict[str, Any] = (
        {"gateway": f"http://{address}", "key": "k"}
        if transport == "http"
        else {"kafka": address, "redis_url": f"redis://{address}/0"}
    )
    with UsageGate(**nowhere, on_unavailable="deny") as gate:
        for _ in range(2):
            assert gate.check("a", "chat_action") == CheckAnswer(
                account="a", allowed=False, reason="unavailable", degraded=True
            )

    async def ask() -> CheckAnswer:
        async with AsyncUsageGate(**nowhere, on_unavailable="allow") as gate:
            return await gate.check("a", "chat_action")

    assert asyncio.run(ask()) == CheckAnswer(account="a", allowed=True, degraded=True)


def test_no_body_from_the_gateway_waits_until_its_headers_are_acknowledged() -> None:
    """Each answer was delayed by 44 ms over HTTP.

    Headers and body are two writes, and the second waited for the caller's delayed acknowledgement.
    """
    with (
        listening_socket(LOOPBACK, 0) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_over_http_a_refused_hold_says_what_would_help(
    gateway: RunningGateway, account: str
) -> None:
    path = f"/v1/accounts/{account.replace('/', '%2F').replace(' ', '%20')}/holds"
    with httpx.Client(
        base_url=gateway.url, headers={"Authorization": f"Bearer {gateway.key}"}
    ) as client:
        given = client.post(path, json={"id": "job", "feature": "chat_action", "quantity": 150})
        assert (given.status_code, given.json()["state"], given.json()["account"]) == (
            201,
            "open",
            account,
        )
        refused = client.post(path, json={"id": "more", "feature": "chat_action", "quantity": 51})
        body = refused.json()
        assert (refused.status_code, refused.headers["content-type"]) == (
            402,
            "application/problem+json",
        )
        assert (body["code"], body["credits"], body["available"], body["upgrade"]["plan"]) == (
            "insufficient_credits",
            "51",
            "50",
            "max",
        )
        assert "of which 50 are available" in body["detail"]
        other = client.post(path, json={"id": "job", "feature": "chat_message"})
        assert (other.status_code, other.json()["code"]) == (
            409,
            "id_reused_with_different_content",
        )
        assert client.get(f"{path}/job").json() == {
            name: given.json()[name] for name in client.get(f"{path}/job").json()
        }
        assert client.get(f"{path}/more").status_code == 404
        assert client.post(f"{path}/job/release").json() == {
            "account": account,
            "id": "job",
            "state": "released",
        }
        assert client.get(f"{path}/job").json()["expires_at"] is None
        for wrong in (
            {"expires_in": 0},
            {"expires_in": 86_401},
            {"quantity": 1.5},
            {"id": ""},
            {"colour": "red"},
        ):
            answer = client.post(path, json={"id": "x", "feature": "chat_action"} | wrong)
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
