"""Descriptions in generated schemas: docstrings without the line breaks of their source."""

from __future__ import annotations

import re
from typing import Any

_BREAK_WITHIN_A_PARAGRAPH = re.compile(r"(?<!\n)\n(?!\n| *[-*] )")


def with_joined_lines(schema: Any) -> Any:
    """The JSON Schema or OpenAPI document, with each paragraph of a description on one line.

    The line breaks of the source mean nothing to a reader of the schema.
    """
    if isinstance(schema, dict):
        return {name: _with_joined_text(name, value) for name, value in schema.items()}
    if isinstance(schema, list):
        return [with_joined_lines(item) for item in schema]
    return schema


def _with_joined_text(name: str, value: Any) -> Any:
    if name == "description" and isinstance(value, str):
        return _BREAK_WITHIN_A_PARAGRAPH.sub(" ", value).strip()
    return with_joined_lines(value)
