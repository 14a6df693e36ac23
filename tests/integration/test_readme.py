"""The README's Python samples run as they are printed, in their order, on a real ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.examples import ledger
from tests.examples.ledger import balance_of, wait_for
from tests.prose.samples import blocks_of
from tests.prose.texts import ROOT
from tests.servers import RunningGateway
from usageledger.domain.credits import format_credits
from usageledger.log.reading import log_reader
from usageledger.operations.ledger_entries import ledger_entries

README = (ROOT / "README.md").read_text(encoding="utf-8")
ACCOUNT = "acct_4821"
EXPECTED = {"charged": ["32", "32"], "plan": "pro", "granted": "20", "hold": "settled"}


def test_the_samples_charge_settle_and_grant_as_printed(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    """Only the account's name is replaced.

    The addresses are in the variables that the README names. The ledger is shared, and the examples
    of the API charge the printed account.
    """
    readme = README.replace(ACCOUNT, "acct_of_the_readme")
    assert outcome_of(readme, "acct_of_the_readme", gateway, tmp_path) == EXPECTED


def test_samples_that_do_something_else_are_found(
    gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "DEADLINE_S", 10.0)
    wrong = README
    for right, other in (
        (ACCOUNT, "acct_of_wrong_samples"),
        ("quantity=1", "quantity=2"),
        ('plan="pro"', 'plan="max"'),
        ("credits=20", "credits=19"),
        (", hold_id=hold.id", ""),
    ):
        assert right in wrong
        wrong = wrong.replace(right, other)
    assert outcome_of(wrong, "acct_of_wrong_samples", gateway, tmp_path) == {
        "charged": ["32", "64"],
        "plan": "max",
        "granted": "19",
        "hold": "open",
    }


def outcome_of(
    readme: str, account: str, gateway: RunningGateway, directory: Path
) -> dict[str, object]:
    """Run the samples of a README and return the account's final state."""
    names: dict[str, Any] = {}
    code = "\n".join(blocks_of(readme, "python"))
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("USAGELEDGER_KAFKA", str(gateway.addresses.kafka))
            environment.setenv("USAGELEDGER_REDIS_URL", gateway.addresses.redis_url)
            environment.setenv("USAGELEDGER_PREFIX", gateway.addresses.prefix)
            environment.setenv("USAGELEDGER_SPOOL", str(directory))
            exec(compile(code, "README.md", "exec"), names)
        assert names["meter"].flush()
        charged = wait_for(lambda: _charges(gateway, account), lambda found: len(found) == 2)
        balance = wait_for(
            lambda: balance_of(gateway, account),
            lambda found: found["granted"] != "0" and found["held"] == "0",
        )
        # The same hold again is answered with its state, and reserves nothing new.
        hold = names["gate"].hold(account, "gen_01J10", "genai_video", "veo_3")
    finally:
        for name in {"meter", "gate"} & names.keys():
            names[name].close()
    return {
        "charged": charged,
        "plan": balance["plan"],
        "granted": balance["granted"],
        "hold": hold.state,
    }


def _charges(gateway: RunningGateway, account: str) -> list[str]:
    with log_reader(gateway.addresses.kafka) as reader:
        found = ledger_entries(reader, gateway.addresses.prefix, account)
        return sorted(
            format_credits(sealed.entry.credits) for sealed in found if sealed.entry.kind == "usage"
        )
