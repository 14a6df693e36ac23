"""Turns Stripe's subscription webhooks into account events: plans, renewals, failed payments.

    pip install usageledger fastapi uvicorn stripe
    STRIPE_WEBHOOK_SECRET=whsec_… USAGELEDGER_KAFKA=127.0.0.1:9092 uvicorn stripe_bridge:app

In Stripe, a subscription's metadata names the account (``account: acct_4821``), and a price's
lookup key is the plan's id (``pro``).

Stripe sends a webhook again until it is answered with 200, and sometimes twice even so. Each
command has the id of Stripe's event, so it takes effect once. The answer is given only after Kafka
has acknowledged it.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import stripe
from fastapi import FastAPI, HTTPException, Request
from starlette.concurrency import run_in_threadpool

from usageledger import AccountClient, CommandFailed, InvalidEvent

app = FastAPI(title="Stripe bridge")


@lru_cache
def billing() -> AccountClient:
    """The client of the ledger that USAGELEDGER_KAFKA and USAGELEDGER_PREFIX name."""
    return AccountClient(source="stripe")


@app.post("/stripe/webhook")
async def on_webhook(request: Request) -> dict[str, str]:
    """One event of Stripe's. 400 for what Stripe has not signed, 503 while Kafka is away: Stripe
    then sends it again.
    """
    body = await request.body()
    signature, secret = request.headers.get("stripe-signature"), os.environ["STRIPE_WEBHOOK_SECRET"]
    try:
        stripe.WebhookSignature.verify_header(body.decode(), signature, secret, tolerance=300)
    except stripe.SignatureVerificationError as error:
        raise HTTPException(400, f"not signed by Stripe: {error}") from None
    try:
        return {"told": await run_in_threadpool(tell, json.loads(body), billing())}
    except CommandFailed as error:
        raise HTTPException(503, str(error)) from error
    except InvalidEvent as error:
        raise HTTPException(
            422, f"{error}: look at the subscription's metadata and the price's lookup key"
        ) from error


def tell(event: dict[str, Any], client: AccountClient) -> str:
    """Tell the ledger what an event of Stripe's means for an account, and return that in a word;
    "nothing" for most events.
    """
    thing, before = event["data"]["object"], event["data"].get("previous_attributes", {})
    same = {"id": event["id"], "occurred_at": datetime.fromtimestamp(event["created"], UTC)}
    match event["type"]:
        case "customer.subscription.created":
            anchor = datetime.fromtimestamp(thing["billing_cycle_anchor"], UTC)
            client.subscribe(account_of(thing), plan_of(thing), anchor=anchor, **same)
            return "subscribed"
        case "customer.subscription.updated" if (
            "items" in before or before.get("cancel_at_period_end") is True
        ):
            # To the plan that it has, this takes back a cancellation that waits for the period's
            # end.
            client.change_plan(account_of(thing), plan_of(thing), **same)
            return "plan changed"
        case "customer.subscription.updated" if before.get("cancel_at_period_end") is False:
            client.cancel(account_of(thing), **same)
            return "cancelled at the period's end"
        case "customer.subscription.deleted":
            client.cancel(account_of(thing), "now", **same)
            return "cancelled"
        case "invoice.payment_failed":
            client.suspend(account_of(thing), "payment_failed", **same)
            return "suspended"
        case "invoice.paid" if thing.get("attempt_count", 1) > 1:
            client.resume(account_of(thing), **same)
            return "resumed"
    return "nothing"


def account_of(thing: dict[str, Any]) -> str:
    """The account that a subscription, or an invoice of one, is for."""
    details = (
        (thing.get("parent") or {}).get("subscription_details")
        or thing.get("subscription_details")
        or thing
    )
    return str((details.get("metadata") or {}).get("account", ""))


def plan_of(subscription: dict[str, Any]) -> str:
    """The plan that a subscription's first price stands for."""
    return str(subscription["items"]["data"][0]["price"]["lookup_key"] or "")
