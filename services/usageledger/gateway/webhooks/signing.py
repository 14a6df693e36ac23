"""What is sent to an endpoint: the limit event as Standard Webhooks wrap it, signed by each secret
that works.
"""

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
    """A secret as the specification writes it."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode("ascii")


def message_id(endpoint_id: str, event_id: str) -> str:
    """The same for every attempt to deliver this event to this endpoint, however often and
    whenever: by it a receiver drops repeats.
    """
    return f"msg_{hashlib.sha256(f'{endpoint_id} {event_id}'.encode()).hexdigest()[:32]}"


def body_of(type_: str, timestamp: str, data: bytes) -> bytes:
    """The body of a delivery. ``data`` is JSON: the CloudEvent as it is on Kafka, byte for byte."""
    return b'{"type":%s,"timestamp":%s,"data":%s}' % (
        json.dumps(type_).encode(),
        json.dumps(timestamp).encode(),
        data,
    )


def signed_headers(
    delivery_id: str, body: bytes, signed_with: Sequence[str], now: datetime
) -> Mapping[str, str]:
    """The headers of an attempt: with a signature for each secret, so that a receiver that knows
    either of two takes it.
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
