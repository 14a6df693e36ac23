"""``processor skip`` on the real broker and store, while the processor runs."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.operated import Operated, choking_on_poison, operated
from usageledger.operations.audit_verdict import verdict_line

__all__ = ["choking_on_poison", "operated"]


@pytest.mark.usefixtures("choking_on_poison")
def test_a_running_processor_goes_on_by_itself_once_the_input_is_skipped(
    operated: Operated,
) -> None:
    async def work() -> None:
        account, other = operated.account_in(1), operated.account_in(0)
        async with operated.processor():
            await asyncio.to_thread(operated.use, account, "u1", "poison", "u3")
            await asyncio.to_thread(operated.use, other, "v1")
            await operated.decided(2)
            early = await operated.run("processor", "skip", "1@2", "--reason", "not this one")
            assert (early.exit_code, "has not come to usage 1@2" in early.output) == (1, True)
            skipped = await operated.json(
                "processor", "skip", "1@1", "--topic", "usage", "--reason", "see #812"
            )
            assert (skipped["kind"], skipped["account"], skipped["credits"], skipped["reason"]) == (
                "skip",
                account,
                "0",
                "see #812",
            )
            await operated.decided(4)
            again = await operated.run("processor", "skip", "1@1", "--reason", "once more")
            assert (again.exit_code, "has been decided" in again.output) == (1, True)
        report = await operated.audit()
        assert report.is_clean, verdict_line(report)
        assert "4 inputs = 3 accepted + 0 refused + 0 duplicates + 1 skipped" in verdict_line(
            report
        )

    asyncio.run(work())
