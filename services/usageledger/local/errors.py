"""What can go wrong with the one-machine stack. Every message says what to do."""

from __future__ import annotations


class StackError(Exception):
    """The stack, or a part of it, could not be started, found or stopped. ``str()`` is fit to be shown to a user as it is."""


class StopRequested(Exception):
    """A start was given up because someone asked the stack to stop."""
