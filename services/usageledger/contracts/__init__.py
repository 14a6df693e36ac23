"""Pydantic models of every message on the wire. ``schemas/`` is generated from them."""
