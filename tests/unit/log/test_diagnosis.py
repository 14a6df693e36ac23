"""Why no connection to Kafka can be made, where no broker is needed to see it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from usageledger.log import diagnosis
from usageledger.log.diagnosis import LastProblem, connection_problem
from usageledger.runtime.kafka_connection import KafkaConnection


@pytest.fixture
def web_server() -> Iterator[str]:
    """The address of a server that answers whatever it is sent with HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    if connection.recv(4096):
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_a_server_that_is_no_broker_is_called_that(web_server: str, protocol: str) -> None:
    kafka = KafkaConnection(servers=web_server, security_protocol=protocol)
    assert str(connection_problem(kafka)).startswith(
        f"the server at {web_server} does not answer as a Kafka broker"
    )


def test_addresses_that_do_not_answer_are_all_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = str(connection_problem(KafkaConnection(servers=f"{address},nonsense")))
    assert line.startswith(f"no Kafka broker answers at {address} (")
    assert ", nonsense (" in line


def test_somebody_who_asks_often_causes_one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[KafkaConnection] = []
    monkeypatch.setattr(diagnosis, "connection_problem", attempts.append)
    last = LastProblem(KafkaConnection(servers="broker:9092"), again_after_s=3_600.0)
    assert [last(), last()] == [None, None]
    assert len(attempts) == 1
