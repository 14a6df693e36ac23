"""The five topics of a ledger, the groups of its services, and how their names are made.

Needs the standard library alone: the SDKs use it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of one ledger's topics.

    ``prefix`` lets several ledgers share one Kafka: ``acme`` gives ``acme.usage.events.v1``.
    """

    prefix: str = ""

    @property
    def usage(self) -> str:
        """The reports of generation workers. Keyed by account."""
        return self._full_name("usage.events.v1")

    @property
    def account(self) -> str:
        """The reports of billing, the CRM and support. Keyed by account."""
        return self._full_name("account.events.v1")

    @property
    def ledger(self) -> str:
        """Claims and entries: the truth.

        Partition i holds the decisions on partition i of the usage and the account topic.
        """
        return self._full_name("ledger.entries.v1")

    @property
    def limit(self) -> str:
        """The limit events that apps react to. Keyed by account, partitioned as the ledger."""
        return self._full_name("limit.events.v1")

    @property
    def catalog(self) -> str:
        """Published catalogs, in one partition."""
        return self._full_name("catalog.v1")

    @property
    def partitioned(self) -> tuple[str, str, str, str]:
        """The four topics that share a partition count and a key."""
        return (self.usage, self.account, self.ledger, self.limit)

    def _full_name(self, topic: str) -> str:
        return f"{self.prefix}.{topic}" if self.prefix else topic


def processor_group(prefix: str) -> str:
    """The consumer group of a ledger's processor, where lag tools look."""
    return f"{prefix or 'usageledger'}.processor"


def limits_group(prefix: str) -> str:
    """The consumer group whose committed offsets say how far the ledger is announced."""
    return f"{prefix or 'usageledger'}.limits"
