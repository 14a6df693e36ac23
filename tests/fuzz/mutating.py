"""Mutations after which an input still looks like an input.

They change parts of the JSON or whole lines, and now and then single bytes.
"""

from __future__ import annotations

import json
import random
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**53, 2**63, -(2**63), 2**64, 10**40, 0.5, 1e308, -0.0),
    *(
        "",
        " ",
        "0",
        "1",
        "-1",
        "+1",
        "1.5",
        "0.000001",
        "0.0000001",
        "1e9",
        "9" * 40,
        "9" * 400,
        "NaN",
        "Infinity",
        "٣",
        "\u0000",
        "\ud800",
    ),
    *(
        "a",
        "A",
        "é",
        "e\u0301",
        "x" * 300,
        "x" * 70_000,
        "a\nb",
        " a",
        "a ",
        "acct_1",
        "gen_1",
        "/render",
        "1.0",
        "2.0",
    ),
    *(
        "free",
        "pro",
        "max",
        "scale",
        "scale_4x",
        "genai_video",
        "genai_image",
        "veo_3",
        "ai_edit",
        "period_end",
        "now",
        "up",
        "exact",
        "refuse",
    ),
    *("UTC", "Europe/Berlin", "Pacific/Apia", "America/Nowhere", "../UTC", "Etc/GMT+12"),
    *(
        "2026-11-22T10:15:30Z",
        "2026-11-22T10:15:30",
        "2026-02-30T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
    ),
    *(
        "1969-12-31T23:59:59Z",
        "2999-12-31T23:59:59.999999Z",
        "3000-01-01T00:00:00Z",
        "2026-11-22T10:15:60Z",
        "2026-11-22",
    ),
    *(
        "usage.recorded",
        "usage.voided",
        "account.opened",
        "credits.granted",
        "catalog.published",
        "ledger.entry",
        "ledger.claim",
    ),
    *([], {}, [[]], [None], {"": None}),
)


_BRACKETS_MAX = 400  # Python's own JSON cannot parse a much deeper document


def mutation_of(data: bytes, rng: random.Random) -> bytes:
    """A mutation of ``data``: of its lines of JSON if it has them, or else of its bytes."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    choice = rng.random()
    if choice < 0.75:
        lines[at] = _structural_mutation(lines[at], rng)
    elif choice < 0.85:
        lines.insert(rng.randrange(len(lines) + 1), lines[at])
    elif choice < 0.9 and len(lines) > 1:
        del lines[at]
    else:
        lines[at] = _byte_mutation(lines[at], rng)
    return b"\n".join(lines)


def _structural_mutation(line: bytes, rng: random.Random) -> bytes:
    if line.count(b"[") + line.count(b"{") > _BRACKETS_MAX:
        return _byte_mutation(line, rng)
    try:
        document = json.loads(line)
    except ValueError:
        return _byte_mutation(line, rng)
    if rng.random() < 0.02:
        return rng.choice(
            [
                b"[" * 2_000,
                b'{"a":' * 400 + b"1" + b"}" * 400,
                line + line,
                b"\xef\xbb\xbf" + line,
                b'{"data":' + b"[" * 100_000,
            ]
        )
    containers = [part for part in _parts(document) if part]
    if not containers:
        return json.dumps(rng.choice(VALUES)).encode()
    _change(rng.choice(containers), containers, rng)
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return _with_a_key_twice(text, rng) if rng.random() < 0.05 else text


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [value, *(part for inner in value.values() for part in _parts(inner))]
    if isinstance(value, list):
        return [value, *(part for inner in value for part in _parts(inner))]
    return []


def _change(part: Any, others: list[Any], rng: random.Random) -> None:
    """Change one member of an object or a list."""
    place = rng.choice(list(part)) if isinstance(part, dict) else rng.randrange(len(part))
    choice = rng.random()
    if choice < 0.45:
        part[place] = rng.choice(VALUES)
    elif choice < 0.6:
        del part[place]
    elif choice < 0.75:
        other = rng.choice(others)
        part[place] = json.loads(
            json.dumps(rng.choice(list(other.values()) if isinstance(other, dict) else other))
        )
    elif choice < 0.9:
        part[place] = _variation_of(part[place], rng)
    elif isinstance(part, dict):
        part[rng.choice([str(place).upper(), f"{place} ", "", "extra"])] = part[place]
    else:
        part.insert(place, part[place])


def _variation_of(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return rng.choice(
            [value + 1, value - 1, -value, value * 1_000_000, str(value), float(value)]
        )
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return (
            value[:at]
            + rng.choice(["", "0", ".", "-", " ", "\u0000", "ß", "\U0001f600", value])
            + value[at + rng.randrange(2) :]
        )
    return [value] if rng.random() < 0.5 else str(value)


def _with_a_key_twice(text: bytes, rng: random.Random) -> bytes:
    return text.replace(b"{", rng.choice([b'{"id":"twice",', b'{"type":null,', b'{"data":{},']), 1)


def _byte_mutation(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data or b"{}")
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(changed) + 1)
        choice = rng.random()
        if choice < 0.4 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif choice < 0.6:
            changed[at:at] = rng.randbytes(rng.randrange(1, 4))
        elif choice < 0.8:
            del changed[at : at + rng.randrange(1, 9)]
        else:
            changed[at:at] = changed[: rng.randrange(len(changed) + 1)][-40:]
    return bytes(changed)
