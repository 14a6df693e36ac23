"""Descriptions in generated schemas: a docstring without the line breaks of its source file."""

from __future__ import annotations

import re
from typing import Any

_BREAK_WITHIN_A_PARAGRAPH = re.compile(r"(?<!\n)\n(?!\n| *[-*] )")


def with_joined_lines(schema: Any) -> Any:
    """A JSON Schema or an OpenAPI document in which each paragraph of a description is one line.

    Where a docstring is wrapped in the source says nothing to a reader of the schema.
    """
    if isinstance(schema, dict):
        return {name: _joined(name, value) for name, value in schema.items()}
    if isinstance(schema, list):
        return [with_joined_lines(item) for item in schema]
    return schema


def _joined(name: str, value: Any) -> Any:
    if name == "description" and isinstance(value, str):
        return _BREAK_WITHIN_A_PARAGRAPH.sub(" ", value).strip()
    return with_joined_lines(value)
