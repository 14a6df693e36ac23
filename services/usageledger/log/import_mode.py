"""Whether the ledger is being imported: its input topics then keep each record's own time.

Import mode ends once, and for good.
"""

from __future__ import annotations

import asyncio
import logging

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from usageledger.log.aiokafka_clients import new_admin
from usageledger.log.topics import Topics
from usageledger.runtime.kafka_connection import KafkaConnection

POLL_INTERVAL_S = 1.0
ASK_TIMEOUT_S = 10.0

log = logging.getLogger(__name__)


class ImportMode:
    """Asks the broker until import has ended.

    ``is_on`` may lag behind by a second or so; until then nothing is decided too early.
    """

    def __init__(self, kafka: KafkaConnection, topics: Topics) -> None:
        self._kafka = kafka
        self._topics = topics
        self._is_on = True

    def is_on(self) -> bool:
        """Whether, by the last answer, history is still being imported."""
        return self._is_on

    async def ask(self) -> None:
        """Ask once. Raises KafkaError or TimeoutError where the broker does not answer."""
        async with asyncio.timeout(ASK_TIMEOUT_S):
            admin = new_admin(self._kafka)
            await admin.start()
            try:
                asked = [
                    ConfigResource(ConfigResourceType.TOPIC, name)
                    for name in (self._topics.usage, self._topics.account)
                ]
                answers = await admin.describe_configs(asked)
            finally:
                await admin.close()
        kinds = {
            entry[1]
            for answer in answers
            for resource in answer.resources
            for entry in resource[4]
            if entry[0] == "message.timestamp.type"
        }
        # While a go-live is under way the topics differ. As long as one of them still keeps its
        # records' own times, this is still an import.
        self._is_on = kinds != {"LogAppendTime"}

    async def watch(self) -> None:
        """Keep asking until import has ended."""
        while self._is_on:
            await asyncio.sleep(POLL_INTERVAL_S)
            try:
                await self.ask()
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("cannot ask whether import has ended, asking again: %s", error)
