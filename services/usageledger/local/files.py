"""Small files that a reader never sees half written, and that no other user can read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO, Literal


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step, making its directory if needed.

    Only this user can read it.
    """
    make_private_directory(path.parent)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def make_private_directory(path: Path) -> None:
    """Make a directory that only this user can enter, and each one above it that is missing.

    An existing directory keeps its mode: it may be one that the user shares on purpose.
    """
    if path.is_dir():
        return
    make_private_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)


def open_private(path: Path, mode: Literal["ab", "a+b"]) -> IO[bytes]:
    """Open a file for appending. If it is new, only this user can read it."""
    make_private_directory(path.parent)
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))


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
