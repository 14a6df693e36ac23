"""Why a query about an account has no answer. Each message says what to do."""

from __future__ import annotations


class AccountError(Exception):
    """A query about an account has no answer. ``str()`` can be shown to a user as it is."""


class InvalidAccountName(AccountError):
    """The text cannot name an account."""


class NoLedger(AccountError):
    """The prefix names no ledger on this Kafka."""


class NoCatalog(AccountError):
    """No catalog has been published, so nothing can be rated."""

    def __init__(self) -> None:
        super().__init__(
            "no catalog has been published: publish one with `usageledger catalog publish FILE`"
        )


class CatalogsUnavailable(AccountError):
    """A catalog must be read from Kafka, which does not answer. Asking again can help."""
