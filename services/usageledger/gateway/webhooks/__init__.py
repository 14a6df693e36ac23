"""Webhooks after the Standard Webhooks specification: endpoints, their secrets, and what is
delivered to them.

``endpoints`` and ``deliveries`` keep both in ``gateway.db``, ``schedule`` says when what failed is
tried again, ``addresses`` where a webhook may go, ``signing`` what is sent, ``sending`` sends it,
``routes`` is the API.
"""
