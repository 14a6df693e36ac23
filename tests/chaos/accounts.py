"""The accounts of a run, and their uses.

New accounts appear all the time. Otherwise all would soon be blocked, and none would cross a limit.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

GENERATION_S = 20
ACCOUNTS_PER_GENERATION = 24
PLANS = ("pro", "pro", "max", "scale")


class Use(NamedTuple):
    """One use of a feature."""

    feature: str
    model: str | None
    quantity: str


USES = (
    Use("genai_video", "veo_2", "1"),
    Use("genai_video", "pika", "1"),
    Use("genai_video", "ray_2_flash", "3"),
    Use("genai_image", "gpt_4o_image", "2"),
    Use("genai_image", "imagen_3", "4"),
    Use("genai_music", "udio", "1"),
    Use("genai_sound", "mmaudio", "1"),
    Use("chat_message", None, "1"),
    Use("chat_action", None, "2"),
    Use("ai_twin_creation", None, "1"),
    Use("prompt_to_video", None, "2.5"),
    Use("ai_creator", None, "7.25"),
)


def account_now(rng: random.Random) -> str:
    """An account that is in use now.

    Most are of the present generation, some of the one before, and a few are older.
    """
    generation = int(time.time()) // GENERATION_S - rng.choice((0, 0, 0, 0, 1, 1, 4))
    return f"acct_{generation}_{rng.randrange(ACCOUNTS_PER_GENERATION)}"


def anchor_that_ends_in(seconds: float, now: datetime) -> datetime:
    """The anchor of a monthly cycle whose running period ends in ``seconds``."""
    end = (now + timedelta(seconds=seconds)).astimezone(UTC)
    # A month with 31 days, so that the day is not clamped.
    return end.replace(year=end.year - 1, month=10)
