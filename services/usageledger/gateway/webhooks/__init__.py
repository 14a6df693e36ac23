"""Webhooks as the Standard Webhooks specification has them.

``endpoints`` and ``deliveries`` are tables of ``gateway.db``. ``schedule`` says when a delivery is
tried again, ``addresses`` which addresses are allowed, ``signing`` what a request looks like, and
``sending`` sends it. The API is in ``routes/webhooks``.
"""
