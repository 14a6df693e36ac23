"""usageledger: an event-sourced ledger of AI-generation credits."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usageledger.sdk.gate.answers import GateError as GateError
    from usageledger.sdk.gate.answers import InvalidUse as InvalidUse
    from usageledger.sdk.gate.answers import NotEnoughCredits as NotEnoughCredits
    from usageledger.sdk.gate.gates import AsyncUsageGate as AsyncUsageGate
    from usageledger.sdk.gate.gates import UsageGate as UsageGate
    from usageledger.sdk.limits.async_subscriber import AsyncLimitSubscriber as AsyncLimitSubscriber
    from usageledger.sdk.limits.subscriber import LimitSubscriber as LimitSubscriber
    from usageledger.sdk.producer.account_client import AccountClient as AccountClient
    from usageledger.sdk.producer.account_client import CommandFailed as CommandFailed
    from usageledger.sdk.producer.events import InvalidEvent as InvalidEvent
    from usageledger.sdk.producer.meter import UsageMeter as UsageMeter
    from usageledger.sdk.producer.spool import SpoolError as SpoolError
    from usageledger.sdk.producer.spool import SpoolFull as SpoolFull

# Loaded when first asked for: the import of this package brings in no Kafka client. The gates need
# the extra `gate`.
_MODULES = {
    "AccountClient": "usageledger.sdk.producer.account_client",
    "AsyncLimitSubscriber": "usageledger.sdk.limits.async_subscriber",
    "AsyncUsageGate": "usageledger.sdk.gate.gates",
    "CommandFailed": "usageledger.sdk.producer.account_client",
    "GateError": "usageledger.sdk.gate.answers",
    "InvalidEvent": "usageledger.sdk.producer.events",
    "InvalidUse": "usageledger.sdk.gate.answers",
    "LimitSubscriber": "usageledger.sdk.limits.subscriber",
    "NotEnoughCredits": "usageledger.sdk.gate.answers",
    "SpoolError": "usageledger.sdk.producer.spool",
    "SpoolFull": "usageledger.sdk.producer.spool",
    "UsageGate": "usageledger.sdk.gate.gates",
    "UsageMeter": "usageledger.sdk.producer.meter",
}

__all__ = [
    "AccountClient",
    "AsyncLimitSubscriber",
    "AsyncUsageGate",
    "CommandFailed",
    "GateError",
    "InvalidEvent",
    "InvalidUse",
    "LimitSubscriber",
    "NotEnoughCredits",
    "SpoolError",
    "SpoolFull",
    "UsageGate",
    "UsageMeter",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        try:
            return getattr(importlib.import_module(_MODULES[name]), name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == __name__:
                raise
            raise ImportError(
                f'{name} needs {error.name}: pip install "usageledger[gate]"', name=error.name
            ) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
