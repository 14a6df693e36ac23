"""Measures the time from a crossing event to a subscriber, an SSE client and a webhook receiver.

    python -m tests.benchmarks.crossing_latency [--crossings 200] [--every-ms 100]
                                                [--usage 5000] [--idle-only]

Each sample is an account on Free that uses all its credits in one event, which `UsageMeter` reports
without waiting. The time begins right before `record`. The event passes the spool, Kafka, the
processor, the ledger, the limits consumer and the gateway. Each listener is a process of its own,
and all read the same clock. Under load, another process meanwhile reports usage of other accounts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

from tests.benchmarks.listeners import Listener, account_name, listening, percentile
from tests.benchmarks.usage_flow import usage_flowing
from tests.servers import RunningGateway, running_gateway
from usageledger import UsageMeter
from usageledger.local.servers import choose_backend, start_servers

HEARD_WITHIN_S = 60.0


def main() -> None:
    arguments = _arguments()
    print(
        f"{arguments.crossings} crossings, one every {arguments.every_ms} ms; {os.cpu_count()} "
        "cores"
    )
    print(f"{'ms from record':<34}{'p50':>9}{'p99':>9}{'max':>9}")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        servers = start_servers(Path(directory) / "servers", choose_backend(None).backend)
        stack.callback(servers.stop)
        gateway = stack.enter_context(
            running_gateway(Path(directory) / "stack", servers.kafka, servers.redis_url)
        )
        run(gateway, arguments, Path(directory), first=0, load="idle")
        if not arguments.idle_only:
            with usage_flowing(gateway, arguments.usage):
                run(
                    gateway,
                    arguments,
                    Path(directory),
                    first=arguments.crossings,
                    load=f"{arguments.usage:,} events/s",
                )


def run(
    gateway: RunningGateway,
    arguments: argparse.Namespace,
    directory: Path,
    *,
    first: int,
    load: str,
) -> None:
    """One round with accounts of its own."""
    address = gateway.addresses
    with ExitStack() as stack:
        streams = ("stream", gateway.url, gateway.key, str(first), str(arguments.crossings))
        listeners = {
            "LimitSubscriber": stack.enter_context(
                listening("subscriber", str(address.kafka), address.prefix)
            ),
            "SSE client": stack.enter_context(listening(*streams)),
            "webhook receiver": stack.enter_context(listening("webhook")),
        }
        (url,) = listeners["webhook receiver"].ready_words
        headers = {"Authorization": f"Bearer {gateway.key}"}
        made = httpx.post(
            f"{gateway.url}/v1/webhooks",
            json={"url": url, "types": ["limit.reached"]},
            headers=headers,
            timeout=30,
        )
        accounts = [account_name(first + number) for number in range(arguments.crossings)]
        sent_s = cross(
            gateway, accounts, arguments.every_ms / 1e3, directory / f"spool-crossing-{first}"
        )
        wait_for(listeners, accounts)
        httpx.delete(f"{gateway.url}/v1/webhooks/{made.json()['id']}", headers=headers, timeout=30)
    for name, listener in listeners.items():
        took_ms = [
            (listener.heard_s[account] - sent_s[account]) * 1e3
            for account in accounts
            if account in listener.heard_s
        ]
        missed = len(accounts) - len(took_ms)
        figures = "".join(f"{percentile(took_ms, share):>9.1f}" for share in (0.5, 0.99, 1.0))
        print(
            f"{f'{name}, {load}':<34}{figures}{f'   {missed} not heard' if missed else ''}",
            flush=True,
        )


def cross(
    gateway: RunningGateway, accounts: list[str], interval_s: float, spool: Path
) -> dict[str, float]:
    """Have each account cross its limit in turn. Return the time of each one's event."""
    sent_s: dict[str, float] = {}
    address = gateway.addresses
    with UsageMeter(
        kafka=address.kafka, prefix=address.prefix, source="/bench", spool_directory=str(spool)
    ) as meter:
        meter.record(account="bench_first", feature="genai_video", model="veo_3", id="first")
        meter.flush(30)
        for account in accounts:
            sent_s[account] = time.time()
            meter.record(
                account=account, feature="genai_video", model="veo_3", quantity=7, id=account
            )
            time.sleep(interval_s)
    return sent_s


def wait_for(listeners: dict[str, Listener], accounts: list[str]) -> None:
    """Wait until every listener has heard of every account, but at most HEARD_WITHIN_S."""
    deadline_s = time.monotonic() + HEARD_WITHIN_S
    while (
        any(not set(accounts) <= listener.heard_s.keys() for listener in listeners.values())
        and time.monotonic() < deadline_s
    ):
        time.sleep(0.1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="the time from an event that crosses a limit to its listeners"
    )
    parser.add_argument("--crossings", type=int, default=200)
    parser.add_argument("--every-ms", type=int, default=100)
    parser.add_argument("--usage", type=int, default=5_000)
    parser.add_argument("--idle-only", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
