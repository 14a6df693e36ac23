"""Kafka: topic names, serialisation, reading and writing, the single-writer partition."""
