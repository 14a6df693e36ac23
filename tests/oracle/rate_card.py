"""Plans and rates, read line by line from the published text itself.

Ids are the names of that text in lower snake case.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

_TEXT = (
    (Path(__file__).parents[1] / "data" / "captions-ai-usage-limits.txt")
    .read_text(encoding="utf-8")
    .splitlines()
)

PLANS: list[str] = ["free", "pro", "max", "scale", "scale_2x", "scale_4x"]
"""The plans in the order of the table."""

_FEATURE_OF_KIND = {
    "Image": "genai_image",
    "Video": "genai_video",
    "Music": "genai_music",
    "Sound": "genai_sound",
}

_PLAIN = (
    r"(Prompt to Video|AI Twin Creation|AI Edit|AI Creator|AI Ads|AI Skits|Actor re-generation|AI "
    r"Edit Clip Style Change)"
    r"(\d+) credits?(?: per (?:1 )?second)?"
)


def _id(name: str) -> str:
    return re.sub(r"[ .]", "_", re.sub(r" \(.*\)", "", name).replace("-", "").lower())


def _allotments() -> dict[str, Decimal]:
    found = {}
    for line in _TEXT:
        match = re.fullmatch(
            r"(Free|Pro|Max|Scale(?: [24]x)?)\$(?:0|[0-9]+\.99)(\d+)(?: \(do not refresh\))?", line
        )
        if match:
            found[_id(match[1])] = Decimal(match[2])
    return found


def _rates() -> dict[str, dict[str | None, Decimal]]:
    """Credits by feature and model. Those of a feature without a model are under None."""
    found: dict[str, dict[str | None, Decimal]] = {
        feature: {} for feature in _FEATURE_OF_KIND.values()
    }
    for line in _TEXT:
        model = re.fullmatch(r"(.+?)(Image|Video|Music|Sound)(\d+) credits?", line)
        if model and not line.startswith("Prompt to Video"):
            found[_FEATURE_OF_KIND[model[2]]][_id(model[1])] = Decimal(model[3])
            continue
        plain = re.fullmatch(_PLAIN, line)
        if plain:
            found[_id(plain[1])] = {None: Decimal(plain[2])}
        if match := re.search(r"(\d+) credits? per (?:user message|action taken)", line):
            found["chat_message" if "message" in line else "chat_action"] = {
                None: Decimal(match[1])
            }
    return found


ALLOTMENTS = _allotments()
RATES = _rates()
