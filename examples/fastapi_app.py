"""An editor's backend that stops accounts that are out of credits and offers the upgrade that helps.

    pip install "usageledger[gateway]" uvicorn
    USAGELEDGER_KAFKA=… uvicorn fastapi_app:app

Who is blocked is known here, in memory, milliseconds after the ledger knows it: no request waits for an answer from elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request

from usageledger import AsyncLimitSubscriber, UsageMeter
from usageledger.limits.fastapi import RequireCredits

subscriber = AsyncLimitSubscriber()
warned: dict[str, str] = {}


@subscriber.on_threshold
async def prompt(event) -> None:
    """At 80 %: remember what to offer, for the editor's next page."""
    warned[event.account] = event.upgrade.name if event.upgrade is not None else ""
