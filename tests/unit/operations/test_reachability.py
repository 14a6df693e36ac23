"""Whether a broker can be reached at one of its addresses."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kafka.errors import IllegalSaslStateError

from usageledger.operations.errors import OperatorError
from usageledger.operations.reachability import require_listener
from usageledger.runtime.kafka_connection import KafkaConnection


def test_one_address_of_several_is_enough() -> None:
    with open_broker() as address:
        require_listener(KafkaConnection(servers=f"127.0.0.1:1, {address}"))


@contextmanager
def open_broker() -> Iterator[str]:
    """A server that answers its second connection as an open listener of Kafka does.

    It says that it expects no user. The first connection only finds out whether anybody listens.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            server.accept()[0].close()
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(struct.pack(">iihi", 10, 1, IllegalSaslStateError.errno, 0))

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def test_an_address_that_refuses_connections_is_named_with_the_reason() -> None:
    with pytest.raises(
        OperatorError,
        match=r"no Kafka broker answers at 127\.0\.0\.1:1 \(.*refused\): check the address",
    ):
        require_listener(KafkaConnection(servers="127.0.0.1:1"))


@pytest.mark.parametrize(
    "address", ["kafka", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:99999", ":::"]
)
def test_a_malformed_address_is_named_as_well(address: str) -> None:
    with pytest.raises(OperatorError, match="no Kafka broker answers at"):
        require_listener(KafkaConnection(servers=address))
