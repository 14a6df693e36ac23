"""Limit events for apps: subscribers for threads and for asyncio, and answers under FastAPI."""
