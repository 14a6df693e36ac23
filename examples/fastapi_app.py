"""An editor's backend that stops accounts without credits, and offers the upgrade that helps.

    pip install "usageledger[gateway]"
    USAGELEDGER_KAFKA=127.0.0.1:9092 uvicorn fastapi_app:app

The app knows in memory which accounts are blocked, milliseconds after the ledger does. So no
request waits for another service. A blocked account's request to render is answered 402 with the
upgrade in the body. An account that has used 80 % sees that in a header of its answers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response

from usageledger import AsyncLimitSubscriber, LimitEvent
from usageledger.fastapi import RequireCredits, answer_payment_required


class Limits:
    """The limits of accounts, as this app needs them."""

    def __init__(self) -> None:
        self.offers: dict[str, str] = {}
        """Accounts that are running low, and the plan to offer them."""
        self._subscriber: AsyncLimitSubscriber | None = None

    @asynccontextmanager
    async def known(self, app: FastAPI) -> AsyncIterator[None]:
        """For as long as the app runs. It takes requests once it knows who is blocked."""
        subscriber = AsyncLimitSubscriber()
        subscriber.on_threshold(self._prompt)
        subscriber.on_cleared(self._forget)
        async with subscriber:
            self._subscriber = subscriber
            yield

    def why_blocked(self, account: str) -> LimitEvent | None:
        """The event that blocked an account, if it is blocked."""
        assert self._subscriber is not None, "requests come when the app has started"
        return self._subscriber.why_blocked(account)

    async def _prompt(self, event: LimitEvent) -> None:
        if event.upgrade is not None:
            self.offers[event.account] = event.upgrade.name

    async def _forget(self, event: LimitEvent) -> None:
        self.offers.pop(event.account, None)


def signed_in(request: Request) -> str:
    """Stands for the app's own sign-in."""
    return request.headers.get("x-account", "acct_4821")


limits = Limits()
app = FastAPI(title="An editor", lifespan=limits.known)
answer_payment_required(app)


@app.post("/render")
async def render(
    account: Annotated[str, Depends(RequireCredits(limits, account=signed_in))], response: Response
) -> dict[str, str]:
    """Begin a generation, unless the account is blocked."""
    if account in limits.offers:
        response.headers["X-Upgrade"] = limits.offers[account]
    return {"status": "rendering", "account": account}


@app.get("/settings")
async def settings(request: Request) -> dict[str, str | None]:
    """A blocked account may still look at its settings, and buy the upgrade."""
    account = signed_in(request)
    return {"account": account, "offer": limits.offers.get(account)}
