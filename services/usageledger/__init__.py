"""usageledger: an event-sourced ledger of AI-generation credits."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usageledger.limits.async_subscriber import AsyncLimitSubscriber as AsyncLimitSubscriber
    from usageledger.limits.subscriber import LimitSubscriber as LimitSubscriber
    from usageledger.producer.account_client import AccountClient as AccountClient
    from usageledger.producer.account_client import CommandFailed as CommandFailed
    from usageledger.producer.events import InvalidEvent as InvalidEvent
    from usageledger.producer.meter import UsageMeter as UsageMeter
    from usageledger.producer.spool import SpoolError as SpoolError
    from usageledger.producer.spool import SpoolFull as SpoolFull

# Loaded when first asked for: the import of this package brings in no Kafka client.
_MODULES = {
    "AccountClient": "usageledger.producer.account_client",
    "AsyncLimitSubscriber": "usageledger.limits.async_subscriber",
    "CommandFailed": "usageledger.producer.account_client",
    "InvalidEvent": "usageledger.producer.events",
    "LimitSubscriber": "usageledger.limits.subscriber",
    "SpoolError": "usageledger.producer.spool",
    "SpoolFull": "usageledger.producer.spool",
    "UsageMeter": "usageledger.producer.meter",
}

__all__ = [
    "AccountClient",
    "AsyncLimitSubscriber",
    "CommandFailed",
    "InvalidEvent",
    "LimitSubscriber",
    "SpoolError",
    "SpoolFull",
    "UsageMeter",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
