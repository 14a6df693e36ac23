"""Where the one-machine stack's gateway listens, and the key that it made for itself."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from usageledger.history.tables import HISTORY_FILE
from usageledger.local.files import write_atomically
from usageledger.local.ports import LOOPBACK, kept_ports
from usageledger.sdk.tokens import new_key

DIRECTORY = "gateway"
KEY_FILE = "key"
ANSWER_WITHIN_S = 1.0


def gateway_port(data: Path) -> int:
    """A free port: the one that this directory's gateway had before, if that is still free."""
    return kept_ports(data / DIRECTORY / "ports.json", ("http",))["http"]


def gateway_address(port: int) -> str:
    """The URL of the gateway on this port."""
    return f"http://{LOOPBACK}:{port}"


def gateway_key(data: Path) -> str:
    """The key of the gateway in this directory, made if there is none. It has every scope.

    Only this user can read its file.
    """
    path = data / DIRECTORY / KEY_FILE
    if (key := kept_key(data)) is not None:
        return key
    key = new_key()
    write_atomically(path, key + "\n")
    return key


def history_file(data: Path) -> Path:
    """The file that keeps the history of this directory's ledger."""
    return data / DIRECTORY / HISTORY_FILE


def kept_key(data: Path) -> str | None:
    """The key that was made in this directory; None if there is none."""
    try:
        return (data / DIRECTORY / KEY_FILE).read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None


def answers(address: str) -> bool:
    """Whether the gateway there says that it is ready."""
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=ANSWER_WITHIN_S) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
