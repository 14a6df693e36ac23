"""For FastAPI and Starlette apps: answer requests of blocked accounts with 402 and the upgrade.

Needs the extra ``gateway``.

::

    from usageledger import LimitSubscriber
    from usageledger.fastapi import BlockWithoutCredits, RequireCredits, answer_payment_required

    subscriber = LimitSubscriber(kafka="localhost:9092")  # or AsyncLimitSubscriber
    app = FastAPI()
    answer_payment_required(app)

    def account_of(request):
        return request.state.account

    @app.post("/render", dependencies=[Depends(RequireCredits(subscriber, account=account_of))])
    async def render(): ...

Or for every path below one, whatever serves it::

    app.add_middleware(
        BlockWithoutCredits, subscriber=subscriber, account=account_of, paths=("/render",)
    )

The 402 answer is a problem (RFC 9457, ``application/problem+json``) with the gateway's names.
The subscriber answers from memory, so no request waits for Kafka, Redis or the gateway.
"""

from __future__ import annotations

from usageledger.sdk.extras import naming_the_extra

with naming_the_extra(__name__, "gateway"):
    from usageledger.sdk.limits.payment_required import (
        AccountOf,
        BlockWithoutCredits,
        KnowsWhoIsBlocked,
        PaymentRequired,
        RequireCredits,
        answer_payment_required,
        problem_of,
        problem_response,
    )

__all__ = [
    "AccountOf",
    "BlockWithoutCredits",
    "KnowsWhoIsBlocked",
    "PaymentRequired",
    "RequireCredits",
    "answer_payment_required",
    "problem_of",
    "problem_response",
]
