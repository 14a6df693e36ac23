"""A refusal in words: the request, and the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from usageledger.operations.refusals import refusal_text


@pytest.mark.parametrize(
    ("reason", "data", "says"),
    [
        (
            "unknown_plan",
            {"plan": "gold"},
            "no catalog has a plan 'gold': `usageledger catalog show` lists them",
        ),
        (
            "unknown_feature",
            {"feature": "hologram", "model": None},
            "no catalog has a feature 'hologram': `usageledger catalog show` lists them",
        ),
        (
            "unknown_model",
            {"feature": "genai_video", "model": None},
            "'genai_video' is charged by model, and none was named: name one (--model)",
        ),
        (
            "unknown_model",
            {"feature": "genai_video", "model": "v9"},
            "no catalog has a rate for model 'v9' of 'genai_video'",
        ),
        (
            "unknown_model",
            {"feature": "{plan}", "model": "{0}"},
            "no catalog has a rate for model '{0}' of '{plan}'",
        ),
        ("already_subscribed", {"plan": "pro"}, "`usageledger account change-plan` changes it"),
    ],
)
def test_a_refusal_names_what_was_asked_for_and_what_to_do(
    reason: str, data: dict[str, Any], says: str
) -> None:
    """It gave only the reason's code. Nobody could see which plan billing had asked for."""
    assert says in refusal_text(reason, data)


def test_a_reason_without_words_of_its_own_is_shown_as_its_code() -> None:
    assert refusal_text("too_old", {}) == ""
