"""Accounts as the ledger has them, for the examples' tests to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from tests.servers import RunningGateway
from usageledger.accounts.balances import AccountReader
from usageledger.cli.account_balance import balance_document
from usageledger.counters.connection import connect_blocking
from usageledger.log.reading import log_reader

DEADLINE_S = 30.0

T = TypeVar("T")


def balance_of(gateway: RunningGateway, account: str) -> dict[str, Any]:
    """An account's balance now, as `account show --json` prints it."""
    redis = connect_blocking(gateway.addresses.redis_url)
    try:
        with log_reader(gateway.addresses.kafka) as reader:
            accounts = AccountReader(reader, redis, gateway.addresses.prefix)
            return balance_document(accounts.balance(account), with_holds=True)
    finally:
        redis.close()


def wait_for(look: Callable[[], T], is_right: Callable[[T], bool]) -> T:
    """Wait until ``look`` finds the right thing; return the last thing that it found."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_right(found := look()) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return found
