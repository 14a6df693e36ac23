"""The rules of our English that a program can check, one function for each.

The linter does not judge style. It finds the few habits that made readers read twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

WORDS_MAX = 25

_WORD = re.compile(r"[A-Za-z¤0-9][\w¤'’./-]*")
_HEADLESS_FIRST = re.compile(r"^[\"'(*_“]*(Who|What)\b(?!ever)")
_HEADLESS_WITHIN = re.compile(
    r"\b(?:and|as|at|but|by|for|from|if|in|of|on|or|than|that|to|when|where|with|unless) who\b"
    r"|[;:(] who\b"
    r"|(?:^|[;:(] )what (?:is|are|was|were|has|have) [\w¤]+ (?:is|are|was|were|has|have|goes)\b"
)
_BARE_SUCH = re.compile(r"\bsuch\b(?=[.,;:)]|$| (?:is|are|was|were|has|have|that|does)\b)", re.I)
_SO_MANY = re.compile(
    r"\b(?:so (?:many|few)\b(?! [\w ]+ that)|(?:it|this|that) (?:is|was) so[.,;:])"
)
BANNED_WORDS = {
    "tether": "die with the parent",
    "tethered": "die with the parent",
    "reckon": "compute",
    "reckons": "computes",
    "reckoned": "computed",
    "reckoning": "computing",
    "told": "notified, informed, announced or asked: say which",
    "untold": "not announced",
    "besides": "also",
    "likes": "kinds",
    "whither": "to which",
    "whence": "from which",
    "thereby": "so",
    "herein": "here",
}
_BANNED = re.compile(rf"\b({'|'.join(BANNED_WORDS)})\b", re.I)


def headless_clauses(sentence: str) -> Iterator[str]:
    """A clause has a noun: *a client that* or *whoever*, never a headless who or what."""
    if not sentence.rstrip("\"')*_”").endswith("?"):
        match = _HEADLESS_FIRST.search(sentence)
        if match and sentence.rstrip("\"')*_” ").endswith((".", "!")):
            yield f"headless “{match.group(1)}”: name who or what it is"
        for match in _HEADLESS_WITHIN.finditer(sentence):
            yield f"headless “{match.group().strip(' ;:(,')}”: name who or what it is"


def bare_quantities(sentence: str) -> Iterator[str]:
    """A quantity or a likeness is stated, and not left bare: say which, how many or why."""
    for match in _BARE_SUCH.finditer(sentence):
        yield f"bare “{match.group()}”: name the thing again"
    for match in _SO_MANY.finditer(sentence):
        yield f"bare “{match.group()}”: say how many, or what is so"


def vague_words(sentence: str) -> Iterator[str]:
    """Words that mean several things here, or that no reader uses."""
    for match in _BANNED.finditer(sentence):
        yield f"“{match.group()}”: write {BANNED_WORDS[match.group().lower()]}"


def long_sentences(sentence: str) -> Iterator[str]:
    """A sentence has one idea, in at most WORDS_MAX words."""
    count = len(_WORD.findall(sentence))
    if count > WORDS_MAX:
        yield f"{count} words; at most {WORDS_MAX}: “{sentence[:60]}…”"


Rule = Callable[[str], Iterator[str]]

RULES: tuple[Rule, ...] = (headless_clauses, bare_quantities, vague_words, long_sentences)
