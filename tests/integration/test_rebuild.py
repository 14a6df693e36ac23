"""``rebuild`` on the real broker and store, while the processor runs and appends."""

from __future__ import annotations

import asyncio
from contextlib import closing

from tests.integration.operated import Operated, operated
from usageledger.counters.connection import connect_blocking
from usageledger.counters.keys import PartitionKeys
from usageledger.operations.audit_verdict import verdict_line

__all__ = ["operated"]


def test_a_damaged_view_is_rebuilt_while_the_processor_appends(operated: Operated) -> None:
    async def work() -> None:
        accounts = [operated.account_in(partition) for partition in range(2)]
        keys = PartitionKeys(operated.prefix, 1)
        async with operated.processor():
            for account in accounts:
                await asyncio.to_thread(operated.use, account, *(f"u{n}" for n in range(200)))
            await operated.decided(400)
            with closing(connect_blocking(operated.redis_url)) as redis:
                redis.hset(keys.accounts, mapping={"stranger": "of no ledger"})
                redis.hset(keys.holds("ann"), mapping={"hold": "held"})
                assert "stranger" in verdict_line(await operated.audit())
                sending = asyncio.create_task(
                    asyncio.to_thread(operated.use, accounts[1], *(f"w{n}" for n in range(500)))
                )
                found = await operated.json("rebuild", "--partition", "1")
                assert (found["partition"], found["begun_at"]) == (1, 0)
                await sending
                await operated.decided(900)
                assert redis.hgetall(keys.holds("ann")) == {b"hold": b"held"}
                assert list(redis.scan_iter(f"{keys.beside.root}*")) == []
            every = await operated.run("rebuild", "--all")
            assert every.exit_code == 0, every.output
            assert every.stdout.count("rebuilt up to ledger offset") == 2
            await asyncio.to_thread(operated.use, accounts[0], "last")
            await operated.decided(901)
        report = await operated.audit()
        assert (report.is_clean, report.accounts) == (True, 2), verdict_line(report)

    asyncio.run(work())
