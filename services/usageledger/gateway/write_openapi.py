"""Writes the OpenAPI document of the gateway, the same bytes each time.

Run as ``python -m usageledger.gateway.write_openapi DIRECTORY``; it writes ``openapi.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from usageledger.gateway.app import bare_app

OPENAPI = "openapi.json"


def write(directory: Path) -> Path:
    """Write the file and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / OPENAPI
    path.write_text(
        json.dumps(bare_app().openapi(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m usageledger.gateway.write_openapi DIRECTORY")
    write(Path(sys.argv[1]))
