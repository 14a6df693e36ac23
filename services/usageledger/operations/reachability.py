"""Whether a ledger's broker can be used as the settings say.

Commands ask this first: kafka-python takes half a minute to give up, and does not say why.
"""

from __future__ import annotations

from usageledger.log.diagnosis import connection_problem
from usageledger.operations.errors import OperatorError
from usageledger.runtime.kafka_connection import KafkaConnection


def require_listener(kafka: KafkaConnection) -> None:
    """Return if a connection to one of the addresses (``host:port,host:port``) can be made.

    Raises OperatorError otherwise, which says why not.
    """
    problem = connection_problem(kafka)
    if problem is not None:
        raise OperatorError(problem)
