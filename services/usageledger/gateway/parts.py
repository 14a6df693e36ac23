"""The parts of one gateway. `serving` makes them; routes ask for theirs through `dependencies`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from usageledger.accounts.reader import Accounts
from usageledger.gateway.access.rate_limits import RateLimits
from usageledger.gateway.inspector import Inspector
from usageledger.gateway.readiness import Readiness
from usageledger.gateway.stores import Stores
from usageledger.gateway.streams.account_streams import Streams
from usageledger.gateway.webhooks.addresses import Destinations
from usageledger.history.reading import HistoryReader
from usageledger.log.event_publisher import Publish
from usageledger.log.topics import Topics


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The parts that routes use. All of them exist before the first request comes.

    ``limits_trouble`` says why the limit events are not known to be up to date, None if they are.
    ``wake_webhooks`` has the endpoints and their deliveries read again at once.
    """

    topics: Topics
    now: Callable[[], datetime]
    stores: Stores
    accounts: Accounts
    history: HistoryReader
    inspector: Inspector
    publish: Publish
    streams: Streams
    limits_trouble: Callable[[], str | None]
    wake_webhooks: Callable[[], None]
    webhook_destinations: Destinations
    rate_limits: RateLimits
    readiness: Readiness
