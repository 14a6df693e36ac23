"""Account tokens: with one, a browser sees one account and nothing else.

An app's backend mints them. Needs the standard library alone.

::

    token = mint_account_token(key, account="acct_4821")

An account token is a JWT signed with HS256, so a backend in another language mints it with any JWT
library. The header ``kid`` is the key's id. The claims are ``aud`` "usageledger", ``sub`` the
account, ``scope`` such as "read", and ``iat`` and ``exp``, at most an hour apart. The signing key
is HMAC-SHA-256 of "usageledger account token" under the key's secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from usageledger.sdk.scopes import TOKEN_SCOPES, checked_scopes

ALGORITHM = "HS256"
AUDIENCE = "usageledger"
LIFETIME_MAX = timedelta(hours=1)

_KEY = re.compile(r"ulk_([0-9a-f]{8})_([A-Za-z0-9_-]{32,128})", re.ASCII)
_PURPOSE = b"usageledger account token"


def mint_account_token(
    key: str,
    account: str,
    *,
    expires_in: timedelta = timedelta(minutes=15),
    scopes: Sequence[str] = ("read",),
    now: datetime | None = None,
) -> str:
    """Return a token for one account's paths, valid for ``expires_in`` (at most an hour).

    ``scopes`` are ``check``, ``hold`` and ``read``, or some of them, as far as the key has them:
    no path of an account accepts another. The gateway is not asked. Raises ValueError for another
    scope or none, a malformed key, an empty account or a lifetime out of bounds.
    """
    if not account:
        raise ValueError("account is needed")
    if not timedelta(0) < expires_in <= LIFETIME_MAX:
        raise ValueError(
            f"expires_in is above 0 and at most an hour, not {expires_in}: mint another token "
            "when this one expires"
        )
    listed = checked_scopes(scopes, TOKEN_SCOPES, "an account token")
    key_id, secret = split_key(key)
    return signed_account_token(
        key_id, token_key(secret), account, listed, expires_in, now or datetime.now(UTC)
    )


def signed_account_token(
    key_id: str,
    signing_key: bytes,
    account: str,
    scopes: Iterable[str],
    expires_in: timedelta,
    now: datetime,
) -> str:
    """Return an account token signed with the signing key itself: see `mint_account_token`."""
    begins = int(now.timestamp())
    header = {"alg": ALGORITHM, "typ": "JWT", "kid": key_id}
    ends = begins + int(expires_in.total_seconds())
    claims = {
        "aud": AUDIENCE,
        "sub": account,
        "scope": " ".join(scopes),
        "iat": begins,
        "exp": ends,
    }
    signed = (
        f"{_base64_text(json.dumps(header).encode())}.{_base64_text(json.dumps(claims).encode())}"
    )
    return f"{signed}.{_base64_text(hmac.digest(signing_key, signed.encode(), hashlib.sha256))}"


def new_key(key_id: str | None = None) -> str:
    """Return a new key; with ``key_id``, a new secret of that key."""
    return f"ulk_{key_id or secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"


def token_key(secret: str) -> bytes:
    """The key that signs the account tokens of a secret."""
    return hmac.digest(secret.encode(), _PURPOSE, hashlib.sha256)


def split_key(key: str) -> tuple[str, str]:
    """Return a key's id and its secret. Raises ValueError, whose message does not show the key."""
    found = _KEY.fullmatch(key)
    if found is None:
        raise ValueError(
            "this is no key: a key begins with ulk_ and is shown once, when it is made"
        )
    return found[1], found[2]


def _base64_text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")
