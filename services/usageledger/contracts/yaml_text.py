"""YAML for people to read, from plain values: block mappings and lists, every scalar as JSON writes
it (which YAML reads alike).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

# Keys that YAML reads as themselves; others are quoted. `on`, `yes` and their like are booleans to
# older readers.
_PLAIN_KEY = re.compile(
    r"(?!(?:[yYnN]|[Yy]es|[Nn]o|[Oo]n|[Oo]ff|[Tt]rue|[Ff]alse|null)$)[A-Za-z_][A-Za-z0-9_./-]*"
)


def yaml_text(value: Mapping[str, object]) -> str:
    """Write a mapping as a YAML document.

    Keys keep their order. Raises TypeError for what JSON cannot hold.
    """
    return "".join(f"{line}\n" for line in _lines(value))


def _lines(value: object) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _keyed(key if _PLAIN_KEY.fullmatch(key) else json.dumps(key), item)
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        for item in value:
            first, *rest = _lines(item)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
    else:
        yield json.dumps(value, ensure_ascii=False)


def _keyed(key: str, item: object) -> Iterator[str]:
    if isinstance(item, (Mapping, list, tuple)) and item:
        yield f"{key}:"
        yield from (f"  {line}" for line in _lines(item))
    else:
        yield f"{key}: {json.dumps(item, ensure_ascii=False)}"
