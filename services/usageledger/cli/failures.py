"""An expected error ends a command with one line that says what to do; others are raised."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from usageledger.runtime.redaction import redacted


class Commands(TyperGroup):
    """A group of commands that prints an expected error in one line and exits with code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            message = explained(error)
            if message is None:
                raise
            typer.echo(redacted(f"usageledger: {message}"), err=True)
            raise typer.Exit(1) from error


def explained(error: Exception) -> str | None:
    """The line that is printed for an error; None for one that nobody expected."""
    # Imported only now, so that a help page is shown without them.
    from kafka.errors import AuthorizationError, KafkaError
    from redis.exceptions import RedisError

    from usageledger.accounts.errors import AccountError
    from usageledger.counters.replies import view_error
    from usageledger.counters.view import ViewError
    from usageledger.domain.catalog_check import UnusableCatalog
    from usageledger.log.reading import LogUnreadable
    from usageledger.operations.errors import OperatorError, StopRequested
    from usageledger.operations.limit_tail import TailFailed
    from usageledger.runtime.settings import SettingsError
    from usageledger.sdk.producer.events import InvalidEvent

    if isinstance(error, UnusableCatalog):
        return "the catalog cannot be used:\n" + "\n".join(
            f"  {defect}" for defect in error.defects
        )
    if isinstance(error, StopRequested):
        return "stopped while starting; start it again with `usageledger up`"
    if isinstance(error, AuthorizationError):
        return (
            f"Kafka does not let this user do that ({error}): grant the rights of role operator "
            "(`usageledger acls --role operator`)"
        )
    if isinstance(error, KafkaError):
        what = f"Kafka did not do what was asked ({type(error).__name__}: {error})"
        return f"{what}: see `usageledger status` for whether it runs"
    if isinstance(error, RedisError):
        error = view_error(error)
    if isinstance(error, ViewError):
        return (
            f"the counters cannot be read ({error}): see `usageledger status` for whether Redis "
            "runs"
        )
    if isinstance(error, LogUnreadable):
        return f"the ledger cannot be read ({error}): run `usageledger doctor`"
    if isinstance(
        error, (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
    ):
        return f"{error.filename}: {error.strerror}"
    return (
        str(error)
        if isinstance(error, (OperatorError, AccountError, SettingsError, InvalidEvent, TailFailed))
        else None
    )
