"""Whether a broker's address accepts connections.

Commands ask this first: kafka-python takes half a minute to give up on an address.
"""

from __future__ import annotations

import socket

from usageledger.operations.errors import OperatorError
from usageledger.runtime.kafka_connection import KafkaConnection

CONNECT_TIMEOUT_S = 3.0


def require_listener(kafka: KafkaConnection) -> None:
    """Return if a connection to one of these addresses (``host:port,host:port``) can be made.

    Raises OperatorError otherwise.
    """
    problems = []
    for address in kafka.addresses:
        host, _, port = address.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
        except (OSError, ValueError, OverflowError) as error:
            problems.append(f"{address.strip()} ({error})")
        else:
            return
    raise OperatorError(
        f"no Kafka broker answers at {', '.join(problems)}: check the address, and see "
        "`usageledger status` for whether it runs"
    )
