"""Small files that a reader never sees half written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step, making its directory if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def cache_directory() -> Path:
    """This user's directory for fetched files: ``USAGELEDGER_CACHE``, else ``usageledger`` in
    ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    if chosen := os.environ.get("USAGELEDGER_CACHE"):
        return Path(chosen).expanduser()
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser()
        / "usageledger"
    )
