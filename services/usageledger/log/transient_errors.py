"""Which of kafka-python's errors pass by themselves. Needs kafka-python alone: the SDKs use it."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # kafka-python reads its message schemas by a call that Python 3.11 and 3.12 call deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import errors as kafka_errors

TRANSIENT: tuple[type[Exception], ...] = (
    kafka_errors.RetriableError,
    kafka_errors.BrokerNotAvailableError,
    kafka_errors.UnknownError,
    OSError,
)
"""A broker is away, or has just come back: the same call, or a new connection, can succeed later.

`UnknownError` is a broker's own failure. Other errors, such as a missing permission, do not pass.
"""

REBALANCED: tuple[type[Exception], ...] = (
    kafka_errors.CommitFailedError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.UnknownMemberIdError,
)
"""The consumer group has moved on: the next poll sees another generation."""
