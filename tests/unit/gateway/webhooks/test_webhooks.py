"""Webhooks: signatures, retries, allowed addresses, and the life of an endpoint."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.worlds.gateway_events import NOW_MS, Announced
from tests.worlds.gateway_world import NOW, GatewayWorld
from usageledger.gateway.stores import Stores
from usageledger.gateway.webhooks.addresses import NotAllowed, Reach, check_address, check_url
from usageledger.gateway.webhooks.deliveries import DEAD_KEPT_FOR, DELIVERED_KEPT_FOR
from usageledger.gateway.webhooks.endpoints import Change, EndpointSettings, NoLongerThere
from usageledger.gateway.webhooks.schedule import (
    FAILING_AFTER,
    JITTER,
    RETRY,
    WAIT_MAX_S,
    Attempt,
    Outcome,
    after_attempt,
    pace_after,
)
from usageledger.gateway.webhooks.signing import body_of, message_id, new_secret, signed_headers

URL = "https://app.example/hook"
OK, BROKEN, GONE = Attempt(204), Attempt(500, "status 500"), Attempt(410, "status 410")
DAY = timedelta(days=1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[GatewayWorld]:
    made = GatewayWorld(tmp_path)
    yield made
    made.close()


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    made = Stores(tmp_path / "gateway.db")
    yield made
    made.close()


def test_a_delivery_is_verified_with_any_secret_that_signs() -> None:
    """The receiver's side is the specification's own library, which also looks at the clock."""
    (event,) = Announced().crossing("limit.reached")
    old, new, other = new_secret(), new_secret(), new_secret()
    body = body_of(event.type, event.time, event.value)
    headers = dict(signed_headers("msg_1", body, [new, old], datetime.now(UTC)))
    for secret in (old, new):
        told = Webhook(secret).verify(body, headers)
        assert told["type"] == "limit.reached"
        assert told["data"] == json.loads(event.value)
    for spoiled_body, secret in ((body, other), (body + b" ", new)):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(spoiled_body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(body, headers | {"webhook-id": "msg_2"})


def test_an_event_has_one_id_for_each_endpoint() -> None:
    assert message_id("wh_1", "0-1-0") == message_id("wh_1", "0-1-0")
    assert (
        len({message_id("wh_1", "0-1-0"), message_id("wh_2", "0-1-0"), message_id("wh_1", "0-1-1")})
        == 3
    )


@pytest.mark.parametrize(
    ("attempt", "tries", "outcome"),
    [
        (Attempt(200), 1, Outcome("delivered", None)),
        (Attempt(299), 1, Outcome("delivered", None)),
        (Attempt(300), 1, Outcome("pending", NOW_MS + 5_000)),
        (Attempt(199), 1, Outcome("pending", NOW_MS + 5_000)),
        (Attempt(404), 1, Outcome("pending", NOW_MS + 5_000)),
        (Attempt(None, "no answer"), 2, Outcome("pending", NOW_MS + 30_000)),
        (Attempt(503, "", 120), 1, Outcome("pending", NOW_MS + 120_000)),
        (Attempt(503, "", 1), 2, Outcome("pending", NOW_MS + 30_000)),
        (Attempt(503, "", 999_999), 1, Outcome("pending", NOW_MS + WAIT_MAX_S * 1_000)),
        (Attempt(500), len(RETRY.delays_s), Outcome("pending", NOW_MS + 86_400_000)),
        (Attempt(500), len(RETRY.delays_s) + 1, Outcome("dead", None)),
        (Attempt(410), 1, Outcome("dead", None)),
    ],
)
def test_an_attempt_decides_what_becomes_of_a_delivery(
    attempt: Attempt, tries: int, outcome: Outcome
) -> None:
    assert after_attempt(attempt, tries, NOW_MS, 0.5) == outcome


def test_waits_grow_over_three_days_and_differ_by_chance() -> None:
    assert list(RETRY.delays_s) == sorted(RETRY.delays_s)
    assert timedelta(days=2.5) < timedelta(seconds=sum(RETRY.delays_s)) < timedelta(days=3.5)
    shortest, longest = (
        after_attempt(BROKEN, 1, 0, chance).next_attempt_ms for chance in (0.0, 0.999999)
    )
    assert shortest == 5_000 * (1 - JITTER)
    assert longest is not None and 5_900 < longest <= 5_000 * (1 + JITTER)


def test_an_endpoint_that_keeps_failing_is_asked_slowly_until_it_answers() -> None:
    assert [pace_after(failures).at_once for failures in (0, 1, 2, 3, 100)] == [8, 8, 8, 1, 1]
    assert [pace_after(failures).pause_s for failures in (0, 2)] == [0, 0]
    assert 0 < pace_after(3).pause_s == pace_after(100).pause_s < 1


def test_a_test_is_due_before_all_that_waits(stores: Stores) -> None:
    endpoint = stores.endpoints.create(EndpointSettings(URL), NOW, caller="k").id
    stores.limits.add({0: Announced().crossing("limit.reached")}, NOW_MS)
    stores.deliveries.add_test(endpoint, NOW)
    assert [one.is_test for one in stores.deliveries.due(endpoint, NOW_MS, 10)] == [True, False]


def test_a_test_is_sent_once() -> None:
    assert after_attempt(BROKEN, 1, NOW_MS, 0.5, is_test=True).state == "dead"
    assert after_attempt(OK, 1, NOW_MS, 0.5, is_test=True).state == "delivered"


@pytest.mark.parametrize(
    ("url", "reaches"),
    [
        ("https://app.example/hook?x=1", "public loopback any"),
        ("https://93.184.216.34/hook", "public loopback any"),
        ("https://[2606:2800:220:1::1]:8443/", "public loopback any"),
        ("http://127.0.0.1:8080/", "loopback any"),
        ("https://127.0.0.1/", "loopback any"),
        ("http://localhost:8080/", "loopback any"),
        ("http://[::1]/", "loopback any"),
        ("http://app.example/", "any"),
        ("http://10.0.0.7/", "any"),
        ("https://10.0.0.7/", "any"),
        ("https://169.254.169.254/latest/meta-data", "any"),
        ("https://[::ffff:10.0.0.7]/", "any"),
        ("https://[::ffff:127.0.0.1]/", "any"),
        ("https://[2002:0a00:0007::1]/", "any"),
        ("https://[64:ff9b::0a00:0007]/", "any"),
        ("https://0.0.0.0/", "any"),
        ("https://224.0.0.1/", "any"),
        ("ftp://app.example/", ""),
        ("https://user:secret@app.example/", ""),
        ("https://app.example/#part", ""),
        ("https:///hook", ""),
        ("https://app.example:0/", ""),
        ("https://app.example:99999/", ""),
        ("https://app.example/a b", ""),
        ("https://app.example\\@10.0.0.7/", ""),
        ("https://äpp.example/", ""),
        ("https://[::1", ""),
        ("app.example/hook", ""),
        ("https://app.example/" + "x" * 2_000, ""),
    ],
)
def test_a_webhook_goes_where_the_gateway_is_set_to_reach_and_nowhere_else(
    url: str, reaches: str
) -> None:
    every: tuple[Reach, ...] = ("public", "loopback", "any")
    allowed = []
    for reach in every:
        try:
            check_url(url, reach)
            allowed.append(reach)
        except NotAllowed:
            pass
    assert allowed == reaches.split()


@pytest.mark.parametrize(
    "address",
    [
        *(
            "10.0.0.7",
            "172.16.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.1.1",
            "100.64.0.1",
            "::1",
            "fe80::1",
            "fc00::1",
        ),
        *(
            "fec0::1",
            "::127.0.0.1",
            "::ffff:10.0.0.7",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
        ),
    ],
)
def test_a_name_leads_to_no_private_address(address: str) -> None:
    """Python 3.11 calls fec0::1, ::127.0.0.1 and 64:ff9b:1::… global. Through the last, a network's
    NAT64 reached its metadata service.
    """
    with pytest.raises(NotAllowed):
        check_address(ipaddress.ip_address(address), "public")


def test_the_same_request_to_make_an_endpoint_makes_it_once(stores: Stores) -> None:
    create = stores.endpoints.create
    first = create(EndpointSettings(URL), NOW, caller="k", idempotency_key="r1")
    assert create(EndpointSettings(URL), NOW, caller="k", idempotency_key="r1") == first
    others = {
        create(EndpointSettings(URL), NOW, caller="k", idempotency_key="r2").id,
        create(EndpointSettings(URL), NOW, caller="another", idempotency_key="r1").id,
        create(EndpointSettings(URL), NOW, caller="k").id,
        create(
            EndpointSettings(URL),
            NOW + DAY + timedelta(seconds=1),
            caller="k",
            idempotency_key="r1",
        ).id,
    }
    assert len(others | {first.id}) == 5


def test_the_record_of_a_request_for_an_endpoint_holds_no_secret(stores: Stores) -> None:
    create = stores.endpoints.create
    made = create(EndpointSettings(URL), NOW, caller="k", idempotency_key="r1")
    [(answer,)] = stores.endpoints._store.execute("SELECT answer FROM idempotency_keys")
    assert json.loads(answer) == made.id
    stores.endpoints.rotate(made.id, timedelta(0), NOW + timedelta(seconds=1))
    assert create(EndpointSettings(URL), NOW, caller="k", idempotency_key="r1") == made
    stores.endpoints.rotate(made.id, timedelta(0), NOW + timedelta(seconds=2))
    with pytest.raises(NoLongerThere):
        create(EndpointSettings(URL), NOW, caller="k", idempotency_key="r1")


def test_a_rotated_secret_signs_on_until_the_overlap_ends(stores: Stores) -> None:
    made = stores.endpoints.create(EndpointSettings(URL), NOW, caller="k")
    new = stores.endpoints.rotate(made.id, DAY, NOW)

    def signing(at: datetime) -> tuple[str, ...]:
        endpoint = stores.endpoints.find(made.id, at)
        assert endpoint is not None
        return endpoint.secrets

    assert signing(NOW) == (new, made.secret)
    assert signing(NOW + DAY - timedelta(milliseconds=1)) == (new, made.secret)
    assert signing(NOW + DAY) == (new,)
    newest = stores.endpoints.rotate(made.id, timedelta(0), NOW)
    assert signing(NOW) == (newest,)


def test_a_dead_delivery_can_be_sent_again_with_its_id_and_the_whole_schedule(
    stores: Stores,
) -> None:
    endpoint = stores.endpoints.create(EndpointSettings(URL), NOW, caller="k").id
    stores.limits.add({0: Announced().crossing("limit.reached")}, NOW_MS)
    for tries in range(1, len(RETRY.delays_s) + 2):
        (delivery,) = stores.deliveries.newest(endpoint, "pending", None, 10)
        assert delivery.tries == tries - 1
        stores.deliveries.note(
            delivery, BROKEN, after_attempt(BROKEN, delivery.tries + 1, NOW_MS, 0.5), NOW
        )
    (dead,) = stores.deliveries.newest(endpoint, "dead", None, 10)
    assert (dead.attempts, dead.last_status, dead.last_error, dead.next_attempt_ms) == (
        11,
        500,
        "status 500",
        None,
    )
    assert stores.deliveries.due(endpoint, NOW_MS + 10**12, 10) == []
    again = stores.deliveries.send_again(endpoint, dead.id, NOW_MS)
    assert again is not None
    assert (again.id, again.state, again.tries, again.attempts) == (dead.id, "pending", 0, 11)
    assert stores.deliveries.due(endpoint, NOW_MS, 10) == [again]
    stores.deliveries.note(again, OK, after_attempt(OK, 1, NOW_MS, 0.5), NOW)
    assert [one.state for one in stores.deliveries.newest(endpoint, None, None, 10)] == [
        "delivered"
    ]


def test_a_delivery_resent_during_its_last_attempt_starts_the_whole_schedule_anew(
    stores: Stores,
) -> None:
    """The result of the attempt under way overwrote the order to send the delivery again.

    The delivery was dead, and nobody had been informed.
    """
    endpoint = stores.endpoints.create(EndpointSettings(URL), NOW, caller="k").id
    stores.limits.add({0: Announced().crossing("limit.reached")}, NOW_MS)
    for _ in RETRY.delays_s:
        (delivery,) = stores.deliveries.due(endpoint, NOW_MS, 1)
        stores.deliveries.note(delivery, BROKEN, Outcome("pending", NOW_MS), NOW)
    (last,) = stores.deliveries.due(endpoint, NOW_MS, 1)
    stores.deliveries.send_again(endpoint, last.id, NOW_MS)
    stores.deliveries.note(last, BROKEN, after_attempt(BROKEN, last.tries + 1, NOW_MS, 0.5), NOW)
    (again,) = stores.deliveries.due(endpoint, NOW_MS, 1)
    assert (again.id, again.state, again.tries, again.attempts, again.last_status) == (
        last.id,
        "pending",
        0,
        11,
        500,
    )


def test_what_is_due_comes_in_the_order_in_which_it_became_so(stores: Stores) -> None:
    endpoint = stores.endpoints.create(EndpointSettings(URL), NOW, caller="k").id
    topic = Announced()
    stores.limits.add(
        {
            0: topic.crossing("limit.reached", account="a")
            + topic.crossing("limit.reached", account="b")
        },
        NOW_MS,
    )
    first, second = stores.deliveries.due(endpoint, NOW_MS, 10)
    assert (first.account, second.account) == ("a", "b")
    stores.deliveries.note(first, BROKEN, Outcome("pending", NOW_MS + 5_000), NOW)
    stores.limits.add({0: topic.crossing("limit.cleared", account="c")}, NOW_MS + 1)
    assert [one.account for one in stores.deliveries.due(endpoint, NOW_MS + 4_999, 10)] == [
        "b",
        "c",
    ]
    assert [one.account for one in stores.deliveries.due(endpoint, NOW_MS + 5_000, 10)] == [
        "b",
        "c",
        "a",
    ]
    assert stores.deliveries.next_due_ms(endpoint, NOW_MS + 1) == NOW_MS + 5_000


def test_however_much_is_due_of_one_account_anothers_is_found(stores: Stores) -> None:
    """The sender considered only the first 64 due deliveries. If one account had all of them, no
    other account's events were delivered.
    """
    endpoint = stores.endpoints.create(EndpointSettings(URL), NOW, caller="k").id
    topic = Announced()
    of_a = [record for _ in range(70) for record in topic.crossing("limit.reached", account="a")]
    stores.limits.add({0: of_a + topic.crossing("limit.reached", account="b")}, NOW_MS)
    first, second = stores.deliveries.due(endpoint, NOW_MS, 64)
    assert (first.event_id, second.account) == (of_a[0].event_id, "b")
    assert stores.deliveries.due(endpoint, NOW_MS, 1) == [first]


def test_an_endpoint_is_failing_after_a_day_of_failures_and_active_after_a_success(
    stores: Stores,
) -> None:
    endpoint_id = stores.endpoints.create(EndpointSettings(URL), NOW, caller="k").id
    stores.limits.add({0: Announced().crossing("limit.reached")}, NOW_MS)

    def state(at: datetime) -> str:
        endpoint = stores.endpoints.find(endpoint_id, at)
        assert endpoint is not None
        return endpoint.state_at(at)

    (delivery,) = stores.deliveries.due(endpoint_id, NOW_MS, 1)
    stores.deliveries.note(delivery, BROKEN, Outcome("pending", NOW_MS), NOW)
    stores.deliveries.note(delivery, BROKEN, Outcome("pending", NOW_MS), NOW + FAILING_AFTER / 2)
    assert state(NOW + FAILING_AFTER - timedelta(seconds=1)) == "active"
    assert state(NOW + FAILING_AFTER) == "failing"
    stores.deliveries.note(delivery, OK, Outcome("delivered", None), NOW + FAILING_AFTER)
    assert state(NOW + 3 * FAILING_AFTER) == "active"


def test_410_gone_disables_the_endpoint_and_what_waits_goes_on_waiting(stores: Stores) -> None:
    endpoint_id = stores.endpoints.create(EndpointSettings(URL), NOW, caller="k").id
    topic = Announced()
    stores.limits.add(
        {
            0: topic.crossing("limit.reached", account="a")
            + topic.crossing("limit.reached", account="b")
        },
        NOW_MS,
    )
    delivery, waiting = stores.deliveries.due(endpoint_id, NOW_MS, 2)
    stores.deliveries.note(delivery, GONE, after_attempt(GONE, 1, NOW_MS, 0.5), NOW)
    endpoint = stores.endpoints.find(endpoint_id, NOW)
    assert endpoint is not None
    assert (endpoint.state_at(NOW), endpoint.disabled_because) == (
        "disabled",
        "the receiver answered 410 Gone",
    )
    stores.limits.add({0: topic.crossing("limit.cleared")}, NOW_MS)
    stores.endpoints.change(endpoint_id, Change(is_enabled=True))
    assert [one.id for one in stores.deliveries.due(endpoint_id, NOW_MS, 10)] == [waiting.id]


def test_old_deliveries_are_let_go_of_and_those_that_wait_never_are(stores: Stores) -> None:
    endpoint = stores.endpoints.create(EndpointSettings(URL), NOW, caller="k").id
    stores.limits.add(
        {0: Announced().crossing("limit.threshold", "limit.reached", "limit.cleared")}, NOW_MS
    )
    _, dead, delivered = stores.deliveries.newest(endpoint, None, None, 3)
    stores.deliveries.note(delivered, OK, Outcome("delivered", None), NOW)
    stores.deliveries.note(dead, BROKEN, Outcome("dead", None), NOW)
    ended_ms = int(NOW.timestamp() * 1_000)

    def left_after(kept: timedelta) -> list[str]:
        stores.deliveries.prune(ended_ms + int(kept.total_seconds() * 1_000) + 1)
        return [one.state for one in stores.deliveries.newest(endpoint, None, None, 10)]

    assert left_after(DELIVERED_KEPT_FOR - DAY) == ["pending", "dead", "delivered"]
    assert left_after(DELIVERED_KEPT_FOR) == ["pending", "dead"]
    assert left_after(DEAD_KEPT_FOR) == ["pending"]


def test_an_endpoint_is_made_listed_changed_and_deleted(world: GatewayWorld) -> None:
    key = world.key("admin")

    async def scenario() -> None:
        made = await world.ask(
            "POST", "/v1/webhooks", credential=key, body={"url": URL, "types": ["limit.reached"]}
        )
        assert made.status_code == 201
        assert made.json()["secret"].startswith("whsec_")
        path = f"/v1/webhooks/{made.json()['id']}"
        listed = (await world.ask("GET", "/v1/webhooks", credential=key)).json()["items"]
        assert [(one["url"], one["types"], one["state"], one["secrets"]) for one in listed] == [
            (URL, ["limit.reached"], "active", 1)
        ]
        assert "whsec_" not in json.dumps(listed)
        changed = await world.ask(
            "PATCH", path, credential=key, body={"enabled": False, "accounts": ["a", "a"]}
        )
        assert (changed.json()["state"], changed.json()["accounts"], changed.json()["url"]) == (
            "disabled",
            ["a"],
            URL,
        )
        assert (await world.ask("POST", f"{path}/test", credential=key)).json()[
            "code"
        ] == "conflict"
        assert (await world.ask("PATCH", path, credential=key, body={"enabled": True})).json()[
            "state"
        ] == "active"
        tested = await world.ask("POST", f"{path}/test", credential=key)
        assert (tested.status_code, tested.json()["type"], tested.json()["state"]) == (
            202,
            "webhook.test",
            "pending",
        )
        rotated = await world.ask("POST", f"{path}/rotate", credential=key, body={"overlap_s": 60})
        assert rotated.json()["secret"] != made.json()["secret"]
        assert (await world.ask("GET", path, credential=key)).json()["secrets"] == 2
        assert (await world.ask("DELETE", path, credential=key)).status_code == 204
        for method in ("GET", "DELETE"):
            assert (await world.ask(method, path, credential=key)).status_code == 404

    asyncio.run(scenario())


def test_changes_at_the_same_time_undo_nothing_of_each_other(world: GatewayWorld) -> None:
    """Each change wrote back everything that it had read. The later one undid the earlier, and
    enabled an endpoint that had just been disabled.
    """
    key, made = (
        world.key("admin"),
        world.stores.endpoints.create(EndpointSettings(URL), NOW, caller="k"),
    )
    changes: list[dict[str, object]] = [
        {"url": URL + "/2"},
        {"types": ["limit.reached"]},
        {"accounts": ["a"]},
        {"description": "d"},
    ]
    world.stores.limits.add({0: Announced().crossing("limit.reached")}, NOW_MS)
    (delivery,) = world.stores.deliveries.due(made.id, NOW_MS, 1)

    async def scenario() -> None:
        asked = [
            world.ask("PATCH", f"/v1/webhooks/{made.id}", credential=key, body=change)
            for change in changes
        ]
        noted = world.stores.thread.run(
            world.stores.deliveries.note, delivery, GONE, Outcome("dead", None), NOW
        )
        await asyncio.gather(*asked, noted)

    asyncio.run(scenario())
    (endpoint,) = world.stores.endpoints.all(NOW)
    assert (endpoint.url, endpoint.types, endpoint.accounts, endpoint.description) == (
        URL + "/2",
        ("limit.reached",),
        ("a",),
        "d",
    )
    assert endpoint.disabled_because == "the receiver answered 410 Gone"


def test_an_endpoint_that_is_deleted_meanwhile_is_not_found(world: GatewayWorld) -> None:
    """Rotating its secret and testing it failed with 500 if it was deleted in between."""
    key, stores = world.key("admin"), world.stores

    async def statuses(operation: str, body: object) -> list[int]:
        made = stores.endpoints.create(EndpointSettings(URL), NOW, caller="k")
        asked = world.ask("POST", f"/v1/webhooks/{made.id}/{operation}", credential=key, body=body)
        deleted = world.ask("DELETE", f"/v1/webhooks/{made.id}", credential=key)
        return [answer.status_code for answer in await asyncio.gather(asked, deleted)]

    assert asyncio.run(statuses("rotate", {})) in ([200, 204], [404, 204])
    assert asyncio.run(statuses("test", None)) in ([202, 204], [404, 204])
    for gone in (
        lambda: stores.endpoints.rotate("wh_x", DAY, NOW),
        lambda: stores.deliveries.add_test("wh_x", NOW),
    ):
        with pytest.raises(KeyError):
            gone()


def test_an_endpoint_that_may_not_be_reached_is_refused(world: GatewayWorld) -> None:
    answer = asyncio.run(
        world.ask(
            "POST", "/v1/webhooks", credential=world.key("admin"), body={"url": "http://10.0.0.7/"}
        )
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "url_not_allowed")


def test_no_endpoint_is_made_while_past_events_may_still_be_read(world: GatewayWorld) -> None:
    """It would receive events that happened before it was made."""
    world.use(
        limits_trouble=lambda: "limit events that were there at the start are still being read"
    )
    answer = asyncio.run(
        world.ask("POST", "/v1/webhooks", credential=world.key("admin"), body={"url": URL})
    )
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")


def test_an_idempotency_key_makes_one_endpoint_and_is_refused_for_another(
    world: GatewayWorld,
) -> None:
    key = world.key("admin")

    async def make(url: str) -> tuple[int, str]:
        answer = await world.ask(
            "POST",
            "/v1/webhooks",
            credential=key,
            body={"url": url},
            headers={"Idempotency-Key": "r1"},
        )
        return answer.status_code, answer.json().get("secret") or answer.json()["code"]

    async def scenario() -> None:
        first = await make(URL)
        assert await make(URL) == first
        assert await make(URL + "/other") == (409, "id_reused_with_different_content")
        (endpoint,) = (await world.ask("GET", "/v1/webhooks", credential=key)).json()["items"]
        await world.ask("DELETE", f"/v1/webhooks/{endpoint['id']}", credential=key)
        assert await make(URL) == (409, "conflict")

    asyncio.run(scenario())


def test_deliveries_are_listed_by_pages_and_by_state(world: GatewayWorld) -> None:
    key = world.key("admin")
    endpoint = world.stores.endpoints.create(EndpointSettings(URL), NOW, caller="k").id
    topic = Announced()
    for _ in range(5):
        world.stores.limits.add({0: topic.crossing("limit.reached")}, NOW_MS)
    path = f"/v1/webhooks/{endpoint}/deliveries"

    async def scenario() -> None:
        seen, cursor = [], ""
        while True:
            page = (await world.ask("GET", f"{path}?limit=2{cursor}", credential=key)).json()
            seen += [item["event_id"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert seen == ["0-4-0", "0-3-0", "0-2-0", "0-1-0", "0-0-0"]
        assert (await world.ask("GET", f"{path}?state=dead", credential=key)).json()["items"] == []
        for bad in ("!!", "YWJj", "-1", "1" * 19):
            assert (
                await world.ask("GET", f"{path}?cursor={bad}", credential=key)
            ).status_code == 422
        assert (await world.ask("POST", f"{path}/msg_x/resend", credential=key)).status_code == 404

    asyncio.run(scenario())
