"""`UsageGate` and `AsyncUsageGate`: may an account start a generation? Reserve what it may cost.

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
from usageledger.counters.holding import holder_of_source
from usageledger.domain.quantity import check_name
from usageledger.runtime.kafka_connection import KafkaConnection
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
    Quantity,
    UseToQuote,
    hold_life_s,
    valid_account,
    valid_hold_id,
    valid_use,
    valid_uses,
)
from usageledger.sdk.gate.direct import AsyncDirectTransport, DirectTransport
from usageledger.sdk.gate.over_http import AsyncHttpTransport, HttpTransport
from usageledger.sdk.gate.transport import AsyncTransport, Transport
from usageledger.sdk.settings import kafka_setting, prefix_setting

OnUnavailable = Literal["allow", "deny"]

REDIS_TIMEOUT_S = 0.25
HTTP_TIMEOUT_S = 1.0

log = logging.getLogger(__name__)


class UsageGate:
    """Says before a generation whether it may start.

    Give either ``gateway`` and ``key``, or ``kafka`` and ``redis_url``. ``prefix`` is that of the
    topics' names; by default USAGELEDGER_PREFIX.

    ``on_unavailable`` has no default, because it is a decision about money. There may be no answer
    in time, or the counters were last verified more than a minute ago. Then ``"allow"`` lets every
    generation start (it is charged all the same once it is reported), and ``"deny"`` lets none.
    Either answer says ``degraded``. ``timeout_s`` is how long one call may take, by default 0.25 s
    to Redis and 1 s over HTTP. The first call to Redis takes longer: Kafka must say which partition
    an account is in. `prepare` does that in advance. ``importing`` means that history is being
    imported, so that the ledger's clock says what time it is.

    With ``source``, the holds belong to this service: only gates with the same source release them,
    and only uses that this source reports settle them. Over HTTP, holds belong to the key. A hold
    that a gate without either has placed can be released by anybody.

    Threads, and processes forked from this one, may share a gate. Raises ValueError unless exactly
    one transport is given.
    """

    def __init__(
        self,
        *,
        on_unavailable: OnUnavailable,
        gateway: str | None = None,
        key: str | None = None,
        kafka: KafkaConnection | str | None = None,
        redis_url: str | None = None,
        prefix: str | None = None,
        timeout_s: float | None = None,
        importing: bool = False,
        source: str | None = None,
    ) -> None:
        if _asks_gateway(on_unavailable, gateway, key, kafka, redis_url, source):
            self._transport: Transport = HttpTransport(
                str(gateway), str(key), HTTP_TIMEOUT_S if timeout_s is None else timeout_s
            )
        else:
            clock = Clock(is_importing=lambda: importing)
            self._transport = DirectTransport(
                kafka_setting(kafka),
                str(redis_url),
                prefix_setting(prefix),
                clock,
                REDIS_TIMEOUT_S if timeout_s is None else timeout_s,
                "" if source is None else holder_of_source(check_name("source", source)),
            )
        self._on_unavailable: OnUnavailable = on_unavailable

    def prepare(self) -> None:
        """Learn what the first call needs to know.

        Raises GateUnavailable, GateMisconfigured.
        """
        self._transport.prepare()

    def check(
        self, account: str, feature: str, model: str | None = None, quantity: Quantity = 1
    ) -> CheckAnswer:
        """Whether an account may start a use, its cost, and which upgrade would allow it.

        Raises InvalidUse (UnknownUse where the catalog has no rate for it), GateMisconfigured.
        """
        account, use = valid_account(account), valid_use(feature, model, quantity)
        try:
            return self._transport.check(account, use)
        except GateUnavailable as error:
            return _degraded_check(account, self._on_unavailable, error)

    def quote(self, uses: Iterable[UseToQuote]) -> QuoteAnswer:
        """The cost of uses (feature, model, quantity) together, and which plans cover it.

        Raises InvalidUse, UnknownUse, GateMisconfigured, and GateUnavailable: a quote cannot be
        degraded, because it would be a guess.
        """
        return self._transport.quote(valid_uses(uses))

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

        The caller chooses ``id``; to repeat a hold under its id reserves nothing more. Reporting
        the use with ``hold_id=id`` settles the hold. Otherwise release it, or it expires after
        ``expires_in`` (default 15 minutes, from 1 second to 24 hours). The use is charged as
        reported, so give the largest quantity that it may have. Raises InvalidUse, UnknownUse,
        HoldIdReused, GateMisconfigured.
        """
        account, hold_id = valid_account(account), valid_hold_id(id)
        use, life_s = valid_use(feature, model, quantity), hold_life_s(expires_in)
        try:
            return self._transport.hold(account, hold_id, use, life_s)
        except GateUnavailable as error:
            return _degraded_hold(account, hold_id, self._on_unavailable, error)

    def release(self, account: str, id: str) -> ReleaseAnswer:
        """Free a hold whose generation failed, or will not start. It may be repeated.

        Raises InvalidUse, GateMisconfigured, and NotTheHolder if another key or source placed it.
        """
        account, hold_id = valid_account(account), valid_hold_id(id)
        try:
            return self._transport.release(account, hold_id)
        except GateUnavailable as error:
            return _degraded_release(account, hold_id, error)

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
        """Hold while the body runs, and release the hold if the body raises.

        Report the use in the body, with ``hold_id=hold.id``. Raises NotEnoughCredits if no hold is
        given, and what `hold` raises.
        """
        hold = self.hold(account, id, feature, model, quantity, expires_in=expires_in)
        if not hold.allowed:
            raise NotEnoughCredits(hold)
        try:
            yield hold
        except BaseException:
            # The body's exception is the one that matters, and the hold expires by itself.
            with suppress(GateError):
                self.release(account, id)
            raise

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> UsageGate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncUsageGate:
    """`UsageGate` for asyncio. It belongs to one event loop."""

    def __init__(
        self,
        *,
        on_unavailable: OnUnavailable,
        gateway: str | None = None,
        key: str | None = None,
        kafka: KafkaConnection | str | None = None,
        redis_url: str | None = None,
        prefix: str | None = None,
        timeout_s: float | None = None,
        importing: bool = False,
        source: str | None = None,
    ) -> None:
        if _asks_gateway(on_unavailable, gateway, key, kafka, redis_url, source):
            self._transport: AsyncTransport = AsyncHttpTransport(
                str(gateway), str(key), HTTP_TIMEOUT_S if timeout_s is None else timeout_s
            )
        else:
            clock = Clock(is_importing=lambda: importing)
            self._transport = AsyncDirectTransport(
                kafka_setting(kafka),
                str(redis_url),
                prefix_setting(prefix),
                clock,
                REDIS_TIMEOUT_S if timeout_s is None else timeout_s,
                "" if source is None else holder_of_source(check_name("source", source)),
            )
        self._on_unavailable: OnUnavailable = on_unavailable

    async def prepare(self) -> None:
        """Learn what the first call needs to know.

        See `UsageGate.prepare`.
        """
        await self._transport.prepare()

    async def check(
        self, account: str, feature: str, model: str | None = None, quantity: Quantity = 1
    ) -> CheckAnswer:
        """Whether an account may start a use, its cost, and which upgrade would allow it.

        See `UsageGate.check`.
        """
        account, use = valid_account(account), valid_use(feature, model, quantity)
        try:
            return await self._transport.check(account, use)
        except GateUnavailable as error:
            return _degraded_check(account, self._on_unavailable, error)

    async def quote(self, uses: Iterable[UseToQuote]) -> QuoteAnswer:
        """The cost of uses (feature, model, quantity) together, and which plans cover it.

        See `UsageGate.quote`.
        """
        return await self._transport.quote(valid_uses(uses))

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
        """Reserve what a use may cost, if its account may start it.

        See `UsageGate.hold`.
        """
        account, hold_id = valid_account(account), valid_hold_id(id)
        use, life_s = valid_use(feature, model, quantity), hold_life_s(expires_in)
        try:
            return await self._transport.hold(account, hold_id, use, life_s)
        except GateUnavailable as error:
            return _degraded_hold(account, hold_id, self._on_unavailable, error)

    async def release(self, account: str, id: str) -> ReleaseAnswer:
        """Free a hold whose generation failed, or will not start. It may be repeated.

        See `UsageGate.release`.
        """
        account, hold_id = valid_account(account), valid_hold_id(id)
        try:
            return await self._transport.release(account, hold_id)
        except GateUnavailable as error:
            return _degraded_release(account, hold_id, error)

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
        """Hold while the body runs, and release the hold if the body raises.

        See `UsageGate.held`.
        """
        hold = await self.hold(account, id, feature, model, quantity, expires_in=expires_in)
        if not hold.allowed:
            raise NotEnoughCredits(hold)
        try:
            yield hold
        except BaseException:
            with suppress(GateError):
                await self.release(account, id)
            raise

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncUsageGate:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _degraded_check(
    account: str, on_unavailable: OnUnavailable, error: GateUnavailable
) -> CheckAnswer:
    """The answer to a check if no answer came."""
    log.warning(
        "no answer about whether an account may start a use, so on_unavailable=%s decides: %s",
        on_unavailable,
        error,
    )
    allowed = on_unavailable == "allow"
    return CheckAnswer(
        account=account, allowed=allowed, reason=None if allowed else "unavailable", degraded=True
    )


def _degraded_hold(
    account: str, hold_id: str, on_unavailable: OnUnavailable, error: GateUnavailable
) -> HoldAnswer:
    """The answer to a request to hold if no answer came.

    The hold may be there all the same; then it expires, or its use settles it.
    """
    log.warning("no answer about a hold, so on_unavailable=%s decides: %s", on_unavailable, error)
    allowed = on_unavailable == "allow"
    return HoldAnswer(
        account=account,
        id=hold_id,
        allowed=allowed,
        reason=None if allowed else "unavailable",
        degraded=True,
    )


def _degraded_release(account: str, hold_id: str, error: GateUnavailable) -> ReleaseAnswer:
    """The answer to a request to release if no answer came: the hold expires by itself."""
    log.warning("no answer about a release; if it failed, the hold expires by itself: %s", error)
    return ReleaseAnswer(account=account, id=hold_id, state=None, degraded=True)


def _asks_gateway(
    on_unavailable: str,
    gateway: str | None,
    key: str | None,
    kafka: KafkaConnection | str | None,
    redis_url: str | None,
    source: str | None,
) -> bool:
    if on_unavailable not in ("allow", "deny"):
        raise ValueError(f'on_unavailable is "allow" or "deny", not {on_unavailable!r}')
    if gateway is not None and key is not None and kafka is None and redis_url is None:
        if source is not None:
            raise ValueError("leave out source: over HTTP, the key says who holds")
        return True
    if gateway is None and key is None and kafka is not None and redis_url is not None:
        return False
    raise ValueError("give a gate either gateway and key, or kafka and redis_url")
