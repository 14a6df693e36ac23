"""An asyncio worker that holds the most a generation may cost, generates, and reports the use.

    pip install "usageledger[gate]"
    export USAGELEDGER_GATEWAY_URL=http://127.0.0.1:8137 USAGELEDGER_KEY=ulk_…
    export USAGELEDGER_KAFKA=127.0.0.1:9092
    python asyncio_worker.py

However many workers ask at once, no two get the last credits. A generation that fails or is
cancelled releases its hold at once. If the worker dies, the hold expires after five minutes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from usageledger import AsyncUsageGate, NotEnoughCredits, UsageMeter


@dataclass(frozen=True)
class Job:
    """A clip that somebody asked for."""

    id: str
    account: str
    prompt: str
    seconds_max: int = 10


async def do(
    job: Job, gate: AsyncUsageGate, meter: UsageMeter, generate: Callable[[Job], Awaitable[Decimal]]
) -> str:
    """Do one job, and say what became of it. ``generate`` returns how many seconds the clip has."""
    five_minutes = timedelta(minutes=5)
    try:
        async with gate.held(
            job.account,
            id=job.id,
            feature="ai_creator",
            quantity=job.seconds_max,
            expires_in=five_minutes,
        ) as hold:
            seconds = await generate(job)

            def report() -> None:
                """Charged once, however often the job is tried; it settles the hold."""
                meter.record(
                    account=job.account,
                    id=job.id,
                    feature="ai_creator",
                    quantity=seconds,
                    hold_id=hold.id,
                )

            await asyncio.to_thread(
                report
            )  # it is on disk before this returns, and the loop does not wait for disks
            return f"{job.id}: {seconds} s"
    except NotEnoughCredits as error:
        upgrade = error.answer.upgrade
        return f"{job.id}: not started ({error.answer.reason})" + (
            f", {upgrade.name} would do" if upgrade else ""
        )


async def generate(job: Job) -> Decimal:
    """Stands for the model: a clip of a third of a second for each word."""
    await asyncio.sleep(0.2)
    return (Decimal(len(job.prompt.split())) / 3).quantize(Decimal("0.001"))


async def main() -> None:
    jobs = [
        Job(f"clip_{number}", "acct_4821", "a lighthouse in the fog at dawn") for number in range(6)
    ]
    with UsageMeter(source="clips") as meter:
        async with AsyncUsageGate(
            gateway=os.environ["USAGELEDGER_GATEWAY_URL"],
            key=os.environ["USAGELEDGER_KEY"],
            on_unavailable="allow",
        ) as gate:
            for told in await asyncio.gather(*(do(job, gate, meter, generate) for job in jobs)):
                print(told)


if __name__ == "__main__":
    asyncio.run(main())
