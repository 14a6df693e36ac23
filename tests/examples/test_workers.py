"""The workers of the examples, each on a real ledger: what they hold, what they report, what
becomes of it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from decimal import Decimal
from pathlib import Path

import pytest
import redis
from rq import Queue

from examples import asyncio_worker
from tests.examples.ledger import balance_of, wait_for
from tests.servers import RunningGateway
from usageledger import AccountClient, AsyncUsageGate, UsageMeter

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def account(gateway: RunningGateway) -> str:
    """An account on Pro: 200 credits."""
    name = f"worker_{uuid.uuid4().hex[:8]}"
    with AccountClient(
        source="test", kafka=gateway.addresses.kafka, prefix=gateway.addresses.prefix
    ) as client:
        client.subscribe(name, "pro")
    wait_for_balance(gateway, name, plan="pro")
    return name


def test_a_queue_full_of_jobs_spends_what_the_account_has_and_no_more(
    gateway: RunningGateway, account: str, tmp_path: Path
) -> None:
    """A video with Veo 3 is 32 credits: of the account's 200, six are made, and a job that RQ runs
    twice is charged once.

    RQ's own command runs it, and forks for each job. Events that a fork had not sent when it ended
    were charged only when some other process found them.
    """
    address = gateway.addresses
    connection = redis.Redis.from_url(address.redis_url)
    queue = Queue(f"videos-{account}", connection=connection)
    jobs = [
        queue.enqueue("rq_worker.render", account, f"gen_{number}", "a lighthouse")
        for number in (1, 1, 2, 3, 4, 5, 6, 7, 8)
    ]
    worker = [
        sys.executable,
        "-m",
        "rq.cli",
        "worker",
        queue.name,
        "--burst",
        "--url",
        address.redis_url,
        "--path",
        str(EXAMPLES),
    ]
    told = {
        "KAFKA": str(address.kafka),
        "REDIS_URL": address.redis_url,
        "PREFIX": address.prefix,
        "SPOOL": str(tmp_path),
    }
    environment = os.environ | {f"USAGELEDGER_{name}": value for name, value in told.items()}
    done = subprocess.run(worker, env=environment, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr[-2_000:]
    results = [job.return_value(refresh=True) for job in jobs]
    connection.close()
    assert results[:7] == ["video of a lighthouse"] * 7, done.stderr[-2_000:]
    assert results[7:] == ["not started: insufficient_credits"] * 2
    wait_for_balance(gateway, account, used="192", remaining="8")


def test_clips_are_charged_what_they_came_to_and_a_failed_one_nothing(
    gateway: RunningGateway, account: str, tmp_path: Path
) -> None:
    async def generate(job: asyncio_worker.Job) -> Decimal:
        if job.id == "clip_0":
            raise RuntimeError("the model has failed")
        await asyncio.sleep(0.1)
        return Decimal("2.3")

    async def do_all() -> list[str | BaseException]:
        with UsageMeter(
            source="clips",
            kafka=gateway.addresses.kafka,
            prefix=gateway.addresses.prefix,
            spool_directory=str(tmp_path),
        ) as meter:
            async with AsyncUsageGate(
                gateway=gateway.url, key=gateway.key, on_unavailable="deny", timeout_s=10
            ) as gate:
                jobs = [
                    asyncio_worker.Job(f"clip_{number}", account, "a lighthouse", seconds_max=50)
                    for number in range(6)
                ]
                return await asyncio.gather(
                    *(asyncio_worker.do(job, gate, meter, generate) for job in jobs),
                    return_exceptions=True,
                )

    told = asyncio.run(do_all())
    done = [text for text in told if isinstance(text, str) and text.endswith("2.3 s")]
    refused = [text for text in told if isinstance(text, str) and "insufficient_credits" in text]
    failed = [error for error in told if isinstance(error, RuntimeError)]
    # Four holds of 50 fit in 200 at once; what has failed gives its hold back, perhaps in time for
    # another.
    assert len(done) + len(refused) + len(failed) == 6
    assert 3 <= len(done) <= 5
    assert all("Max would do" in text for text in refused)
    wait_for_balance(gateway, account, used=str(3 * len(done)))


def wait_for_balance(gateway: RunningGateway, account: str, **expected: str) -> None:
    """Until the account is as expected."""
    found = wait_for(
        lambda: balance_of(gateway, account),
        lambda balance: all(balance[name] == value for name, value in expected.items()),
    )
    assert {name: found[name] for name in expected} == expected
