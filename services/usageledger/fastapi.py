"""For apps that run under FastAPI: answer a blocked account with 402. Needs the extra `gateway`."""

from __future__ import annotations

from usageledger.sdk.limits.fastapi import BlockWithoutCredits as BlockWithoutCredits
from usageledger.sdk.limits.fastapi import RequireCredits as RequireCredits
