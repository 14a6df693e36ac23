"""Errors that an operator's command can end with."""

from __future__ import annotations


class OperatorError(Exception):
    """A command could not do what it was asked to do.

    ``str()`` says what to do about it, and can be shown as it is.
    """


class StopRequested(Exception):
    """The stack was asked to stop while it was starting."""
