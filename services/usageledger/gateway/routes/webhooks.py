"""Routes: webhook endpoints, their secrets, and their deliveries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from usageledger.contracts.fields import Name
from usageledger.gateway.cursors import PAGE_DEFAULT, Limit, NumberCursor
from usageledger.gateway.dependencies import (
    MayAdminister,
    RequireCurrentLimits,
    TheClock,
    TheDeliveries,
    TheDestinations,
    TheEndpoints,
    TheStoreThread,
    WakeWebhooks,
)
from usageledger.gateway.idempotency import IdempotencyKey, MadeBefore
from usageledger.gateway.problems import Problem, problems
from usageledger.gateway.webhooks.addresses import (
    URL_LENGTH_MAX,
    Destinations,
    NotAllowed,
    check_url,
)
from usageledger.gateway.webhooks.deliveries import Counts, Delivery, DeliveryStore
from usageledger.gateway.webhooks.endpoints import (
    ENDPOINTS_MAX,
    LIMIT_TYPES,
    Change,
    Endpoint,
    EndpointSettings,
    EndpointState,
    EndpointStore,
    LimitType,
    TooManyEndpoints,
)
from usageledger.gateway.webhooks.schedule import State
from usageledger.ledger.timestamps import milliseconds

router = APIRouter(tags=["webhooks"])

OVERLAP_MAX_S = 30 * 86_400
ACCOUNTS_MAX = 1_000
SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

EndpointId = Annotated[
    str, Path(description="The endpoint's id.", examples=["wh_1f6d0c2b9a3e4d57"])
]
DeliveryId = Annotated[
    str,
    Path(
        description="The delivery's id: the `webhook-id` that the receiver sees.",
        examples=["msg_5e0f…"],
    ),
]

_URL = Field(
    max_length=URL_LENGTH_MAX,
    description="Where to deliver: an https URL with a public address, unless this gateway is "
    "configured to reach others.",
    examples=["https://app.example/hooks/usage"],
)
_TYPES = Field(min_length=1, max_length=3, description="Which limit events to deliver.")
_ACCOUNTS = Field(max_length=ACCOUNTS_MAX, description="Of which accounts; empty: of all.")

_ENDPOINT: JsonDict = {
    "id": "wh_1f6d0c2b9a3e4d57",
    "url": "https://app.example/hooks/usage",
    "types": ["limit.reached", "limit.cleared"],
    "accounts": [],
    "description": "the editor",
    "created_at": "2026-11-25T10:00:00Z",
    "state": "active",
    "disabled_because": None,
    "pending": 0,
    "dead": 0,
    "secrets": 1,
    "last_success_at": "2026-11-25T10:15:32Z",
    "last_failure": None,
}
_DELIVERY: JsonDict = {
    "id": "msg_5e0f7a2c41d84b8f9d3a0c6e1b2f4a57",
    "event_id": "3-1042-0",
    "type": "limit.reached",
    "account": "acct_4821",
    "state": "pending",
    "attempts": 2,
    "last_status": 503,
    "last_error": "status 503",
    "next_attempt_at": "2026-11-25T10:17:32Z",
    "created_at": "2026-11-25T10:15:31.250Z",
}


def _example(*values: JsonDict) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": list(values)})


class NewEndpoint(BaseModel):
    """A webhook endpoint to make."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "url": "https://app.example/hooks/usage",
                    "types": ["limit.reached", "limit.cleared"],
                }
            ]
        },
    )

    url: str = _URL
    types: Annotated[list[LimitType], _TYPES] = list(LIMIT_TYPES)
    accounts: Annotated[list[Name], _ACCOUNTS] = []
    description: str = Field(default="", max_length=200, description="For people.")


class EndpointChange(BaseModel):
    """The fields to change. A field that is not named stays as it is."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"enabled": False}]})

    url: Annotated[str, _URL] | None = None
    types: Annotated[list[LimitType], _TYPES] | None = None
    accounts: Annotated[list[Name], _ACCOUNTS] | None = None
    description: Annotated[str, Field(max_length=200)] | None = None
    enabled: bool | None = None


class SecretRotation(BaseModel):
    """For how long deliveries are signed with the old secret as well."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"overlap_s": 86400}]}
    )

    overlap_s: int = Field(default=86_400, ge=0, le=OVERLAP_MAX_S, description="In seconds.")


class EndpointMade(BaseModel):
    """An endpoint's secret, which is shown only in this answer."""

    model_config = _example({"id": "wh_1f6d0c2b9a3e4d57", "secret": SECRET})

    id: str
    secret: str = Field(
        description="The receiver verifies signatures with it, with any library for Standard "
        "Webhooks."
    )


class LastFailure(BaseModel):
    """The last attempt that failed."""

    at: datetime
    detail: str


class EndpointShown(BaseModel):
    """An endpoint and its state."""

    model_config = _example(_ENDPOINT)

    id: str
    url: str
    types: list[LimitType]
    accounts: list[str] = Field(description="Empty: all of them.")
    description: str
    created_at: datetime
    state: EndpointState = Field(description="`failing`: every attempt has failed for a day.")
    disabled_because: str | None
    pending: int = Field(description="Deliveries that will be tried, or tried again.")
    dead: int = Field(
        description="Deliveries that were given up: list them with `state=dead`, and resend them."
    )
    secrets: int = Field(
        description="How many secrets sign: more than one while a rotation overlaps."
    )
    last_success_at: datetime | None
    last_failure: LastFailure | None


class EndpointList(BaseModel):
    """Every endpoint."""

    model_config = _example({"items": [_ENDPOINT]})

    items: list[EndpointShown]


class DeliveryShown(BaseModel):
    """The delivery of one event to one endpoint."""

    model_config = _example(_DELIVERY)

    id: str
    event_id: str
    type: str
    account: str = Field(description="Empty if it is a test.")
    state: State
    attempts: int
    last_status: int | None
    last_error: str | None
    next_attempt_at: datetime | None
    created_at: datetime


class DeliveryList(BaseModel):
    """A page of deliveries, the newest first."""

    model_config = _example({"items": [_DELIVERY], "next_cursor": None})

    items: list[DeliveryShown]
    next_cursor: str | None


@router.post(
    "/v1/webhooks",
    status_code=201,
    responses=problems(
        "id_reused_with_different_content",
        "conflict",
        "too_many_endpoints",
        "url_not_allowed",
        "not_ready",
        "malformed_request",
    ),
)
async def create_webhook(
    asked: NewEndpoint,
    endpoints: TheEndpoints,
    thread: TheStoreThread,
    destinations: TheDestinations,
    require_current_limits: RequireCurrentLimits,
    wake_webhooks: WakeWebhooks,
    now: TheClock,
    caller: MayAdminister,
    idempotency_key: IdempotencyKey = None,
) -> EndpointMade:
    """Deliver limit events that happen from now on to a URL, signed as Standard Webhooks.

    The secret is shown in this answer and never again. The body of a delivery is
    `{"type", "timestamp", "data"}`, with the CloudEvent as `data`. Answer with any 2xx within 15
    seconds. Every other answer is tried again, up to ten times over three days, and 410 Gone
    disables the endpoint. A delivery can come more than once, with the same `webhook-id`. Those of
    one account come in order, unless one had to be tried again: the greater `data.data.entry` is
    the later one.
    """
    _require_allowed_url(asked.url, destinations)
    require_current_limits()
    settings = EndpointSettings(
        asked.url,
        tuple(dict.fromkeys(asked.types)),
        tuple(dict.fromkeys(asked.accounts)),
        asked.description,
    )
    try:
        made = await thread.run(
            endpoints.create,
            settings,
            now(),
            caller=caller.key_id,
            idempotency_key=idempotency_key,
        )
    except TooManyEndpoints:
        raise Problem(
            "too_many_endpoints", f"there are {ENDPOINTS_MAX} webhook endpoints: delete one first"
        ) from None
    except MadeBefore as error:
        detail = (
            f"this Idempotency-Key made the endpoint {error.made_id}, whose secret was shown then: "
            "rotate its secret to get a new one"
        )
        raise Problem("conflict", detail, id=error.made_id) from None
    wake_webhooks()
    return EndpointMade(id=made.id, secret=made.secret)


@router.get("/v1/webhooks", responses=problems())
async def list_webhooks(
    endpoints: TheEndpoints,
    deliveries: TheDeliveries,
    thread: TheStoreThread,
    now: TheClock,
    caller: MayAdminister,
) -> EndpointList:
    """Every endpoint and its state, without secrets."""
    at = now()
    found = await thread.run(endpoints.all, at)
    counts = await thread.run(deliveries.counts)
    return EndpointList(
        items=[_endpoint_shown(endpoint, counts.get(endpoint.id), at) for endpoint in found]
    )


@router.get("/v1/webhooks/{endpoint_id:segment}", responses=problems("not_found"))
async def get_webhook(
    endpoint_id: EndpointId,
    endpoints: TheEndpoints,
    deliveries: TheDeliveries,
    thread: TheStoreThread,
    now: TheClock,
    caller: MayAdminister,
) -> EndpointShown:
    """One endpoint and its state."""
    return await thread.run(_endpoint_at, endpoints, deliveries, endpoint_id, now())


@router.patch(
    "/v1/webhooks/{endpoint_id:segment}",
    responses=problems("not_found", "malformed_request", "url_not_allowed"),
)
async def change_webhook(
    endpoint_id: EndpointId,
    asked: EndpointChange,
    endpoints: TheEndpoints,
    deliveries: TheDeliveries,
    thread: TheStoreThread,
    destinations: TheDestinations,
    wake_webhooks: WakeWebhooks,
    now: TheClock,
    caller: MayAdminister,
) -> EndpointShown:
    """Change an endpoint's URL, what it receives, or whether it is enabled.

    A disabled endpoint gets no new deliveries, and its pending ones stay pending.
    """
    if asked.url is not None:
        _require_allowed_url(asked.url, destinations)
    change = Change(
        url=asked.url,
        types=None if asked.types is None else tuple(dict.fromkeys(asked.types)),
        accounts=None if asked.accounts is None else tuple(dict.fromkeys(asked.accounts)),
        description=asked.description,
        is_enabled=asked.enabled,
    )
    try:
        await thread.run(endpoints.change, endpoint_id, change)
    except KeyError:
        raise _no_such_endpoint(endpoint_id) from None
    wake_webhooks()
    return await thread.run(_endpoint_at, endpoints, deliveries, endpoint_id, now())


@router.post(
    "/v1/webhooks/{endpoint_id:segment}/rotate",
    responses=problems("not_found", "malformed_request"),
)
async def rotate_webhook_secret(
    endpoint_id: EndpointId,
    asked: SecretRotation,
    endpoints: TheEndpoints,
    thread: TheStoreThread,
    now: TheClock,
    caller: MayAdminister,
) -> EndpointMade:
    """A new secret.

    Until the overlap has passed, deliveries are signed with both secrets, so that the receiver can
    change to the new one.
    """
    overlap = timedelta(seconds=asked.overlap_s)
    try:
        secret = await thread.run(endpoints.rotate, endpoint_id, overlap, now())
    except KeyError:
        raise _no_such_endpoint(endpoint_id) from None
    return EndpointMade(id=endpoint_id, secret=secret)


@router.delete(
    "/v1/webhooks/{endpoint_id:segment}", status_code=204, responses=problems("not_found")
)
async def delete_webhook(
    endpoint_id: EndpointId,
    endpoints: TheEndpoints,
    thread: TheStoreThread,
    wake_webhooks: WakeWebhooks,
    now: TheClock,
    caller: MayAdminister,
) -> Response:
    """Delete an endpoint and its deliveries."""
    await thread.run(_require_endpoint, endpoints, endpoint_id, now())
    await thread.run(endpoints.delete, endpoint_id)
    wake_webhooks()
    return Response(status_code=204)


@router.post(
    "/v1/webhooks/{endpoint_id:segment}/test",
    status_code=202,
    responses=problems("not_found", "conflict"),
)
async def test_webhook(
    endpoint_id: EndpointId,
    endpoints: TheEndpoints,
    deliveries: TheDeliveries,
    thread: TheStoreThread,
    wake_webhooks: WakeWebhooks,
    now: TheClock,
    caller: MayAdminister,
) -> DeliveryShown:
    """Send an endpoint an event of type `webhook.test`, once.

    Read the delivery to see what became of it.
    """
    endpoint = await thread.run(_require_endpoint, endpoints, endpoint_id, now())
    if endpoint.disabled_because is not None:
        raise Problem(
            "conflict",
            f"the endpoint is disabled ({endpoint.disabled_because}): enable it first",
        )
    try:
        delivery = await thread.run(deliveries.add_test, endpoint_id, now())
    except KeyError:
        raise _no_such_endpoint(endpoint_id) from None
    wake_webhooks()
    return _delivery_shown(delivery)


@router.get("/v1/webhooks/{endpoint_id:segment}/deliveries", responses=problems("not_found"))
async def list_deliveries(
    endpoint_id: EndpointId,
    endpoints: TheEndpoints,
    deliveries: TheDeliveries,
    thread: TheStoreThread,
    now: TheClock,
    caller: MayAdminister,
    state: Annotated[
        Literal["pending", "delivered", "dead"] | None,
        Query(description="Only those in this state."),
    ] = None,
    cursor: NumberCursor = None,
    limit: Limit = PAGE_DEFAULT,
) -> DeliveryList:
    """An endpoint's deliveries, the newest first.

    Delivered ones are kept for 7 days, dead ones for 35.
    """
    await thread.run(_require_endpoint, endpoints, endpoint_id, now())
    before = None if cursor is None else int(cursor)
    found = await thread.run(deliveries.newest, endpoint_id, state, before, limit + 1)
    next_cursor = str(found[limit - 1].number) if len(found) > limit else None
    return DeliveryList(
        items=[_delivery_shown(delivery) for delivery in found[:limit]], next_cursor=next_cursor
    )


@router.get(
    "/v1/webhooks/{endpoint_id:segment}/deliveries/{delivery_id:segment}",
    responses=problems("not_found"),
)
async def get_delivery(
    endpoint_id: EndpointId,
    delivery_id: DeliveryId,
    deliveries: TheDeliveries,
    thread: TheStoreThread,
    caller: MayAdminister,
) -> DeliveryShown:
    """One delivery."""
    delivery = await thread.run(deliveries.find, endpoint_id, delivery_id)
    if delivery is None:
        raise _no_such_delivery(endpoint_id, delivery_id)
    return _delivery_shown(delivery)


@router.post(
    "/v1/webhooks/{endpoint_id:segment}/deliveries/{delivery_id:segment}/resend",
    status_code=202,
    responses=problems("not_found"),
)
async def resend_delivery(
    endpoint_id: EndpointId,
    delivery_id: DeliveryId,
    deliveries: TheDeliveries,
    thread: TheStoreThread,
    wake_webhooks: WakeWebhooks,
    now: TheClock,
    caller: MayAdminister,
) -> DeliveryShown:
    """Send a delivery again at once, whatever its state; meant above all for dead ones.

    It keeps its `webhook-id`.
    """
    delivery = await thread.run(
        deliveries.send_again, endpoint_id, delivery_id, milliseconds(now())
    )
    if delivery is None:
        raise _no_such_delivery(endpoint_id, delivery_id)
    wake_webhooks()
    return _delivery_shown(delivery)


def _require_endpoint(endpoints: EndpointStore, endpoint_id: str, now: datetime) -> Endpoint:
    """The endpoint. Blocking. Raises Problem `not_found`."""
    endpoint = endpoints.find(endpoint_id, now)
    if endpoint is None:
        raise _no_such_endpoint(endpoint_id)
    return endpoint


def _endpoint_at(
    endpoints: EndpointStore, deliveries: DeliveryStore, endpoint_id: str, now: datetime
) -> EndpointShown:
    """The endpoint as the API shows it. Blocking. Raises Problem `not_found`."""
    endpoint = _require_endpoint(endpoints, endpoint_id, now)
    return _endpoint_shown(endpoint, deliveries.counts().get(endpoint_id), now)


def _endpoint_shown(endpoint: Endpoint, counts: Counts | None, now: datetime) -> EndpointShown:
    failed_at, failure = endpoint.last_failure_at, endpoint.last_failure
    return EndpointShown(
        id=endpoint.id,
        url=endpoint.url,
        types=list(endpoint.types),
        accounts=list(endpoint.accounts),
        description=endpoint.description,
        created_at=endpoint.created_at,
        state=endpoint.state_at(now),
        disabled_because=endpoint.disabled_because,
        pending=0 if counts is None else counts.pending,
        dead=0 if counts is None else counts.dead,
        secrets=len(endpoint.secrets),
        last_success_at=endpoint.last_success_at,
        last_failure=None if failed_at is None else LastFailure(at=failed_at, detail=failure or ""),
    )


def _delivery_shown(delivery: Delivery) -> DeliveryShown:
    return DeliveryShown(
        id=delivery.id,
        event_id=delivery.event_id,
        type=delivery.type,
        account=delivery.account,
        state=delivery.state,
        attempts=delivery.attempts,
        last_status=delivery.last_status,
        last_error=delivery.last_error,
        next_attempt_at=None
        if delivery.next_attempt_ms is None
        else _moment(max(delivery.next_attempt_ms, delivery.created_ms)),
        created_at=_moment(delivery.created_ms),
    )


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds // 1_000, UTC) + timedelta(
        milliseconds=milliseconds % 1_000
    )


def _require_allowed_url(url: str, destinations: Destinations) -> None:
    try:
        check_url(url, destinations)
    except NotAllowed as error:
        raise Problem("url_not_allowed", f"body/url: {error}") from None


def _no_such_endpoint(endpoint_id: str) -> Problem:
    return Problem(
        "not_found", f"there is no webhook endpoint {endpoint_id!r}: GET /v1/webhooks lists them"
    )


def _no_such_delivery(endpoint_id: str, delivery_id: str) -> Problem:
    return Problem(
        "not_found",
        f"there is no delivery {delivery_id!r} to {endpoint_id!r}: GET "
        f"/v1/webhooks/{endpoint_id}/deliveries lists them",
    )
