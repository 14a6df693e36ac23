"""Limit events to browsers and apps by Server-Sent Events."""
