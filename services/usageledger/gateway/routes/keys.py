"""Routes: app keys, account tokens, and the pages' session."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic.config import JsonDict

from usageledger.gateway.access.app_keys import (
    KEYS_MAX,
    SCOPES,
    SESSION_LIFETIME,
    AppKey,
    Caller,
    MadeBefore,
    NotAuthentic,
    Scope,
    TooManyKeys,
)
from usageledger.gateway.cursors import PAGE_DEFAULT, Limit, NumberCursor
from usageledger.gateway.dependencies import (
    SESSION_COOKIE,
    AccountPath,
    Needs,
    Parts,
    refuse_or_count,
)
from usageledger.gateway.idempotency import IdempotencyKey
from usageledger.gateway.problems import Problem, problems
from usageledger.sdk.tokens import LIFETIME_MAX

router = APIRouter(tags=["keys"])

OVERLAP_MAX_S = 30 * 86_400

TokenScope = Literal["report", "check", "hold", "read"]

_KEY_EXAMPLE: JsonDict = {
    "id": "0a1b2c3d",
    "name": "render service",
    "scopes": ["check", "hold"],
    "created_at": "2026-11-25T10:00:00Z",
    "revoked_at": None,
    "secrets": [{"created_at": "2026-11-25T10:00:00Z", "expires_at": None}],
}


KeyId = Annotated[
    str, Path(description="The key's id, which is a part of it.", examples=["0a1b2c3d"])
]


class NewKey(BaseModel):
    """What a key is to be able to do."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "render service", "scopes": ["check", "hold"]}]},
    )

    name: str = Field(min_length=1, max_length=100, description="Who uses it; for people.")
    scopes: list[Scope] = Field(min_length=1, max_length=5)


class Rotation(BaseModel):
    """For how long the old secret works on."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"overlap_s": 86400}]}
    )

    overlap_s: int = Field(default=86_400, ge=0, le=OVERLAP_MAX_S)


class KeyMade(BaseModel):
    """A key with its secret: shown this once."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": "0a1b2c3d", "key": "ulk_0a1b2c3d_…"}]}
    )

    id: str
    key: str = Field(description="Send it as `Authorization: Bearer …`.")


class SecretShown(BaseModel):
    """A secret of a key, without the secret."""

    created_at: datetime
    expires_at: datetime | None


class KeyShown(BaseModel):
    """A key without its secrets."""

    id: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    revoked_at: datetime | None
    secrets: list[SecretShown] = Field(
        description="Those that work: two while a rotation overlaps."
    )


class KeyList(BaseModel):
    """Some of the keys that there have been."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [_KEY_EXAMPLE], "next_cursor": None}]}
    )

    items: list[KeyShown]
    next_cursor: str | None


class NewAccountToken(BaseModel):
    """What an account token is to be able to do, and for how long."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"expires_in": 900, "scopes": ["read"]}]}
    )

    expires_in: int = Field(default=900, ge=1, le=int(LIFETIME_MAX.total_seconds()))
    scopes: list[TokenScope] = Field(
        default=["read"], min_length=1, max_length=4, description="Of the key's own; never `admin`."
    )


class AccountToken(BaseModel):
    """A token that reaches one account and nothing else."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"account": "acct_4821", "token": "eyJ…", "expires_at": "2026-11-25T10:15:00Z"}
            ]
        }
    )

    account: str
    token: str = Field(description="For the account's browser: `Authorization: Bearer …`.")
    expires_at: datetime


class SessionShown(BaseModel):
    """Whether somebody is signed in to our pages, and what they may do."""

    is_signed_in: bool
    scopes: list[Scope]


class SignIn(BaseModel):
    """A key, to open the console with."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"key": "ulk_0a1b2c3d_…"}]}
    )

    key: SecretStr


@router.post(
    "/v1/keys",
    status_code=201,
    responses=problems("conflict", "id_reused_with_different_content", "too_many_keys"),
)
async def create_key(
    asked: NewKey,
    gateway: Parts,
    caller: Annotated[Caller, Depends(Needs("admin"))],
    idempotency_key: IdempotencyKey = None,
) -> KeyMade:
    """Make a key. Its secret is shown in this answer and never again."""
    create, by = gateway.keys.create, caller.key_id
    try:
        key = await gateway.store_thread.run(
            create, asked.name, asked.scopes, gateway.now(), by=by, idempotency_key=idempotency_key
        )
    except TooManyKeys:
        raise Problem("too_many_keys", f"{KEYS_MAX} keys work: revoke one first") from None
    except MadeBefore as error:
        detail = (
            f"this Idempotency-Key made the key {error.key_id}, whose secret is not kept: rotate "
            "it to get one"
        )
        raise Problem("conflict", detail, id=error.key_id) from None
    return KeyMade(id=key.split("_")[1], key=key)


@router.get("/v1/keys", responses=problems())
async def list_keys(
    gateway: Parts,
    caller: Annotated[Caller, Depends(Needs("admin"))],
    cursor: NumberCursor = None,
    limit: Limit = PAGE_DEFAULT,
) -> KeyList:
    """Keys that there have been, the oldest first, without secrets."""
    found = await gateway.store_thread.run(gateway.keys.listed, int(cursor or 0), limit + 1)
    next_cursor = str(found[limit - 1].number) if len(found) > limit else None
    return KeyList(items=[_shown(key) for key in found[:limit]], next_cursor=next_cursor)


@router.post("/v1/keys/{key_id:segment}/rotate", responses=problems("not_found"))
async def rotate_key(
    key_id: KeyId,
    asked: Rotation,
    gateway: Parts,
    caller: Annotated[Caller, Depends(Needs("admin"))],
) -> KeyMade:
    """A new secret for a key; the old one works on for a while, so that its users can change
    over.
    """
    try:
        overlap = timedelta(seconds=asked.overlap_s)
        return KeyMade(
            id=key_id,
            key=await gateway.store_thread.run(gateway.keys.rotate, key_id, overlap, gateway.now()),
        )
    except KeyError:
        raise _no_such_key(key_id) from None


@router.post("/v1/keys/{key_id:segment}/revoke", status_code=204, responses=problems("not_found"))
async def revoke_key(
    key_id: KeyId, gateway: Parts, caller: Annotated[Caller, Depends(Needs("admin"))]
) -> Response:
    """End a key, and every account token minted with it, at once."""
    try:
        await gateway.store_thread.run(gateway.keys.revoke, key_id, gateway.now())
    except KeyError:
        raise _no_such_key(key_id) from None
    return Response(status_code=204)


@router.post("/v1/accounts/{account:segment}/tokens", status_code=201, responses=problems())
async def mint_token(
    account: AccountPath,
    asked: NewAccountToken,
    gateway: Parts,
    caller: Annotated[Caller, Depends(Needs("read"))],
) -> AccountToken:
    """Mint a short-lived token for one account's browser: what `<usage-meter>` asks your backend
    for.

    `usageledger.mint_account_token`, or any JWT library, makes the same from a key,
    without asking.
    """
    if caller.account is not None:
        raise Problem(
            "forbidden",
            "an account token makes no other one: its end would be no end. Use an app key here",
        )
    lacking = sorted(scope for scope in asked.scopes if not caller.may(scope))
    if lacking:
        raise Problem(
            "forbidden",
            f"the key itself has not the scope {lacking[0]!r}: use one that has it",
            scope=lacking[0],
        )
    now, lifetime = gateway.now().replace(microsecond=0), timedelta(seconds=asked.expires_in)
    token = gateway.keys.new_account_token(caller, account, asked.scopes, lifetime, now)
    return AccountToken(account=account, token=token, expires_at=now + lifetime)


@router.get("/session", include_in_schema=False)
async def show_session(request: Request, gateway: Parts) -> SessionShown:
    """Whether the pages are signed in: they ask first, and a stranger is shown the form."""
    session = request.cookies.get(SESSION_COOKIE)
    if session is None:
        return SessionShown(is_signed_in=False, scopes=[])
    try:
        caller = gateway.keys.caller_of_session(session, gateway.now())
    except NotAuthentic:
        return SessionShown(is_signed_in=False, scopes=[])
    return SessionShown(is_signed_in=True, scopes=[scope for scope in SCOPES if caller.may(scope)])


@router.post("/session", status_code=204, include_in_schema=False)
async def sign_in(asked: SignIn, request: Request, gateway: Parts) -> Response:
    """Begin a session of our own pages: the browser keeps a cookie that scripts cannot read, and no
    key.
    """
    try:
        session = gateway.keys.new_session(asked.key.get_secret_value(), gateway.now())
    except NotAuthentic as error:
        refuse_or_count(gateway, request, error)
        raise Problem("unauthenticated", str(error)) from None
    response = Response(status_code=204)
    is_secure = request.url.scheme == "https"
    response.set_cookie(
        SESSION_COOKIE,
        session,
        httponly=True,
        samesite="strict",
        secure=is_secure,
        max_age=int(SESSION_LIFETIME.total_seconds()),
    )
    return response


@router.delete("/session", status_code=204, include_in_schema=False)
async def sign_out() -> Response:
    """End the session."""
    response = Response(status_code=204)
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
    return response


def _shown(key: AppKey) -> KeyShown:
    return KeyShown(
        id=key.id,
        name=key.name,
        scopes=list(key.scopes),
        created_at=key.created_at,
        revoked_at=key.revoked_at,
        secrets=[SecretShown(created_at=made, expires_at=ends) for made, ends in key.secrets],
    )


def _no_such_key(key_id: str) -> Problem:
    return Problem("not_found", f"there is no key {key_id!r} that works: GET /v1/keys lists them")
