"""The adapter translates kafka-python's errors, and closes it in every state."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from kafka import errors

from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.producer import kafka_publisher
from usageledger.sdk.producer.publisher import Blame, PublishError


@pytest.mark.parametrize(
    ("error", "blame"),
    [
        (errors.MessageSizeTooLargeError("big"), Blame.EVENT),
        (errors.InvalidRecordError("odd"), Blame.EVENT),
        (errors.KafkaTimeoutError("no metadata"), Blame.CONNECTION),
        (errors.KafkaConnectionError("reset"), Blame.CONNECTION),
        (errors.NotEnoughReplicasError("one left"), Blame.CONNECTION),
        (errors.TopicAuthorizationFailedError("acl"), Blame.CONNECTION),
        (errors.ClusterAuthorizationFailedError("acl"), Blame.CONNECTION),
        (errors.SaslAuthenticationFailedError("password"), Blame.CONNECTION),
        (errors.IllegalStateError("Producer is closed forcefully."), Blame.CONNECTION),
        (ConnectionRefusedError("nobody there"), Blame.CONNECTION),
        (errors.OutOfOrderSequenceNumberError("gap"), Blame.UNCLEAR),
        (errors.UnknownError("?"), Blame.UNCLEAR),
        (errors.KafkaError("part of a batch"), Blame.UNCLEAR),
    ],
)
def test_an_error_says_whom_it_is_about(error: Exception, blame: Blame) -> None:
    outcomes: list[PublishError | None] = []
    kafka = KafkaConnection(servers="broker:9092")
    kafka_publisher._report_failure(outcomes.append, kafka, "usage.events.v1", error)
    [outcome] = outcomes
    assert outcome is not None
    assert outcome.blame is blame
    is_refused = isinstance(error, errors.AuthorizationError)
    assert ("--role worker" if is_refused else type(error).__name__) in str(outcome)


def test_connecting_where_nobody_listens_ends_in_time_and_leaves_no_file_open() -> None:
    """This runs in a process of its own. kafka-python leaves refused sockets to the garbage
    collector, but captured logs still refer to them.
    """
    script = """
import gc, os, socket
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.producer import kafka_publisher
from usageledger.sdk.producer.publisher import PublishError

taken = socket.socket()
taken.bind(("127.0.0.1", 0))
kafka = KafkaConnection(servers=f"127.0.0.1:{taken.getsockname()[1]}")
connect = kafka_publisher.connector_to(kafka, {"bootstrap_timeout_ms": 100})("t")
before = len(os.listdir("/proc/self/fd"))
for _ in range(3):
    try:
        connect()
    except PublishError as error:
        print(error.blame.value)
gc.collect()
print(len(os.listdir("/proc/self/fd")) - before)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout.split() == ["connection", "connection", "connection", "0"]
