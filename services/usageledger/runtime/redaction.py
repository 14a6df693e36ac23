"""`redacted`: a text as it may be shown, in a log, a status, an error or on a terminal.

A secret is recognised by its form: user info in a URL, an app key, a token, a webhook secret. It is
also recognised when a variable of this process contains it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

HIDDEN = "***"
# A shorter value would hide ordinary words, and protects nothing.
SECRET_LENGTH_MIN = 4
SECRET_VARIABLES = (
    "USAGELEDGER_KAFKA_SASL_PASSWORD",
    "USAGELEDGER_GATEWAY_KEY",
    "USAGELEDGER_KEY",
)
REDIS_VARIABLE = "USAGELEDGER_REDIS_URL"

# User info ends at the last @ of the address: a careless password may contain one.
_USER_INFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^\s/\"'<>]*)@")
_PATTERNS = (
    (re.compile(r"([?&](?:password|token|secret|key)=)[^&\s\"'<>]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"(ulk_[0-9a-f]{8}_)[A-Za-z0-9_-]+"), r"\1***"),
    (re.compile(r"(whsec_)[A-Za-z0-9+/=_-]+"), r"\1***"),
    (re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+"), HIDDEN),
    (re.compile(r"((?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), r"\1***"),
    (re.compile(r"((?:requirepass|masterauth)\s+)[^\s'<>]+"), r"\1***"),
)


def redacted(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text, with ``***`` in place of each secret."""
    for secret in _known_secrets(os.environ if environment is None else environment):
        text = text.replace(secret, HIDDEN)
    text = _USER_INFO.sub(rf"\1{HIDDEN}@", text)
    for pattern, shown in _PATTERNS:
        text = pattern.sub(shown, text)
    return text


def has_password(url: str) -> bool:
    """Whether the URL contains user info."""
    return _USER_INFO.match(url) is not None


def _known_secrets(environment: Mapping[str, str]) -> Iterator[str]:
    """The secrets that variables contain."""
    for secret in _values(environment):
        if len(secret) >= SECRET_LENGTH_MIN:
            yield secret


def _values(environment: Mapping[str, str]) -> Iterator[str]:
    for name in SECRET_VARIABLES:
        yield environment.get(name, "")
    found = _USER_INFO.match(environment.get(REDIS_VARIABLE, ""))
    if found is not None:
        _, colon, password = found[2].partition(":")
        if colon:
            yield from (password, unquote(password))
