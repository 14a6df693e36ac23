"""Publishing through kafka-python, and around the faults of its producer (3.0.x)."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

from usageledger.ledger.partitioning import partition_of
from usageledger.log.diagnosis import connection_problem
from usageledger.log.missing_rights import missing_right, writer_of
from usageledger.runtime.kafka_connection import KafkaConnection, KafkaConnectionError
from usageledger.sdk.kafka_python import KafkaProducer, kafka_errors
from usageledger.sdk.producer.publisher import Blame, ConnectTo, Done, PublishError

_CONNECT_TIMEOUT_MS = 10_000
_METADATA_TIMEOUT_MS = 5_000

# The guarantees depend on these. A batch that expires by delivery_timeout_ms after it was sent
# stops the idempotent producer for ever, without an error. So that time-out never comes: the sender
# watches the age of unacknowledged events, and replaces a producer that is stuck.
_FIXED: dict[str, object] = {
    "acks": "all",
    "enable_idempotence": True,
    "delivery_timeout_ms": 2**40,
}
_NOT_TO_BE_SET = frozenset(
    {
        *_FIXED,
        "retries",
        "partitioner",
        "key_serializer",
        "value_serializer",
        "transactional_id",
    }
)
_DEFAULTS: dict[str, object] = {
    "client_id": "usageledger",
    "linger_ms": 5,
    "allow_auto_create_topics": False,
    "bootstrap_timeout_ms": _CONNECT_TIMEOUT_MS,
    "max_block_ms": _METADATA_TIMEOUT_MS,
    "request_timeout_ms": 15_000,
    "reconnect_backoff_max_ms": 2_000,
    "metrics_enabled": False,
}

_BLAMES_EVENT = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.InvalidRecordError,
)
_BLAMES_CONNECTION = (
    kafka_errors.RetriableError,
    kafka_errors.AuthorizationError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.InvalidTopicError,
    kafka_errors.UnsupportedVersionError,
    kafka_errors.KafkaConfigurationError,
    kafka_errors.UnrecognizedBrokerVersion,
    KafkaConnectionError,
)


def connector_to(kafka: KafkaConnection, options: Mapping[str, object] | None = None) -> ConnectTo:
    """Return a function that makes publishers to topics of these brokers.

    ``options`` (compression, batches, …) go to kafka-python. Raises ValueError for an option on
    which the ledger's guarantees rest.
    """
    KafkaConnection.check_options(options)
    refused = sorted(_NOT_TO_BE_SET & set(options or ()))
    if refused:
        raise ValueError(
            f"kafka_options cannot set {', '.join(refused)}: the ledger's guarantees rest on them"
        )
    config = {**_DEFAULTS, **(options or {}), **_FIXED}
    counts: dict[str, int] = {}
    return lambda topic: functools.partial(KafkaPublisher, topic, kafka, config, counts)


class KafkaPublisher:
    """A kafka-python producer for one topic.

    Each topic has its own, because an error can end a producer and must not end other topics'.

    ``counts`` outlives the connection. It has each topic's partition count as it was first seen,
    because an account's partition hangs on that. Nothing is sent to a topic that has grown since.
    """

    def __init__(
        self,
        topic: str,
        kafka: KafkaConnection,
        config: Mapping[str, object],
        counts: dict[str, int],
    ) -> None:
        self._topic = topic
        self._kafka = kafka
        self._counts = counts
        try:
            self._producer = _Producer(**kafka.for_kafka_python(), **config)
        except Exception as error:
            problem = connection_problem(kafka) or _text(error, kafka, topic)
            raise PublishError(problem, _blame(error)) from error

    def send(
        self,
        key: bytes | None,
        value: bytes,
        done: Done,
        *,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> None:
        """See `Publisher.send`. Blocks only while the topic's partitions are not known.

        Without ``partition`` the key decides, by the partition count that was seen first.
        Without ``timestamp_ms`` the clock does, if the topic lets the producer date its records.
        Raises PublishError.
        """
        try:
            if partition is None and key is not None:
                partition = partition_of(key, self._first_count())
            future = self._producer.send(
                self._topic, value=value, key=key, partition=partition, timestamp_ms=timestamp_ms
            )
        except PublishError:
            raise
        except Exception as error:
            raise _publish_error(error, self._kafka, self._topic) from error
        future.add_callback(functools.partial(_report_success, done))
        future.add_errback(functools.partial(_report_failure, done, self._kafka, self._topic))

    def _first_count(self) -> int:
        """The topic's partition count. Raises PublishError if it is another one than before."""
        count = len(self._producer.partitions_for(self._topic))
        first = self._counts.setdefault(self._topic, count)
        if count != first:
            raise PublishError(
                f"{self._topic} has {count} partitions, and had {first}: its ledger decides "
                "nothing more; `usageledger doctor` says what to do, then start this process again",
                Blame.CONNECTION,
            )
        return first

    def close(self) -> None:
        """See `Publisher.close`."""
        self._producer.give_up()


class _Producer(KafkaProducer):  # type: ignore[misc]
    """kafka-python's producer, with a ``close`` for stuck producers and forked children.

    kafka-python's own ``close`` flushes first, and closes nothing if the flush fails. It also runs
    when the object is collected and when the process ends. In a forked child the producer's thread
    does not exist, and its locks may be held for ever. A child therefore closes nothing.
    """

    def __init__(self, **config: Any) -> None:
        self._made_in = os.getpid()
        self._is_given_up = False
        clients = []

        def kafka_client(**client_config: Any) -> Any:
            clients.append(KafkaProducer.DEFAULT_CONFIG["kafka_client"](**client_config))
            return clients[-1]

        try:
            super().__init__(**config, kafka_client=kafka_client)
        except BaseException:
            # kafka-python would leave its sockets open after each attempt to reach a dead broker.
            for client in clients:
                client.close()
            raise

    def give_up(self) -> None:
        """Close at once. Sends that are in flight fail."""
        self._is_given_up = True
        self.close(timeout=0)

    def flush(self, timeout: float | None = None) -> None:
        if not self._is_given_up:
            super().flush(timeout=timeout)

    def close(self, timeout: float | None = None, null_logger: bool = False) -> None:
        """Close, in the process that made it.

        ``null_logger`` would silence kafka-python for all, so it is not passed on.
        """
        if self._made_in == os.getpid():
            super().close(timeout=timeout)


def _report_success(done: Done, metadata: object) -> None:
    done(None)


def _report_failure(done: Done, kafka: KafkaConnection, topic: str, error: Exception) -> None:
    done(_publish_error(error, kafka, topic))


def _publish_error(error: Exception, kafka: KafkaConnection, topic: str) -> PublishError:
    return PublishError(_text(error, kafka, topic), _blame(error))


def _text(error: Exception, kafka: KafkaConnection, topic: str) -> str:
    if isinstance(error, kafka_errors.AuthorizationError):
        return missing_right(kafka, "write to", topic, writer_of(topic))
    name, text = type(error).__name__, str(error)
    return text if name in text else f"{name}: {text}"


def _blame(error: Exception) -> Blame:
    if isinstance(error, _BLAMES_CONNECTION):
        return Blame.CONNECTION
    if isinstance(error, _BLAMES_EVENT):
        return Blame.EVENT
    if isinstance(error, OSError | kafka_errors.IllegalStateError):
        return Blame.CONNECTION
    return Blame.UNCLEAR
