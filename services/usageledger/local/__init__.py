"""The one-machine stack: a real broker, a real Redis, the topics and the services, all on the
loopback interface.
"""
