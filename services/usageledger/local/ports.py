"""Free loopback ports, kept across restarts where they are still free."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Sequence
from pathlib import Path

from usageledger.local.errors import StackError
from usageledger.local.files import write_atomically

LOOPBACK = "127.0.0.1"
# Operating systems choose outgoing ports above this range. So no outgoing connection can occupy the
# port of a server that restarts.
FIRST_PORT, LAST_PORT = 20_000, 32_000
ATTEMPTS_MAX = 1_000


def kept_ports(path: Path, names: Sequence[str]) -> dict[str, int]:
    """A port for each name: the one that the file ``path`` has if that is free, else a new one.

    New ports are written to the file.
    """
    remembered = _read(path)
    ports: dict[str, int] = {}
    for name in names:
        port = remembered.get(name)
        ports[name] = (
            port
            if port is not None and port not in ports.values() and is_free(port)
            else free_port(set(ports.values()))
        )
    if ports != remembered:
        write_atomically(path, json.dumps(ports))
    return ports


def free_port(excluded: set[int] | None = None) -> int:
    """A port, none of the excluded ones, on which nothing listens now. Raises StackError."""
    for _ in range(ATTEMPTS_MAX):
        port = random.randrange(FIRST_PORT, LAST_PORT)
        if port not in (excluded or set()) and is_free(port):
            return port
    raise StackError(
        f"no free port between {FIRST_PORT} and {LAST_PORT} on {LOOPBACK}: stop a program that "
        "listens on one and try again"
    )


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback interface now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def accepts_connections(port: int, host: str = LOOPBACK) -> bool:
    """Whether something listens on this port."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def _read(path: Path) -> dict[str, int]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return (
        {name: port for name, port in content.items() if isinstance(port, int)}
        if isinstance(content, dict)
        else {}
    )
