"""Schemathesis against the running gateway: the OpenAPI document allows every answer."""

from __future__ import annotations

import os
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from tests.servers import RunningGateway
from usageledger.gateway.app import bare_app

# A stream has no end to wait for. The tests of its readers check its content.
STREAMS = "/stream"
# Refusals of well-formed requests. No schema knows the rate card, an account's remaining credits,
# the time, or which services a gateway reaches.
REFUSED_BY_THE_LEDGER = {
    "unknown_feature",
    "unknown_model",
    "insufficient_credits",
    "invalid_event",
    "url_not_allowed",
}
# A client that guesses keys soon gets a 429, which this check does not expect;
# tests/unit/gateway/access/test_app_keys.py asks every route instead.
GUESSING = [ignored_auth]
EXAMPLES = int(os.environ.get("USAGELEDGER_SCHEMATHESIS_EXAMPLES", "15"))

OPERATIONS = [
    (method.upper(), path)
    for path, methods in sorted(bare_app().openapi()["paths"].items())
    for method in sorted(methods)
    if not path.endswith(STREAMS)
]


@pytest.fixture(scope="session")
def api(gateway: RunningGateway) -> Any:
    """The document as the gateway itself serves it."""
    return schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=" ".join)
def test_every_answer_is_what_the_document_says(
    method: str, path: str, api: Any, gateway: RunningGateway
) -> None:
    requests = api[path][method].as_strategy()
    headers = {"Authorization": f"Bearer {gateway.key}"}

    @hypothesis.settings(max_examples=EXAMPLES, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(case=requests)
    def ask(case: Any) -> None:
        response = case.call(headers=headers, timeout=30)
        is_refused = (
            response.status_code >= 400 and response.json().get("code") in REFUSED_BY_THE_LEDGER
        )
        case.validate_response(
            response,
            headers=headers,
            excluded_checks=[*GUESSING, *([positive_data_acceptance] if is_refused else [])],
        )

    ask()
