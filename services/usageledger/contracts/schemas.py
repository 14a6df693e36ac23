"""Writes ``schemas/``: a JSON Schema for each message, and AsyncAPI 3.0. Always the same bytes.

Run as ``python -m usageledger.contracts.schemas DIRECTORY``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from usageledger.contracts.asyncapi import asyncapi_document
from usageledger.contracts.descriptions import with_joined_lines
from usageledger.contracts.examples import examples
from usageledger.contracts.messages import MESSAGES

ASYNCAPI = "asyncapi.json"


def schema_of(type_: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the message with this CloudEvents type.

    Raises KeyError for a type that does not exist.
    """
    schema = with_joined_lines(MESSAGES[type_].model_json_schema())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": type_,
        "examples": examples()[type_],
    }


def generated_files() -> dict[str, str]:
    """The text of every file in ``schemas/`` that comes from these contracts, by its name."""
    files = {f"{type_}.json": _json_text(schema_of(type_)) for type_ in MESSAGES}
    return {**files, ASYNCAPI: _json_text(asyncapi_document())}


def write(directory: Path) -> Iterable[Path]:
    """Write the files and return their paths. Other files in the directory stay."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in sorted(generated_files().items()):
        path = directory / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def _json_text(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m usageledger.contracts.schemas DIRECTORY")
    write(Path(sys.argv[1]))
