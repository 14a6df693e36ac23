"""Routes: app keys, account tokens, and the pages' session."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    WithJsonSchema,
)
from pydantic.config import JsonDict

from usageledger.contracts.fields import NAME_SCHEMA
from usageledger.gateway.access.app_keys import (
    KEYS_MAX,
    AppKey,
    BoundAdmin,
    NotAuthentic,
    TooManyKeys,
)
from usageledger.gateway.access.credentials import (
    SESSION_COOKIE,
    caller_of_session,
    origin_of,
    refuse_or_count,
)
from usageledger.gateway.access.key_bounds import (
    EVENTS_PER_SECOND_MAX,
    PATTERNS_MAX,
    KeyBounds,
    checked_pattern,
)
from usageledger.gateway.access.sessions import SESSION_LIFETIME
from usageledger.gateway.cursors import PAGE_DEFAULT, Limit, NumberCursor
from usageledger.gateway.dependencies import (
    AccountPath,
    MayAdminister,
    MayRead,
    TheClock,
    TheKeys,
    TheRateLimits,
    TheSessions,
    TheStoreThread,
)
from usageledger.gateway.idempotency import IdempotencyKey, MadeBefore
from usageledger.gateway.problems import Problem, problems
from usageledger.sdk.scopes import SCOPES, TOKEN_SCOPES, Scope, TokenScope
from usageledger.sdk.tokens import LIFETIME_MAX

router = APIRouter(tags=["keys"])

OVERLAP_MAX_S = 30 * 86_400


_KEY_EXAMPLE: JsonDict = {
    "id": "0a1b2c3d",
    "name": "render service",
    "scopes": ["check", "hold"],
    "sources": ["/render"],
    "accounts": ["acct_eu_*"],
    "events_per_second": None,
    "created_at": "2026-11-25T10:00:00Z",
    "revoked_at": None,
    "secrets": [{"created_at": "2026-11-25T10:00:00Z", "expires_at": None}],
}


KeyId = Annotated[
    str, Path(description="The key's id: the part between the underscores.", examples=["0a1b2c3d"])
]


Pattern = Annotated[
    str,
    AfterValidator(checked_pattern),
    WithJsonSchema(
        NAME_SCHEMA
        | {
            "allOf": [{"pattern": r"^[^*]*\*?$"}],
            "description": "A whole name, or a prefix and a final `*`.",
            "examples": ["acct_eu_*"],
        }
    ),
]


class NewKey(BaseModel):
    """A key to make, and what its holder may do."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"name": "render service", "scopes": ["check", "hold"]},
                {
                    "name": "render service in the EU",
                    "scopes": ["report", "hold"],
                    "sources": ["/render"],
                    "accounts": ["acct_eu_*"],
                    "events_per_second": 500,
                },
            ]
        },
    )

    name: str = Field(
        min_length=1, max_length=100, description="Which service uses it, for people."
    )
    scopes: list[Scope] = Field(min_length=1, max_length=5)
    sources: list[Pattern] = Field(
        default=[],
        max_length=PATTERNS_MAX,
        description="Which sources it may report for. Empty: all.",
    )
    accounts: list[Pattern] = Field(
        default=[],
        max_length=PATTERNS_MAX,
        description="Which accounts it, and the tokens made with it, may act for. Empty: all.",
    )
    events_per_second: int | None = Field(
        default=None,
        ge=1,
        le=EVENTS_PER_SECOND_MAX,
        description="How many events it may report in a second; null: no quota.",
    )

    @property
    def bounds(self) -> KeyBounds:
        """The bounds of the key."""
        return KeyBounds(
            sources=tuple(self.sources),
            accounts=tuple(self.accounts),
            events_per_second=self.events_per_second,
        )


class Rotation(BaseModel):
    """For how long the old secret keeps working."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"overlap_s": 86400}]}
    )

    overlap_s: int = Field(default=86_400, ge=0, le=OVERLAP_MAX_S, description="In seconds.")


class KeyMade(BaseModel):
    """A key with its secret, which is shown only in this answer."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": "0a1b2c3d", "key": "ulk_0a1b2c3d_…"}]}
    )

    id: str
    key: str = Field(description="Send it as `Authorization: Bearer …`.")


class SecretShown(BaseModel):
    """When a secret of a key was made, and until when it works."""

    created_at: datetime
    expires_at: datetime | None


class KeyShown(BaseModel):
    """A key without its secrets."""

    id: str
    name: str
    scopes: list[Scope]
    sources: list[str] = Field(description="The sources that it is bound to. Empty: all.")
    accounts: list[str] = Field(description="The accounts that it is bound to. Empty: all.")
    events_per_second: int | None
    created_at: datetime
    revoked_at: datetime | None
    secrets: list[SecretShown] = Field(
        description="The working ones: two while a rotation overlaps."
    )


class KeyList(BaseModel):
    """A page of keys, also of revoked ones."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [_KEY_EXAMPLE], "next_cursor": None}]}
    )

    items: list[KeyShown]
    next_cursor: str | None


class NewAccountToken(BaseModel):
    """An account token to mint: what it allows, and for how many seconds."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"expires_in": 900, "scopes": ["read"]}]}
    )

    expires_in: int = Field(default=900, ge=1, le=int(LIFETIME_MAX.total_seconds()))
    scopes: list[TokenScope] = Field(
        default=["read"],
        min_length=1,
        max_length=len(TOKEN_SCOPES),
        description="A part of the key's own scopes. Other scopes open no path of an account.",
    )


class AccountToken(BaseModel):
    """A token that gives access to one account and nothing else."""

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
    """Whether a browser is signed in to our pages, and with which scopes."""

    is_signed_in: bool
    scopes: list[Scope]


class SignIn(BaseModel):
    """A key to sign in with."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"key": "ulk_0a1b2c3d_…"}]}
    )

    key: SecretStr


@router.post(
    "/v1/keys",
    status_code=201,
    responses=problems(
        "bound_admin", "conflict", "id_reused_with_different_content", "too_many_keys"
    ),
)
async def create_key(
    asked: NewKey,
    keys: TheKeys,
    thread: TheStoreThread,
    now: TheClock,
    caller: MayAdminister,
    idempotency_key: IdempotencyKey = None,
) -> KeyMade:
    """Make a key. Its secret is shown in this answer and never again.

    A key with `sources` or `accounts` works for these alone, and so do the tokens made with it.
    """
    try:
        key = await thread.run(
            keys.create,
            asked.name,
            asked.scopes,
            now(),
            bounds=asked.bounds,
            by=caller.key_id,
            idempotency_key=idempotency_key,
        )
    except TooManyKeys:
        raise Problem(
            "too_many_keys", f"there are {KEYS_MAX} working keys already: revoke one first"
        ) from None
    except BoundAdmin:
        raise Problem(
            "bound_admin",
            "a key with the scope 'admin' could make a key without bounds: leave out 'admin', or "
            "leave out the sources and accounts",
        ) from None
    except MadeBefore as error:
        detail = (
            f"this Idempotency-Key made the key {error.made_id}, whose secret was shown then and "
            "is not kept: rotate the key to get a new secret"
        )
        raise Problem("conflict", detail, id=error.made_id) from None
    return KeyMade(id=key.split("_")[1], key=key)


@router.get("/v1/keys", responses=problems())
async def list_keys(
    keys: TheKeys,
    thread: TheStoreThread,
    caller: MayAdminister,
    cursor: NumberCursor = None,
    limit: Limit = PAGE_DEFAULT,
) -> KeyList:
    """All keys, also the revoked ones, the oldest first, without secrets."""
    found = await thread.run(keys.page, int(cursor or 0), limit + 1)
    next_cursor = str(found[limit - 1].number) if len(found) > limit else None
    return KeyList(items=[_key_shown(key) for key in found[:limit]], next_cursor=next_cursor)


@router.post("/v1/keys/{key_id:segment}/rotate", responses=problems("not_found"))
async def rotate_key(
    key_id: KeyId,
    asked: Rotation,
    keys: TheKeys,
    thread: TheStoreThread,
    now: TheClock,
    caller: MayAdminister,
) -> KeyMade:
    """A new secret for a key. The old one keeps working for a while, so that clients can change."""
    overlap = timedelta(seconds=asked.overlap_s)
    try:
        key = await thread.run(keys.rotate, key_id, overlap, now())
    except KeyError:
        raise _no_such_key(key_id) from None
    return KeyMade(id=key_id, key=key)


@router.post("/v1/keys/{key_id:segment}/revoke", status_code=204, responses=problems("not_found"))
async def revoke_key(
    key_id: KeyId, keys: TheKeys, thread: TheStoreThread, now: TheClock, caller: MayAdminister
) -> Response:
    """End a key, and every account token minted with it, at once."""
    try:
        await thread.run(keys.revoke, key_id, now())
    except KeyError:
        raise _no_such_key(key_id) from None
    return Response(status_code=204)


@router.post("/v1/accounts/{account:segment}/tokens", status_code=201, responses=problems())
async def mint_token(
    account: AccountPath,
    asked: NewAccountToken,
    keys: TheKeys,
    now: TheClock,
    caller: MayRead,
) -> AccountToken:
    """Mint a short-lived token for one account's browser.

    `<usage-meter>` gets its token from your backend. Your backend can also make one from its key
    without a request: with `usageledger.mint_account_token`, or with any JWT library.
    """
    if caller.account is not None:
        raise Problem(
            "forbidden",
            "an account token cannot make another one, or it would never end: use an app key here",
        )
    lacking = sorted(scope for scope in asked.scopes if not caller.may(scope))
    if lacking:
        raise Problem(
            "forbidden",
            f"the key itself lacks the scope {lacking[0]!r}: use a key that has it",
            scope=lacking[0],
        )
    begins, lifetime = now().replace(microsecond=0), timedelta(seconds=asked.expires_in)
    token = keys.new_account_token(caller, account, asked.scopes, lifetime, begins)
    return AccountToken(account=account, token=token, expires_at=begins + lifetime)


@router.get("/session", include_in_schema=False)
async def show_session(request: Request, sessions: TheSessions, now: TheClock) -> SessionShown:
    """Whether this browser is signed in: our pages ask, and show the sign-in form if it is not."""
    try:
        caller = caller_of_session(request, sessions, now())
    except NotAuthentic:
        return SessionShown(is_signed_in=False, scopes=[])
    return SessionShown(is_signed_in=True, scopes=[scope for scope in SCOPES if caller.may(scope)])


@router.post("/session", status_code=204, include_in_schema=False)
async def sign_in(
    asked: SignIn,
    request: Request,
    sessions: TheSessions,
    thread: TheStoreThread,
    rate_limits: TheRateLimits,
    now: TheClock,
) -> Response:
    """Begin a session of our own pages.

    The browser keeps a cookie that scripts cannot read, and not the key.
    """
    origin = origin_of(request)
    try:
        session = await thread.run(sessions.begin, asked.key.get_secret_value(), origin, now())
    except NotAuthentic as error:
        refuse_or_count(rate_limits, request.scope, error)
        raise Problem("unauthenticated", str(error)) from None
    response = Response(status_code=204)
    response.set_cookie(
        SESSION_COOKIE,
        session,
        httponly=True,
        samesite="strict",
        secure=origin.startswith("https://"),
        max_age=int(SESSION_LIFETIME.total_seconds()),
    )
    return response


@router.delete("/session", status_code=204, include_in_schema=False)
async def sign_out(request: Request, sessions: TheSessions, thread: TheStoreThread) -> Response:
    """End the session at once, wherever its cookie is."""
    origin_of(request)
    if (session := request.cookies.get(SESSION_COOKIE)) is not None:
        await thread.run(sessions.end, session)
    response = Response(status_code=204)
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
    return response


def _key_shown(key: AppKey) -> KeyShown:
    return KeyShown(
        id=key.id,
        name=key.name,
        scopes=list(key.scopes),
        sources=list(key.bounds.sources),
        accounts=list(key.bounds.accounts),
        events_per_second=key.bounds.events_per_second,
        created_at=key.created_at,
        revoked_at=key.revoked_at,
        secrets=[
            SecretShown(created_at=created_at, expires_at=expires_at)
            for created_at, expires_at in key.secrets
        ],
    )


def _no_such_key(key_id: str) -> Problem:
    return Problem("not_found", f"no key {key_id!r} works here: GET /v1/keys lists the keys")
