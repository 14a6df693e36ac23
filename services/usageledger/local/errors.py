"""Errors of the one-machine stack. Every message says what to do."""

from __future__ import annotations

from usageledger.operations.errors import OperatorError


class StackError(OperatorError):
    """The stack, or a part of it, could not be started, found or stopped."""
