"""Stripe's webhooks, as Stripe signs and sends them, until the ledger has them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import stripe

from examples import stripe_bridge
from tests.examples.ledger import balance_of, wait_for
from tests.examples.serving import running_app
from tests.servers import RunningGateway

SECRET = "whsec_of_this_test"


class Stripe:
    """Sends events of one subscription."""

    def __init__(self, bridge: httpx.Client, gateway: RunningGateway) -> None:
        self._bridge = bridge
        self._gateway = gateway
        self.account = f"stripe_{uuid.uuid4().hex[:8]}"

    def subscription(self, plan: str, **more: object) -> dict[str, Any]:
        """A subscription as Stripe describes it, as far as it matters."""
        items = {"data": [{"price": {"lookup_key": plan}}]}
        return {
            "metadata": {"account": self.account},
            "items": items,
            "billing_cycle_anchor": int(time.time()) - 60,
        } | more

    def invoice(self, attempts: int) -> dict[str, Any]:
        """An invoice of it."""
        return {
            "parent": {"subscription_details": {"metadata": {"account": self.account}}},
            "attempt_count": attempts,
        }

    def send(
        self,
        type_: str,
        thing: dict[str, Any],
        *,
        id: str | None = None,
        before: dict[str, Any] | None = None,
    ) -> str:
        """Send an event; return the account events that the bridge says it has sent."""
        data = {"object": thing} | ({} if before is None else {"previous_attributes": before})
        body = json.dumps(
            {
                "id": id or f"evt_{uuid.uuid4().hex}",
                "type": type_,
                "created": int(time.time()),
                "data": data,
            }
        )
        signature = stripe.WebhookSignature.generate_signature_header(body, SECRET)
        answer = self._bridge.post(
            "/stripe/webhook", content=body, headers={"stripe-signature": signature}
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["told"])

    def wait_for(self, **expected: object) -> dict[str, Any]:
        """The account once it is as expected."""
        found = wait_for(
            lambda: balance_of(self._gateway, self.account),
            lambda balance: all(balance[name] == value for name, value in expected.items()),
        )
        assert {name: found[name] for name in expected} == expected
        return found


@pytest.fixture
def bridge(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("USAGELEDGER_KAFKA", str(gateway.addresses.kafka))
    monkeypatch.setenv("USAGELEDGER_PREFIX", gateway.addresses.prefix)
    stripe_bridge.billing.cache_clear()
    with running_app(stripe_bridge.app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client
    stripe_bridge.billing().close()


def test_a_subscriptions_life_at_stripe_is_the_accounts(
    bridge: httpx.Client, gateway: RunningGateway
) -> None:
    sender = Stripe(bridge, gateway)
    assert (
        sender.send("customer.subscription.created", sender.subscription("pro"), id="evt_1")
        == "subscribed"
    )
    sender.wait_for(plan="pro", allotment="200")
    # Stripe now and then sends an event twice.
    assert (
        sender.send("customer.subscription.created", sender.subscription("pro"), id="evt_1")
        == "subscribed"
    )

    upgraded = sender.subscription("max")
    assert (
        sender.send("customer.subscription.updated", upgraded, before={"items": {}})
        == "plan changed"
    )
    sender.wait_for(plan="max", allotment="500")

    assert sender.send("invoice.payment_failed", sender.invoice(1)) == "suspended"
    sender.wait_for(blocked=True, suspended="payment_failed")
    assert sender.send("invoice.paid", sender.invoice(2)) == "resumed"
    sender.wait_for(blocked=False, suspended=None)

    assert (
        sender.send(
            "customer.subscription.updated", upgraded, before={"cancel_at_period_end": False}
        )
        == "cancelled at the period's end"
    )
    sender.wait_for(next_plan="free")
    assert (
        sender.send(
            "customer.subscription.updated", upgraded, before={"cancel_at_period_end": True}
        )
        == "plan changed"
    )
    sender.wait_for(next_plan=None)
    assert sender.send("customer.subscription.deleted", upgraded) == "cancelled"
    sender.wait_for(plan="free")
    assert sender.send("customer.created", {}) == "nothing"


def test_what_stripe_has_not_signed_tells_the_ledger_nothing(bridge: httpx.Client) -> None:
    answer = bridge.post(
        "/stripe/webhook", content=b"{}", headers={"stripe-signature": "t=1,v1=00"}
    )
    assert answer.status_code == 400


def test_a_subscription_that_names_no_account_is_refused_with_what_to_look_at(
    bridge: httpx.Client, gateway: RunningGateway
) -> None:
    body = json.dumps(
        {
            "id": "evt_2",
            "type": "customer.subscription.created",
            "created": int(time.time()),
            "data": {"object": Stripe(bridge, gateway).subscription("pro", metadata={})},
        }
    )
    signature = stripe.WebhookSignature.generate_signature_header(body, SECRET)
    answer = bridge.post("/stripe/webhook", content=body, headers={"stripe-signature": signature})
    assert answer.status_code == 422
    assert "metadata" in answer.json()["detail"]
