"""usageledger: an event-sourced ledger of AI-generation credits."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from usageledger.gateway.gate.answers import GateError as GateError
    from usageledger.gateway.gate.answers import InvalidUse as InvalidUse
    from usageledger.gateway.gate.answers import NotEnoughCredits as NotEnoughCredits
    from usageledger.gateway.gate.gates import AsyncUsageGate as AsyncUsageGate
    from usageledger.gateway.gate.gates import UsageGate as UsageGate
    from usageledger.limits.async_subscriber import AsyncLimitSubscriber as AsyncLimitSubscriber
    from usageledger.limits.subscriber import LimitSubscriber as LimitSubscriber
    from usageledger.producer.account_client import AccountClient as AccountClient
    from usageledger.producer.account_client import CommandFailed as CommandFailed
    from usageledger.producer.events import InvalidEvent as InvalidEvent
    from usageledger.producer.meter import UsageMeter as UsageMeter
    from usageledger.producer.spool import SpoolError as SpoolError
    from usageledger.producer.spool import SpoolFull as SpoolFull

# Loaded when first asked for: the import of this package brings in no Kafka client. The gates need the extra `gate`.
_MODULES = {
    "AccountClient": "usageledger.producer.account_client",
    "AsyncLimitSubscriber": "usageledger.limits.async_subscriber",
    "AsyncUsageGate": "usageledger.gateway.gate.gates",
    "CommandFailed": "usageledger.producer.account_client",
    "GateError": "usageledger.gateway.gate.answers",
    "InvalidEvent": "usageledger.producer.events",
    "InvalidUse": "usageledger.gateway.gate.answers",
    "LimitSubscriber": "usageledger.limits.subscriber",
    "NotEnoughCredits": "usageledger.gateway.gate.answers",
    "SpoolError": "usageledger.producer.spool",
    "SpoolFull": "usageledger.producer.spool",
    "UsageGate": "usageledger.gateway.gate.gates",
    "UsageMeter": "usageledger.producer.meter",
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
            raise ImportError(f'{name} needs {error.name}: pip install "usageledger[gate]"', name=error.name) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
