"""Usage that flows while something else is measured, from a process of its own that costs little.

It sends events at a fixed rate. Real workers run elsewhere, so this machine should not do their
SDK's work. Events are made from one template. aiokafka sends a whole batch every twentieth of a
second, at a few microseconds per event.
`tests/benchmarks/record_cost.py` measures the SDK.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer

from tests.servers import RunningGateway
from usageledger.ledger.partitioning import partition_of
from usageledger.log.topics import Topics
from usageledger.runtime.kafka_connection import KafkaConnection

ACCOUNTS = 500
"""acct_0, acct_1, …: their uses cost nothing, so none of them crosses a limit."""
INTERVAL_S = 0.05
WARM_UP_S = 15.0
"""For some ten seconds under load, the broker's JVM compiles code and is three times as slow."""

_EVENT = (
    '{"specversion":"1.0","type":"usage.recorded","id":"%s-%d","source":"/bench",'
    '"subject":"acct_%d","time":"%s","datacontenttype":"application/json",'
    '"data":{"feature":"genai_sound","model":"mmaudio","quantity":"1"}}'
)


@contextmanager
def usage_flowing(gateway: RunningGateway, rate: int) -> Iterator[None]:
    """Report ``rate`` events a second during the block, and print the total at the end."""
    arguments = [str(gateway.addresses.kafka), gateway.addresses.prefix, str(rate)]
    process = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()  # it has begun
        time.sleep(WARM_UP_S)
        yield
    finally:
        said, _ = process.communicate("end\n", timeout=60)
        print(f"  {said.strip()}", flush=True)


async def flow(kafka: KafkaConnection, prefix: str, rate: int) -> None:
    """Send until standard input ends."""
    topic, run = Topics(prefix).usage, f"{time.time():.0f}"
    async with AIOKafkaProducer(
        bootstrap_servers=str(kafka), acks="all", max_batch_size=1_000_000
    ) as producer:
        partitions = len(await producer.partitions_for(topic))
        homes = [partition_of(f"acct_{number}".encode(), partitions) for number in range(ACCOUNTS)]
        ended = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
        print("begun", flush=True)
        began_s, sent, on_their_way = time.perf_counter(), 0, set[asyncio.Task[object]]()
        while not ended.done():
            wanted = int((time.perf_counter() - began_s) * rate)
            batches = {partition: producer.create_batch() for partition in set(homes)}
            at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            for number in range(sent, wanted):
                account = number % ACCOUNTS
                value = (_EVENT % (run, number, account, at)).encode()
                batches[homes[account]].append(
                    key=f"acct_{account}".encode(), value=value, timestamp=None
                )
            for partition, batch in batches.items():
                if batch.record_count():
                    task = asyncio.ensure_future(
                        await producer.send_batch(batch, topic, partition=partition)
                    )
                    on_their_way.add(task)
                    task.add_done_callback(on_their_way.discard)
            sent = wanted
            await asyncio.sleep(INTERVAL_S)
        took_s, waiting = time.perf_counter() - began_s, len(on_their_way)
        await asyncio.gather(*on_their_way)
        spent = f"{time.process_time() / took_s:.0%} of a core"
        print(
            f"reported {sent / took_s:,.0f} events/s for {spent}; {waiting} batches were on their "
            "way at the end"
        )


if __name__ == "__main__":
    asyncio.run(flow(KafkaConnection(servers=sys.argv[1]), sys.argv[2], int(sys.argv[3])))
