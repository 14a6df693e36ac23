"""Asking a gateway over HTTP, for the commands that manage keys and webhooks: the stack's on this
machine, or one elsewhere.
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
from usageledger.local.gateway_place import kept_key
from usageledger.runtime.settings import ClientSettings, SettingsError, running_stack
from usageledger.sdk.gate.over_http import segment

ANSWER_WITHIN_S = 30.0
TESTED_WITHIN_S = 20.0
LOOK_AGAIN_AFTER_S = 0.2
PAGE = 200


class GatewayFailed(StackError):
    """A gateway did not do what was asked.

    The message is its own: what is wrong, and what to do.
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
        """The gateway of a stack that runs in ``data`` if one is named, else the variables', else
        that of the stack in ``.usageledger``.

        Raises SettingsError.
        """
        settings = ClientSettings()
        if data is None and settings.gateway_url is not None:
            if settings.key is None:
                raise SettingsError(
                    "USAGELEDGER_GATEWAY_URL is set but USAGELEDGER_KEY is not: commands send it "
                    "to that gateway"
                )
            return cls(settings.gateway_url, settings.key.get_secret_value())
        directory = data or settings.data
        stack, key = running_stack(directory), kept_key(directory)
        if stack is None or not stack.get("gateway") or key is None:
            raise SettingsError(
                f"no running stack in {directory}: start one with `usageledger up`, name its "
                "directory with --data, "
                "or set USAGELEDGER_GATEWAY_URL and USAGELEDGER_KEY"
            )
        return cls(stack["gateway"], key)

    def create_key(self, name: str, scopes: Sequence[str]) -> dict[str, Any]:
        """Make a key; the answer has it, this once."""
        return self._asked("POST", "/v1/keys", {"name": name, "scopes": list(scopes)})

    def keys(self) -> list[dict[str, Any]]:
        """Every key there has been."""
        return list(self._listed("/v1/keys"))

    def rotate_key(self, key_id: str, overlap_s: int) -> dict[str, Any]:
        """A new secret for a key."""
        return self._asked("POST", f"/v1/keys/{segment(key_id)}/rotate", {"overlap_s": overlap_s})

    def revoke_key(self, key_id: str) -> None:
        """End a key and its tokens."""
        self._asked("POST", f"/v1/keys/{segment(key_id)}/revoke")

    def add_webhook(
        self, url: str, types: Sequence[str], accounts: Sequence[str], description: str
    ) -> dict[str, Any]:
        """Make an endpoint; the answer has its secret, this once.

        A connection that breaks leaves one endpoint and not two.
        """
        body: dict[str, Any] = {"url": url, "accounts": list(accounts), "description": description}
        body |= {"types": list(types)} if types else {}
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        try:
            return self._asked("POST", "/v1/webhooks", body, headers=headers)
        except _ConnectionFailed:
            return self._asked("POST", "/v1/webhooks", body, headers=headers)

    def webhooks(self) -> list[dict[str, Any]]:
        """Every endpoint, and how it fares."""
        return list(self._asked("GET", "/v1/webhooks")["items"])

    def switch_webhook(self, endpoint_id: str, *, on: bool) -> dict[str, Any]:
        """Switch an endpoint on or off."""
        return self._asked("PATCH", _endpoint(endpoint_id), {"enabled": on})

    def rotate_webhook(self, endpoint_id: str, overlap_s: int) -> dict[str, Any]:
        """A new secret for an endpoint."""
        return self._asked("POST", f"{_endpoint(endpoint_id)}/rotate", {"overlap_s": overlap_s})

    def remove_webhook(self, endpoint_id: str) -> None:
        """Take an endpoint away."""
        self._asked("DELETE", _endpoint(endpoint_id))

    def deliveries(self, endpoint_id: str, state: str | None = None) -> Iterator[dict[str, Any]]:
        """An endpoint's deliveries, the newest first, page by page."""
        yield from self._listed(
            f"{_endpoint(endpoint_id)}/deliveries", {} if state is None else {"state": state}
        )

    def resend(self, endpoint_id: str, delivery_id: str) -> dict[str, Any]:
        """Have a delivery sent again."""
        return self._asked(
            "POST", f"{_endpoint(endpoint_id)}/deliveries/{segment(delivery_id)}/resend"
        )

    def test_webhook(self, endpoint_id: str) -> dict[str, Any]:
        """Send an endpoint a test, and wait for what comes of it.

        Raises GatewayFailed where nothing does in time.
        """
        sent = self._asked("POST", f"{_endpoint(endpoint_id)}/test")
        deadline_s = time.monotonic() + TESTED_WITHIN_S
        while sent["state"] == "pending":
            if time.monotonic() > deadline_s:
                raise GatewayFailed(
                    f"the test was not delivered within {TESTED_WITHIN_S:.0f} s, and is tried no "
                    "more than once"
                )
            time.sleep(LOOK_AGAIN_AFTER_S)
            sent = self._asked("GET", f"{_endpoint(endpoint_id)}/deliveries/{segment(sent['id'])}")
        return sent

    def close(self) -> None:
        """Let go of the connection."""
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

    def _listed(
        self, path: str, params: Mapping[str, str | int] | None = None
    ) -> Iterator[dict[str, Any]]:
        asked: dict[str, str | int] = {"limit": PAGE, **(params or {})}
        while True:
            page = self._asked("GET", path, params=asked)
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            asked = asked | {"cursor": page["next_cursor"]}

    def _asked(
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
            told = (
                f"the gateway at {self.url} does not answer ({error}): does it run? See "
                "`usageledger status`"
            )
            raise _ConnectionFailed(told) from error
        if response.is_success:
            return dict(response.json()) if response.content else {}
        raise GatewayFailed(_told(response))


class _ConnectionFailed(GatewayFailed):
    """Whether it was done is not known."""


def _told(response: httpx.Response) -> str:
    """A problem's own words."""
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
