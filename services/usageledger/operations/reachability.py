"""Whether anybody listens at a broker's address: asked first by commands, which would otherwise
wait half a minute to be told.
"""

from __future__ import annotations

import socket

from usageledger.operations.errors import OperatorError

CONNECT_TIMEOUT_S = 3.0


def require_listener(kafka: str) -> None:
    """Return if a connection to one of these addresses (``host:port,host:port``) can be made.

    Raises OperatorError otherwise.
    """
    problems = []
    for address in kafka.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
        except (OSError, ValueError, OverflowError) as error:
            problems.append(f"{address.strip()} ({error})")
        else:
            return
    raise OperatorError(
        f"no Kafka broker answers at {', '.join(problems)}: is the address right, and does it run? "
        "`usageledger status` says"
    )
