"""The contracts' adapters run against the same real servers as the integration tests."""

from __future__ import annotations

from tests.integration.conftest import kafka, new_ledger, prefix, redis_url, servers

__all__ = ["kafka", "new_ledger", "prefix", "redis_url", "servers"]
