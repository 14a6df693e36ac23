"""What an operator's command can end with when something expected goes wrong."""

from __future__ import annotations


class OperatorError(Exception):
    """A command could not do what it was asked.

    ``str()`` says what to do, and can be shown as it is.
    """


class StopRequested(Exception):
    """The stack was asked to stop while it was starting."""
