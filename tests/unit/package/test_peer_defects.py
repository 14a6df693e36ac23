"""Each defect seen in other meters has a test here:
``python -m pytest -m peer_defect tests`` runs them all.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parents[2]

DEFECTS = {
    "OpenMeter #5118": "an identity is claimed before the write and never released: a failed write "
    "and a retry count zero",
    "OpenMeter #5005": "records carry the events' own dates: retention deletes late events after "
    "they were accepted",
    "OpenMeter sink": "malformed events are dropped after they were acknowledged",
    "FluxMeter: identity forgotten": "an identity is remembered for ten minutes to an hour: a log "
    "sent again is charged again",
    "FluxMeter: float balances": "balances are floats: sums drift",
    "FluxMeter, Autumn, Blnk": "limit notices are lost in a crash, repeated each window, or sent "
    "and forgotten",
    "FluxMeter: holds": "holds have no id and no end, and settling twice settles twice",
    "FluxMeter: tenants collide": "two tenants' keys can be one key",
    "Flexprice": "a crossing is dated with when it was found out",
    "Twenty, Autumn, dust": "periods go wrong at the end of a month and at a change of the clocks",
    "llmgateway, flowglad": "going up and down between plans, or subscribing twice, yields credits "
    "that nobody paid for",
    "Draftdeckai": "a generation that failed stays charged",
}

_MARKED = re.compile(r'^(?:@|\w+ = )pytest\.mark\.peer_defect\("([^"]+)"\)', re.MULTILINE)


def marked() -> dict[str, list[str]]:
    """The files that contain each defect's tests."""
    found = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for name in _MARKED.findall(path.read_text(encoding="utf-8")):
            found[name].append(path.name)
    return found


def test_each_defect_seen_in_a_peer_has_a_test_of_its_own() -> None:
    assert set(marked()) == set(DEFECTS)
