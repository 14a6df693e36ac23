"""usageledger: an event-sourced ledger of AI-generation credits.

The public names are those listed here and in `usageledger.fastapi` and `usageledger.testing`.
Anything deeper can change in any release.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from usageledger.sdk.extras import naming_the_extra

if TYPE_CHECKING:
    from usageledger.runtime.kafka_connection import KafkaConnection as KafkaConnection
    from usageledger.runtime.kafka_connection import KafkaConnectionError as KafkaConnectionError
    from usageledger.sdk.gate.answers import CheckAnswer as CheckAnswer
    from usageledger.sdk.gate.answers import GateError as GateError
    from usageledger.sdk.gate.answers import GateMisconfigured as GateMisconfigured
    from usageledger.sdk.gate.answers import GateUnavailable as GateUnavailable
    from usageledger.sdk.gate.answers import HoldAnswer as HoldAnswer
    from usageledger.sdk.gate.answers import HoldIdReused as HoldIdReused
    from usageledger.sdk.gate.answers import InvalidUse as InvalidUse
    from usageledger.sdk.gate.answers import NotEnoughCredits as NotEnoughCredits
    from usageledger.sdk.gate.answers import NotTheHolder as NotTheHolder
    from usageledger.sdk.gate.answers import QuoteAnswer as QuoteAnswer
    from usageledger.sdk.gate.answers import QuotedUse as QuotedUse
    from usageledger.sdk.gate.answers import ReleaseAnswer as ReleaseAnswer
    from usageledger.sdk.gate.answers import UnknownUse as UnknownUse
    from usageledger.sdk.gate.gates import AsyncUsageGate as AsyncUsageGate
    from usageledger.sdk.gate.gates import UsageGate as UsageGate
    from usageledger.sdk.limits.async_subscriber import AsyncLimitSubscriber as AsyncLimitSubscriber
    from usageledger.sdk.limits.errors import HandlerFailed as HandlerFailed
    from usageledger.sdk.limits.errors import SubscriberFailed as SubscriberFailed
    from usageledger.sdk.limits.limit_event import CrossedBy as CrossedBy
    from usageledger.sdk.limits.limit_event import LimitEvent as LimitEvent
    from usageledger.sdk.limits.limit_event import Upgrade as Upgrade
    from usageledger.sdk.limits.subscriber import LimitSubscriber as LimitSubscriber
    from usageledger.sdk.producer.account_client import AccountClient as AccountClient
    from usageledger.sdk.producer.account_client import CommandFailed as CommandFailed
    from usageledger.sdk.producer.events import InvalidEvent as InvalidEvent
    from usageledger.sdk.producer.meter import UsageMeter as UsageMeter
    from usageledger.sdk.producer.recording import Generation as Generation
    from usageledger.sdk.producer.recording import Waiting as Waiting
    from usageledger.sdk.producer.spool import SpoolError as SpoolError
    from usageledger.sdk.producer.spool import SpoolFull as SpoolFull
    from usageledger.sdk.tokens import mint_account_token as mint_account_token

# Modules and their public names, each loaded on first use: importing this package loads no Kafka
# client. The imports above say the same to type checkers; a test compares the two.
_NAMES_BY_MODULE = {
    "usageledger.runtime.kafka_connection": (
        "KafkaConnection",
        "KafkaConnectionError",
    ),
    "usageledger.sdk.gate.answers": (
        "CheckAnswer",
        "GateError",
        "GateMisconfigured",
        "GateUnavailable",
        "HoldAnswer",
        "HoldIdReused",
        "NotTheHolder",
        "InvalidUse",
        "NotEnoughCredits",
        "QuoteAnswer",
        "QuotedUse",
        "ReleaseAnswer",
        "UnknownUse",
    ),
    "usageledger.sdk.gate.gates": (
        "AsyncUsageGate",
        "UsageGate",
    ),
    "usageledger.sdk.limits.async_subscriber": ("AsyncLimitSubscriber",),
    "usageledger.sdk.limits.errors": (
        "HandlerFailed",
        "SubscriberFailed",
    ),
    "usageledger.sdk.limits.limit_event": (
        "CrossedBy",
        "LimitEvent",
        "Upgrade",
    ),
    "usageledger.sdk.limits.subscriber": ("LimitSubscriber",),
    "usageledger.sdk.producer.account_client": (
        "AccountClient",
        "CommandFailed",
    ),
    "usageledger.sdk.producer.events": ("InvalidEvent",),
    "usageledger.sdk.producer.meter": ("UsageMeter",),
    "usageledger.sdk.producer.recording": (
        "Generation",
        "Waiting",
    ),
    "usageledger.sdk.producer.spool": (
        "SpoolError",
        "SpoolFull",
    ),
    "usageledger.sdk.tokens": ("mint_account_token",),
}
_MODULE_BY_NAME = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}

__all__ = sorted(_MODULE_BY_NAME)


def __getattr__(name: str) -> object:
    if name not in _MODULE_BY_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULE_BY_NAME[name]
    extra = "gate" if module.startswith("usageledger.sdk.gate.") else None
    with naming_the_extra(name, extra):
        return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return __all__
