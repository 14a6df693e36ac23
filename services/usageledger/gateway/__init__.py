"""The gateway: HTTP for who asks before a generation, reports without Kafka, listens for limits, or
shows the usage meter.
"""
