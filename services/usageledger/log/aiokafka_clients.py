"""aiokafka's clients, connected as `KafkaConnection` says. Nothing else of ours makes any."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient

from usageledger.runtime.kafka_connection import KafkaConnection


def new_consumer(kafka: KafkaConnection, *topics: str, **options: Any) -> Any:
    """An AIOKafkaConsumer, not started. Raises KafkaConnectionError."""
    consumer = AIOKafkaConsumer(*topics, **kafka.client_options(_TokenProvider), **options)
    _follow_password(consumer._client, kafka)
    return consumer


def new_producer(kafka: KafkaConnection, **options: Any) -> Any:
    """An AIOKafkaProducer, not started. Raises KafkaConnectionError."""
    producer = AIOKafkaProducer(**kafka.client_options(_TokenProvider), **options)
    _follow_password(producer.client, kafka)
    return producer


def new_admin(kafka: KafkaConnection, **options: Any) -> Any:
    """An AIOKafkaAdminClient, not started. Raises KafkaConnectionError."""
    admin = AIOKafkaAdminClient(**kafka.client_options(_TokenProvider), **options)
    _follow_password(admin._client, kafka)
    return admin


class _TokenProvider(AbstractTokenProvider):  # type: ignore[misc] # aiokafka has no types
    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    async def token(self) -> str:
        return await asyncio.to_thread(self._token)


class _PasswordFollowingClient(AIOKafkaClient):  # type: ignore[misc] # aiokafka has no types
    """Reads the password anew for each connection, where aiokafka keeps the first one."""

    _kafka: KafkaConnection

    @property
    def _sasl_plain_password(self) -> str:
        return self._kafka.password()


def _follow_password(client: Any, kafka: KafkaConnection) -> None:
    if kafka.follows_password_file:
        # aiokafka's clients make this object themselves and take no other in its place.
        client.__class__ = _PasswordFollowingClient
        client._kafka = kafka
