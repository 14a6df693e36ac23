"""App keys with scopes, and the account tokens that an app mints with its key.

A key is ``ulk_<id>_<secret>``. Two values derived from the secret are stored: its SHA-256, which
recognizes the key, and the key that verifies account tokens. Someone who reads the database
therefore has no key and no session, but can mint account tokens. So the file can be read by nobody
else on the machine, and a backup of it is a secret.

An account token is a JWT (HS256) that names one account, some scopes and an end. It works on that
account's paths alone. Rotating a key ends the tokens made with its old secret.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
import threading
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

import jwt

from usageledger.counters.holding import Holder
from usageledger.gateway.access.key_bounds import UNBOUND, KeyBounds
from usageledger.gateway.idempotency import make_once
from usageledger.gateway.store import transaction
from usageledger.sdk.scopes import SCOPES, TOKEN_SCOPES, Scope, TokenScope, checked_scopes
from usageledger.sdk.tokens import (
    ALGORITHM,
    AUDIENCE,
    LIFETIME_MAX,
    new_key,
    signed_account_token,
    split_key,
    token_key,
)

KEYS_MAX = 1_000
"""How many keys may work at once. They are kept in memory."""
_LEEWAY_S = 5


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request.

    ``account`` is the account of an account token, None for a key. A token reaches the paths of its
    account and nothing else. ``bounds`` are those of the key, also for its tokens and sessions.
    """

    key_id: str
    scopes: frozenset[Scope]
    account: str | None = None
    bounds: KeyBounds = UNBOUND

    @property
    def holder(self) -> Holder:
        """The holder of the holds that this caller places."""
        return f"{'key' if self.account is None else 'token'}:{self.key_id}"

    @property
    def holders(self) -> tuple[Holder, ...] | None:
        """Whose holds this caller may release: its own, and a key those of its tokens.

        None for anybody's.
        """
        if self.may("admin"):
            return None
        return (self.holder,) if self.account is not None else (self.holder, f"token:{self.key_id}")

    def may(self, scope: Scope) -> bool:
        """Whether the caller has this scope. ``admin`` includes every scope."""
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True, slots=True)
class AppKey:
    """A key as it is listed, without its secret. ``number`` counts keys in the order of making."""

    number: int
    id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    revoked_at: datetime | None
    bounds: KeyBounds
    secrets: tuple[tuple[datetime, datetime | None], ...]
    """When each working secret was made, and when it ends (None: never).

    Two while a rotation overlaps.
    """


class NotAuthentic(Exception):
    """A key or token that is unknown, has ended, or is malformed. The message does not repeat it.

    ``is_guess``: it may have been invented. A correctly signed token that has ended was not.
    """

    def __init__(self, message: str, *, is_guess: bool = True) -> None:
        super().__init__(message)
        self.is_guess = is_guess


class TooManyKeys(Exception):
    """KEYS_MAX keys work already."""


class BoundAdmin(Exception):
    """A key with bounds cannot have the scope ``admin``: it could make a key without them."""


class Keys:
    """The app keys in ``gateway.db``.

    Working keys are kept in memory, because every request needs them. One process writes the keys.
    """

    def __init__(self, store: sqlite3.Connection, turn: threading.Lock) -> None:
        self._store = store
        self._turn = turn
        self._by_id: dict[str, _Known] = {}
        self._load()

    def caller(self, credential: str, now: datetime) -> Caller:
        """The caller with this key or account token. Raises NotAuthentic."""
        return (
            self.caller_with_digest(credential, now)[0]
            if credential.startswith("ulk_")
            else self._caller_by_token(credential, now)
        )

    def caller_with_digest(self, key: str, now: datetime) -> tuple[Caller, bytes]:
        """The caller with this key, and the digest of its secret. Raises NotAuthentic."""
        try:
            key_id, secret = split_key(key)
        except ValueError as error:
            raise NotAuthentic(str(error)) from None
        digest = _digest(secret)
        return self.caller_of_secret(key_id, digest, now), digest

    def caller_of_secret(self, key_id: str, digest: bytes, now: datetime) -> Caller:
        """The caller whose key has a secret with this digest, if it works. Raises NotAuthentic."""
        known = self._by_id.get(key_id)
        for kept in () if known is None else known.secrets:
            if hmac.compare_digest(kept.digest, digest) and kept.works_at(now):
                assert known is not None
                return Caller(key_id, known.scopes, bounds=known.bounds)
        raise NotAuthentic(
            "the key is unknown here, was revoked, or has been rotated: use another one"
        )

    def new_account_token(
        self,
        caller: Caller,
        account: str,
        scopes: Collection[TokenScope],
        lifetime: timedelta,
        now: datetime,
    ) -> str:
        """An account token made with this caller's key. Raises NotAuthentic.

        `mint_account_token` makes the same from the key itself.
        """
        known = self._by_id.get(caller.key_id)
        if known is None:
            raise NotAuthentic("the key was revoked")
        ordered = checked_scopes(scopes, TOKEN_SCOPES, "an account token")
        return signed_account_token(
            caller.key_id, known.secrets[-1].token_key, account, ordered, lifetime, now
        )

    def create(
        self,
        name: str,
        scopes: Collection[Scope],
        now: datetime,
        *,
        bounds: KeyBounds = UNBOUND,
        by: str = "",
        idempotency_key: str | None = None,
    ) -> str:
        """Make a key and return it. It cannot be read again.

        ``by`` is the id of the caller's key. If that caller sends the same request twice under one
        idempotency key, the second makes no key.

        Raises BoundAdmin, TooManyKeys, MadeBefore and KeyUsedBefore, and ValueError for an unknown
        scope or none.
        """
        if bounds.is_bound and "admin" in scopes:
            raise BoundAdmin
        listed = checked_scopes(scopes, SCOPES, "a key")
        key, request = new_key(), [name, sorted(listed), asdict(bounds)]
        with transaction(self._store, self._turn) as store:
            if len(self._by_id) >= KEYS_MAX:
                raise TooManyKeys
            if idempotency_key is not None:
                make_once(store, by, idempotency_key, request, split_key(key)[0], now)
            _add(store, key, name, listed, bounds, now)
        self._load()
        return key

    def ensure(self, key: str, name: str, now: datetime) -> bool:
        """Add a key that was made elsewhere, with every scope; return whether it works.

        A revoked key stays revoked, and a secret that was rotated away never works again: either
        may have leaked. Raises ValueError for a malformed key.
        """
        key_id, secret = split_key(key)
        with transaction(self._store, self._turn) as store:
            revoked = store.execute(
                "SELECT revoked_at FROM keys WHERE id = ?", (key_id,)
            ).fetchone()
            known = store.execute(
                "SELECT expires_at FROM key_secrets WHERE key_id = ? AND digest = ?",
                (key_id, _digest(secret)),
            ).fetchone()
            if revoked is not None and revoked[0] is not None:
                return False
            if known is not None:
                return known[0] is None or now < _time_of(known[0])
            if revoked is None:
                _add(store, key, name, ("admin",), UNBOUND, now)
            else:
                _add_secret(store, key, now)
        self._load()
        return True

    def rotate(self, key_id: str, overlap: timedelta, now: datetime) -> str:
        """Return a key with a new secret; the old secrets work for ``overlap`` longer.

        Raises KeyError if there is no such key, or it was revoked.
        """
        if key_id not in self._by_id:
            raise KeyError(key_id)
        key, ends = new_key(key_id), _iso_text(now + overlap)
        with transaction(self._store, self._turn) as store:
            # The digest stays: it shows that a secret was rotated away, if it is still configured.
            store.execute(
                "UPDATE key_secrets SET token_key = x'' WHERE key_id = ? AND expires_at <= ?",
                (key_id, _iso_text(now)),
            )
            query = (
                "UPDATE key_secrets SET expires_at = ? WHERE key_id = ? AND (expires_at IS NULL OR "
                "expires_at > ?)"
            )
            store.execute(query, (ends, key_id, ends))
            _add_secret(store, key, now)
        self._load()
        return key

    def revoke(self, key_id: str, now: datetime) -> None:
        """End a key and its tokens at once. Raises KeyError if no such key works."""
        if key_id not in self._by_id:
            raise KeyError(key_id)
        with transaction(self._store, self._turn) as store:
            store.execute("UPDATE keys SET revoked_at = ? WHERE id = ?", (_iso_text(now), key_id))
            store.execute("DELETE FROM key_secrets WHERE key_id = ?", (key_id,))
        self._load()

    def page(self, after: int, limit: int) -> list[AppKey]:
        """Up to ``limit`` keys with numbers above ``after``, the oldest first, revoked ones too."""
        query = (
            "SELECT rowid, id, name, scopes, created_at, revoked_at, sources, accounts, "
            "events_per_second FROM keys WHERE rowid > ? ORDER BY rowid LIMIT ?"
        )
        with self._turn:
            rows = self._store.execute(query, (after, limit)).fetchall()
        return [
            AppKey(
                number,
                key_id,
                name,
                _scopes(scopes),
                _time_of(made),
                None if revoked is None else _time_of(revoked),
                _bounds(*bounds),
                self._secrets_of(key_id),
            )
            for number, key_id, name, scopes, made, revoked, *bounds in rows
        ]

    def _caller_by_token(self, token: str, now: datetime) -> Caller:
        try:
            key_id = str(jwt.get_unverified_header(token).get("kid"))
        except jwt.PyJWTError:
            raise NotAuthentic(
                "that is neither a key (ulk_…) nor a token: send one of them"
            ) from None
        known = self._by_id.get(key_id)
        for kept in () if known is None else known.secrets:
            if kept.works_at(now) and (claims := _signed_claims(token, kept.token_key)) is not None:
                assert known is not None
                if not _is_valid_at(claims, now):
                    raise NotAuthentic(
                        "the token has ended, or would last too long: mint another one",
                        is_guess=False,
                    )
                return _caller_by_claims(claims, key_id, known)
        raise NotAuthentic(
            "the token was not made with a working key of this gateway: mint another one"
        )

    def _secrets_of(self, key_id: str) -> tuple[tuple[datetime, datetime | None], ...]:
        known = self._by_id.get(key_id)
        return (
            ()
            if known is None
            else tuple((kept.created_at, kept.expires_at) for kept in known.secrets)
        )

    def _load(self) -> None:
        with self._turn:
            keys = self._store.execute(
                "SELECT id, scopes, sources, accounts, events_per_second FROM keys "
                "WHERE revoked_at IS NULL"
            ).fetchall()
            query = (
                "SELECT key_id, digest, token_key, created_at, expires_at FROM key_secrets WHERE "
                "token_key != x'' ORDER BY created_at"
            )
            rows = self._store.execute(query)
            kept = [
                (
                    row[0],
                    _Secret(
                        row[1],
                        row[2],
                        _time_of(row[3]),
                        None if row[4] is None else _time_of(row[4]),
                    ),
                )
                for row in rows
            ]
        self._by_id = {
            key_id: _Known(
                frozenset(_scopes(scopes)),
                _bounds(*bounds),
                tuple(secret for of, secret in kept if of == key_id),
            )
            for key_id, scopes, *bounds in keys
        }


@dataclass(frozen=True, slots=True)
class _Secret:
    digest: bytes
    token_key: bytes
    created_at: datetime
    expires_at: datetime | None

    def works_at(self, now: datetime) -> bool:
        return self.expires_at is None or now < self.expires_at


@dataclass(frozen=True, slots=True)
class _Known:
    scopes: frozenset[Scope]
    bounds: KeyBounds
    secrets: tuple[_Secret, ...]


def _add(
    store: sqlite3.Connection,
    key: str,
    name: str,
    scopes: tuple[Scope, ...],
    bounds: KeyBounds,
    now: datetime,
) -> None:
    store.execute(
        "INSERT INTO keys VALUES (?, ?, ?, ?, NULL, ?, ?, ?)",
        (
            split_key(key)[0],
            name,
            " ".join(scopes),
            _iso_text(now),
            json.dumps(bounds.sources),
            json.dumps(bounds.accounts),
            bounds.events_per_second,
        ),
    )
    _add_secret(store, key, now)


def _add_secret(store: sqlite3.Connection, key: str, now: datetime) -> None:
    key_id, secret = split_key(key)
    store.execute(
        "INSERT INTO key_secrets VALUES (?, ?, ?, ?, NULL)",
        (key_id, _digest(secret), token_key(secret), _iso_text(now)),
    )


def _signed_claims(token: str, key: bytes) -> dict[str, object] | None:
    """The claims of a token, None unless it was made with this key."""
    try:
        claims: dict[str, object] = jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            # Times are checked by `_is_valid_at`, because the time is an argument.
            options={
                "require": ["exp", "iat", "sub", "aud"],
                "verify_exp": False,
                "verify_iat": False,
            },
        )
    except jwt.PyJWTError:
        return None
    return claims


def _is_valid_at(claims: dict[str, object], now: datetime) -> bool:
    """Whether a token works at that time, and does not last longer than allowed."""
    begins, ends = claims["iat"], claims["exp"]
    if not isinstance(begins, (int, float)) or not isinstance(ends, (int, float)):
        return False
    is_short = ends - begins <= LIFETIME_MAX.total_seconds()
    return is_short and begins - _LEEWAY_S <= now.timestamp() < ends + _LEEWAY_S


def _caller_by_claims(claims: dict[str, object], key_id: str, known: _Known) -> Caller:
    of_key = known.scopes
    asked = set(str(claims.get("scope", "read")).split())
    given: set[Scope] = {
        scope for scope in TOKEN_SCOPES if scope in asked and (scope in of_key or "admin" in of_key)
    }
    return Caller(key_id, frozenset(given), str(claims["sub"]), known.bounds)


def _scopes(listed: str) -> tuple[Scope, ...]:
    return tuple(cast(Scope, scope) for scope in listed.split())


def _bounds(sources: str, accounts: str, events_per_second: int | None) -> KeyBounds:
    return KeyBounds(
        sources=tuple(json.loads(sources)),
        accounts=tuple(json.loads(accounts)),
        events_per_second=events_per_second,
    )


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _iso_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _time_of(text: str) -> datetime:
    return datetime.fromisoformat(text)
