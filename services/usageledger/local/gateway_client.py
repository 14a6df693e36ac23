"""A client of a gateway's HTTP API, for the commands that manage keys and webhooks.

The gateway is that of the stack on this machine, or one elsewhere.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from usageledger.local.errors import StackError
from usageledger.local.gateway_files import kept_key
from usageledger.runtime.settings import ClientSettings, SettingsError, running_stack
from usageledger.sdk.gate.over_http import segment

ANSWER_WITHIN_S = 30.0
TESTED_WITHIN_S = 20.0
LOOK_AGAIN_AFTER_S = 0.2
PAGE = 200


class GatewayFailed(StackError):
    """A gateway refused a request, or failed.

    The message is the gateway's own: it says what is wrong and what to do.
    """


class GatewayClient:
    """One gateway. Close it, or use it as a context."""

    def __init__(self, url: str, key: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url
        headers = {"Authorization": f"Bearer {key}"}
        self._client = httpx.Client(
            base_url=url, headers=headers, timeout=ANSWER_WITHIN_S, transport=transport
        )

    @classmethod
    def find(cls, data: Path | None = None) -> GatewayClient:
        """Return a client of the gateway that the caller means.

        It is that of the stack in ``data`` if ``data`` is given. Otherwise it is the one that the
        environment variables name, or else that of the stack in ``.usageledger``. Raises
        SettingsError.
        """
        settings = ClientSettings()
        if data is None and settings.gateway_url is not None:
            if settings.key is None:
                raise SettingsError(
                    "USAGELEDGER_GATEWAY_URL is set but USAGELEDGER_KEY is not: set it to a key "
                    "of that gateway"
                )
            return cls(settings.gateway_url, settings.key.get_secret_value())
        directory = data or settings.data
        stack, key = running_stack(directory), kept_key(directory)
        if stack is None or not stack.get("gateway") or key is None:
            raise SettingsError(
                f"no running stack in {directory}: start one with `usageledger up`, name its "
                "directory with --data, or set USAGELEDGER_GATEWAY_URL and USAGELEDGER_KEY"
            )
        return cls(stack["gateway"], key)

    def create_key(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        sources: Sequence[str] = (),
        accounts: Sequence[str] = (),
        events_per_second: int | None = None,
    ) -> dict[str, Any]:
        """Make a key. Only this answer contains it."""
        asked = {
            "name": name,
            "scopes": list(scopes),
            "sources": list(sources),
            "accounts": list(accounts),
            "events_per_second": events_per_second,
        }
        return self._ask("POST", "/v1/keys", asked)

    def keys(self) -> list[dict[str, Any]]:
        """Every key, with those that have ended."""
        return list(self._items("/v1/keys"))

    def rotate_key(self, key_id: str, overlap_s: int) -> dict[str, Any]:
        """Give a key a new secret. The old one works for ``overlap_s`` more seconds."""
        return self._ask("POST", f"/v1/keys/{segment(key_id)}/rotate", {"overlap_s": overlap_s})

    def revoke_key(self, key_id: str) -> None:
        """End a key and its tokens."""
        self._ask("POST", f"/v1/keys/{segment(key_id)}/revoke")

    def add_webhook(
        self, url: str, types: Sequence[str], accounts: Sequence[str], description: str
    ) -> dict[str, Any]:
        """Make an endpoint. Only this answer contains its secret.

        A request whose connection breaks is repeated once, and makes no second endpoint.
        """
        body: dict[str, Any] = {"url": url, "accounts": list(accounts), "description": description}
        body |= {"types": list(types)} if types else {}
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        try:
            return self._ask("POST", "/v1/webhooks", body, headers=headers)
        except _ConnectionFailed:
            return self._ask("POST", "/v1/webhooks", body, headers=headers)

    def webhooks(self) -> list[dict[str, Any]]:
        """Every endpoint, with its state."""
        return list(self._ask("GET", "/v1/webhooks")["items"])

    def switch_webhook(self, endpoint_id: str, *, on: bool) -> dict[str, Any]:
        """Switch an endpoint on or off."""
        return self._ask("PATCH", _endpoint(endpoint_id), {"enabled": on})

    def rotate_webhook(self, endpoint_id: str, overlap_s: int) -> dict[str, Any]:
        """Give an endpoint a new secret. The old one signs for ``overlap_s`` more seconds."""
        return self._ask("POST", f"{_endpoint(endpoint_id)}/rotate", {"overlap_s": overlap_s})

    def remove_webhook(self, endpoint_id: str) -> None:
        """Remove an endpoint."""
        self._ask("DELETE", _endpoint(endpoint_id))

    def deliveries(self, endpoint_id: str, state: str | None = None) -> Iterator[dict[str, Any]]:
        """An endpoint's deliveries, the newest first, page by page."""
        yield from self._items(
            f"{_endpoint(endpoint_id)}/deliveries", {} if state is None else {"state": state}
        )

    def resend(self, endpoint_id: str, delivery_id: str) -> dict[str, Any]:
        """Send a delivery again."""
        return self._ask(
            "POST", f"{_endpoint(endpoint_id)}/deliveries/{segment(delivery_id)}/resend"
        )

    def test_webhook(self, endpoint_id: str) -> dict[str, Any]:
        """Send a test to an endpoint, and wait for the result.

        Raises GatewayFailed if there is none in time.
        """
        sent = self._ask("POST", f"{_endpoint(endpoint_id)}/test")
        deadline_s = time.monotonic() + TESTED_WITHIN_S
        while sent["state"] == "pending":
            if time.monotonic() > deadline_s:
                raise GatewayFailed(
                    f"the test was not delivered within {TESTED_WITHIN_S:.0f} s. It is not tried "
                    "again"
                )
            time.sleep(LOOK_AGAIN_AFTER_S)
            sent = self._ask("GET", f"{_endpoint(endpoint_id)}/deliveries/{segment(sent['id'])}")
        return sent

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> GatewayClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _items(
        self, path: str, params: Mapping[str, str | int] | None = None
    ) -> Iterator[dict[str, Any]]:
        query: dict[str, str | int] = {"limit": PAGE, **(params or {})}
        while True:
            page = self._ask("GET", path, params=query)
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            query = query | {"cursor": page["next_cursor"]}

    def _ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        try:
            response = self._client.request(method, path, json=body, params=params, headers=headers)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise _ConnectionFailed(
                f"the gateway at {self.url} does not answer ({error}): does it run? See "
                "`usageledger status`"
            ) from error
        if response.is_success:
            return dict(response.json()) if response.content else {}
        raise GatewayFailed(_problem_text(response))


class _ConnectionFailed(GatewayFailed):
    """The request may or may not have taken effect."""


def _problem_text(response: httpx.Response) -> str:
    """The text of the problem that a gateway answered with."""
    try:
        problem = response.json()
        return f"{problem['title']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return (
            f"{response.request.url} answered {response.status_code}: is that a usageledger "
            "gateway?"
        )


def _endpoint(endpoint_id: str) -> str:
    return f"/v1/webhooks/{segment(endpoint_id)}"
