"""kafka-python's names that the SDKs use, imported without its deprecation warnings."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # kafka-python reads its message schemas by a call that Python 3.11 and 3.12 deprecate.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition
    from kafka import errors as kafka_errors
    from kafka.structs import OffsetAndMetadata

__all__ = ["KafkaConsumer", "KafkaProducer", "OffsetAndMetadata", "TopicPartition", "kafka_errors"]
