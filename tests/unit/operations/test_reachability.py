"""Whether a broker's address is worth a try."""

from __future__ import annotations

import socket

import pytest

from usageledger.operations.errors import OperatorError
from usageledger.operations.reachability import require_listener


def test_one_address_of_several_is_enough() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        require_listener(f"127.0.0.1:1, 127.0.0.1:{server.getsockname()[1]}")


def test_an_address_where_nobody_listens_is_told_with_the_reason() -> None:
    with pytest.raises(
        OperatorError,
        match=r"no Kafka broker answers at 127\.0\.0\.1:1 \(.*refused\): is the address right",
    ):
        require_listener("127.0.0.1:1")


@pytest.mark.parametrize(
    "address", ["kafka", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:99999", "", ":::"]
)
def test_what_is_no_address_is_told_as_well(address: str) -> None:
    with pytest.raises(OperatorError, match="no Kafka broker answers at"):
        require_listener(address)
