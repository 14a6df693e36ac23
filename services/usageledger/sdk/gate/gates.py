"""`UsageGate` and `AsyncUsageGate`: ask before a generation whether its account may start it, and
reserve what it may cost.

::

    gate = UsageGate(gateway="https://usage.internal:8137", key=KEY, on_unavailable="allow")
    check = gate.check("acct_4821", "genai_video", "veo_3")
    if not check:
        return prompt_upgrade(check.upgrade)

    with gate.held("acct_4821", id="gen_01J9", feature="genai_video", model="veo_3") as hold:
        video = render(job)
        meter.record(
            account="acct_4821",
            id="gen_01J9",
            feature="genai_video",
            model="veo_3",
            hold_id=hold.id,
        )
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import Literal

from usageledger.accounts.queries import Clock
from usageledger.sdk.gate.answers import (
    CheckAnswer,
    GateError,
    GateUnavailable,
    HoldAnswer,
    NotEnoughCredits,
    QuoteAnswer,
    ReleaseAnswer,
)
from usageledger.sdk.gate.arguments import (
    Asked,
    Quantity,
    account_named,
    hold_named,
    life_s_of,
    use_asked,
    uses_asked,
)
from usageledger.sdk.gate.direct import AsyncDirectWay, DirectWay
from usageledger.sdk.gate.over_http import AsyncHttpWay, HttpWay
from usageledger.sdk.gate.transport import AsyncWay, Way

OnUnavailable = Literal["allow", "deny"]

REDIS_TIMEOUT_S = 0.25
HTTP_TIMEOUT_S = 1.0

logger = logging.getLogger(__name__)


class UsageGate:
    """Asks before a generation.

    Names either ``gateway`` and ``key``, or ``kafka`` and ``redis_url`` (and ``prefix``).

    ``on_unavailable`` has no default, for it is a decision about money: where nobody answers in
    time, ``"allow"`` lets every generation start (it is charged all the same once it is reported),
    ``"deny"`` lets none. Either answer says ``degraded``. ``timeout_s``: how long one question may
    take, by default 0.25 s to Redis, 1 s over HTTP. The first question to Redis takes longer, for
    Kafka is asked where the accounts are; `prepare` does that before it matters. ``importing``:
    history is being brought in, so now is the ledger's time.

    May be shared by threads and by processes that are forked from this one. Raises ValueError where
    it is not told one way to ask.
    """

    def __init__(
        self,
        *,
        on_unavailable: OnUnavailable,
        gateway: str | None = None,
        key: str | None = None,
        kafka: str | None = None,
        redis_url: str | None = None,
        prefix: str = "",
        timeout_s: float | None = None,
        importing: bool = False,
    ) -> None:
        if _asks_gateway(on_unavailable, gateway, key, kafka, redis_url):
            self._way: Way = HttpWay(
                str(gateway), str(key), HTTP_TIMEOUT_S if timeout_s is None else timeout_s
            )
        else:
            clock = Clock(is_importing=lambda: importing)
            self._way = DirectWay(
                str(kafka),
                str(redis_url),
                prefix,
                clock,
                REDIS_TIMEOUT_S if timeout_s is None else timeout_s,
            )
        self._on_unavailable: OnUnavailable = on_unavailable

    def prepare(self) -> None:
        """Find out what the first question needs to know.

        Raises GateUnavailable, GateMisconfigured.
        """
        self._way.prepare()

    def check(
        self, account: str, feature: str, model: str | None = None, quantity: Quantity = 1
    ) -> CheckAnswer:
        """Whether an account may start a use, what that would cost, and which upgrade would allow
        it.

        Raises InvalidUse (UnknownUse where the catalog has no rate for it), GateMisconfigured.
        """
        named, use = account_named(account), use_asked(feature, model, quantity)
        try:
            return self._way.check(named, use)
        except GateUnavailable as error:
            return degraded_check(named, self._on_unavailable, error)

    def quote(self, uses: Iterable[Asked]) -> QuoteAnswer:
        """What uses (feature, model, quantity) would cost together, and on which plans they fit.

        Raises InvalidUse, UnknownUse, GateMisconfigured, and GateUnavailable, for there is no price
        to make up.
        """
        return self._way.quote(uses_asked(uses))

    def hold(
        self,
        account: str,
        id: str,
        feature: str,
        model: str | None = None,
        quantity: Quantity = 1,
        *,
        expires_in: timedelta | None = None,
    ) -> HoldAnswer:
        """Reserve what a use may cost, if its account may start it.

        ``id`` is the caller's: the same hold again reserves nothing more.

        Report the use with ``hold_id=id``, and it is settled; release it, or it frees itself after
        ``expires_in`` (15 minutes; 1 second to 24 hours). What it costs in the end is what is
        reported: give the quantity that it can come to. Raises InvalidUse, UnknownUse,
        HoldIdReused, GateMisconfigured.
        """
        named, hold_id, use, life_s = (
            account_named(account),
            hold_named(id),
            use_asked(feature, model, quantity),
            life_s_of(expires_in),
        )
        try:
            return self._way.hold(named, hold_id, use, life_s)
        except GateUnavailable as error:
            return degraded_hold(named, hold_id, self._on_unavailable, error)

    def release(self, account: str, id: str) -> ReleaseAnswer:
        """Free a hold: the generation failed, or will not start.

        Once or often. Raises InvalidUse, GateMisconfigured.
        """
        named, hold_id = account_named(account), hold_named(id)
        try:
            return self._way.release(named, hold_id)
        except GateUnavailable as error:
            return degraded_release(named, hold_id, error)

    @contextmanager
    def held(
        self,
        account: str,
        *,
        id: str,
        feature: str,
        model: str | None = None,
        quantity: Quantity = 1,
        expires_in: timedelta | None = None,
    ) -> Iterator[HoldAnswer]:
        """Hold while the body runs, and release if it raises.

        Report the use in it, with ``hold_id=hold.id``.

        Raises NotEnoughCredits where no hold is given, and what `hold` raises.
        """
        hold = self.hold(account, id, feature, model, quantity, expires_in=expires_in)
        if not hold.allowed:
            raise NotEnoughCredits(hold)
        try:
            yield hold
        except BaseException:
            with suppress(
                GateError
            ):  # what the body raised is what matters, and the hold frees itself
                self.release(account, id)
            raise

    def close(self) -> None:
        """Let go of the connections."""
        self._way.close()

    def __enter__(self) -> UsageGate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncUsageGate:
    """`UsageGate` for asyncio: of one event loop."""

    def __init__(
        self,
        *,
        on_unavailable: OnUnavailable,
        gateway: str | None = None,
        key: str | None = None,
        kafka: str | None = None,
        redis_url: str | None = None,
        prefix: str = "",
        timeout_s: float | None = None,
        importing: bool = False,
    ) -> None:
        if _asks_gateway(on_unavailable, gateway, key, kafka, redis_url):
            self._way: AsyncWay = AsyncHttpWay(
                str(gateway), str(key), HTTP_TIMEOUT_S if timeout_s is None else timeout_s
            )
        else:
            clock = Clock(is_importing=lambda: importing)
            self._way = AsyncDirectWay(
                str(kafka),
                str(redis_url),
                prefix,
                clock,
                REDIS_TIMEOUT_S if timeout_s is None else timeout_s,
            )
        self._on_unavailable: OnUnavailable = on_unavailable

    async def prepare(self) -> None:
        """See `UsageGate.prepare`."""
        await self._way.prepare()

    async def check(
        self, account: str, feature: str, model: str | None = None, quantity: Quantity = 1
    ) -> CheckAnswer:
        """See `UsageGate.check`."""
        named, use = account_named(account), use_asked(feature, model, quantity)
        try:
            return await self._way.check(named, use)
        except GateUnavailable as error:
            return degraded_check(named, self._on_unavailable, error)

    async def quote(self, uses: Iterable[Asked]) -> QuoteAnswer:
        """See `UsageGate.quote`."""
        return await self._way.quote(uses_asked(uses))

    async def hold(
        self,
        account: str,
        id: str,
        feature: str,
        model: str | None = None,
        quantity: Quantity = 1,
        *,
        expires_in: timedelta | None = None,
    ) -> HoldAnswer:
        """See `UsageGate.hold`."""
        named, hold_id, use, life_s = (
            account_named(account),
            hold_named(id),
            use_asked(feature, model, quantity),
            life_s_of(expires_in),
        )
        try:
            return await self._way.hold(named, hold_id, use, life_s)
        except GateUnavailable as error:
            return degraded_hold(named, hold_id, self._on_unavailable, error)

    async def release(self, account: str, id: str) -> ReleaseAnswer:
        """See `UsageGate.release`."""
        named, hold_id = account_named(account), hold_named(id)
        try:
            return await self._way.release(named, hold_id)
        except GateUnavailable as error:
            return degraded_release(named, hold_id, error)

    @asynccontextmanager
    async def held(
        self,
        account: str,
        *,
        id: str,
        feature: str,
        model: str | None = None,
        quantity: Quantity = 1,
        expires_in: timedelta | None = None,
    ) -> AsyncIterator[HoldAnswer]:
        """See `UsageGate.held`."""
        hold = await self.hold(account, id, feature, model, quantity, expires_in=expires_in)
        if not hold.allowed:
            raise NotEnoughCredits(hold)
        try:
            yield hold
        except BaseException:
            with suppress(GateError):  # as above
                await self.release(account, id)
            raise

    async def close(self) -> None:
        """Let go of the connections."""
        await self._way.close()

    async def __aenter__(self) -> AsyncUsageGate:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def degraded_check(
    account: str, on_unavailable: OnUnavailable, error: GateUnavailable
) -> CheckAnswer:
    """The answer where there is none."""
    logger.warning(
        "nobody says whether an account may start a use, so it is told to %s: %s",
        on_unavailable,
        error,
    )
    allowed = on_unavailable == "allow"
    return CheckAnswer(
        account=account, allowed=allowed, reason=None if allowed else "unavailable", degraded=True
    )


def degraded_hold(
    account: str, hold_id: str, on_unavailable: OnUnavailable, error: GateUnavailable
) -> HoldAnswer:
    """The answer where there is none.

    The hold may have been placed all the same; then it frees itself, or its use settles it.
    """
    logger.warning(
        "nobody says whether credits are held, so a use is told to %s: %s", on_unavailable, error
    )
    allowed = on_unavailable == "allow"
    return HoldAnswer(
        account=account,
        id=hold_id,
        allowed=allowed,
        reason=None if allowed else "unavailable",
        degraded=True,
    )


def degraded_release(account: str, hold_id: str, error: GateUnavailable) -> ReleaseAnswer:
    """The answer where there is none: the hold frees itself."""
    logger.warning("a hold may not be released, and then frees itself: %s", error)
    return ReleaseAnswer(account=account, id=hold_id, state=None, degraded=True)


def _asks_gateway(
    on_unavailable: str,
    gateway: str | None,
    key: str | None,
    kafka: str | None,
    redis_url: str | None,
) -> bool:
    if on_unavailable not in ("allow", "deny"):
        raise ValueError(f'on_unavailable is "allow" or "deny", not {on_unavailable!r}')
    if gateway is not None and key is not None and kafka is None and redis_url is None:
        return True
    if gateway is None and key is None and kafka is not None and redis_url is not None:
        return False
    raise ValueError("a gate is told either gateway and key, or kafka and redis_url")
