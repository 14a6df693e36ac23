"""Passwords that follow their file, and tokens from a callable, for kafka-python."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

with warnings.catch_warnings():
    # kafka-python reads its message schemas by a call that Python 3.11 and 3.12 deprecate.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.net import sasl
    from kafka.net.sasl.oauth import AbstractTokenProvider

_PASSWORD_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class FollowedPassword(str):
    """A password as it was when a client was made, with the way to read it anew."""

    __slots__ = ("read",)
    read: Callable[[], str]

    def __new__(cls, value: str, read: Callable[[], str]) -> FollowedPassword:
        made = super().__new__(cls, value)
        made.read = read
        _register_once()
        return made


def token_provider(token: Callable[[], str]) -> Any:
    """The object that kafka-python asks for a token when it makes a connection."""
    return _TokenProvider(token)


class _TokenProvider(AbstractTokenProvider):  # type: ignore[misc] # kafka-python has no types
    def __init__(self, token: Callable[[], str]) -> None:
        super().__init__()
        self._token = token

    def token(self) -> str:
        return self._token()


@functools.cache
def _register_once() -> None:
    """Have kafka-python's own mechanisms read a `FollowedPassword` anew for each connection.

    They serve every other client in this process exactly as before.
    """
    for name in _PASSWORD_MECHANISMS:
        sasl.register_sasl_mechanism(
            name, _following_mechanism(sasl.get_sasl_mechanism(name)), overwrite=True
        )


def _following_mechanism(mechanism: type[Any]) -> type[Any]:
    class FollowingMechanism(mechanism):  # type: ignore[misc] # kafka-python has no types
        def __init__(self, **config: Any) -> None:
            password = config.get("sasl_plain_password")
            if isinstance(password, FollowedPassword):
                config["sasl_plain_password"] = password.read()
            super().__init__(**config)

    return FollowingMechanism
