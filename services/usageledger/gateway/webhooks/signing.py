"""The request to an endpoint: a limit event in a Standard Webhooks body, and its signatures."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime

from standardwebhooks import Webhook

SECRET_PREFIX = "whsec_"
_SECRET_BYTES = 32
TEST_TYPE = "webhook.test"


def new_secret() -> str:
    """A new secret in the form of the specification."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode("ascii")


def message_id(endpoint_id: str, event_id: str) -> str:
    """The id of this event at this endpoint, the same for every attempt.

    A receiver recognizes repeats by it.
    """
    return f"msg_{hashlib.sha256(f'{endpoint_id} {event_id}'.encode()).hexdigest()[:32]}"


def body_of(type_: str, timestamp: str, data: bytes) -> bytes:
    """The body of a delivery. ``data`` is the CloudEvent as it is in Kafka, byte for byte."""
    return b'{"type":%s,"timestamp":%s,"data":%s}' % (
        json.dumps(type_).encode(),
        json.dumps(timestamp).encode(),
        data,
    )


def signed_headers(
    delivery_id: str, body: bytes, signed_with: Sequence[str], now: datetime
) -> Mapping[str, str]:
    """The headers of an attempt, with a signature for each secret.

    While a rotation overlaps, a receiver needs only one of the two secrets.
    """
    text = body.decode()
    return {
        "content-type": "application/json",
        "user-agent": "usageledger-webhooks/1",
        "webhook-id": delivery_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(
            Webhook(secret).sign(delivery_id, now, text) for secret in signed_with
        ),
    }
