"""Why a question about an account has no answer. Each message says what to do."""

from __future__ import annotations


class AccountError(Exception):
    """A question about an account cannot be answered. ``str()`` can be shown to a user as it is."""


class InvalidAccountName(AccountError):
    """The text cannot name an account."""


class NoLedger(AccountError):
    """There is no ledger where one was looked for."""


class NoCatalog(AccountError):
    """No catalog has been published, so nothing can be rated."""

    def __init__(self) -> None:
        super().__init__(
            "no catalog has been published: do so with `usageledger catalog publish FILE`"
        )


class CatalogsUnavailable(AccountError):
    """Kafka has to be asked for a catalog, and does not answer. Asking again can help."""
