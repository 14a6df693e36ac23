"""Whether a broker's address accepts connections."""

from __future__ import annotations

import socket

import pytest

from usageledger.operations.errors import OperatorError
from usageledger.operations.reachability import require_listener
from usageledger.runtime.kafka_connection import KafkaConnection


def test_one_address_of_several_is_enough() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        require_listener(
            KafkaConnection(servers=f"127.0.0.1:1, 127.0.0.1:{server.getsockname()[1]}")
        )


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
