"""Measures many clients of account streams on one gateway, and a limit event's way to one of them.

    python -m tests.benchmarks.sse_clients [--clients 1000] [--crossings 100]

Each client listens to an account of its own, all in one other process. It prints the gateway's
resident memory without clients, with them, and after all figures have changed. It also prints the
gateway's processor time while nothing happens, and the time from a crossing event to the client.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.crossing_latency import cross, wait_for
from tests.benchmarks.listeners import account_name, listening, percentile
from tests.servers import running_gateway
from usageledger.local.daemon import read_status
from usageledger.local.servers import choose_backend, start_servers

QUIET_S = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description="the cost of clients of account streams to a gateway"
    )
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--crossings", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        servers = start_servers(Path(directory) / "servers", choose_backend(None).backend)
        stack.callback(servers.stop)
        gateway = stack.enter_context(
            running_gateway(Path(directory) / "stack", servers.kafka, servers.redis_url)
        )
        services = {
            service["name"]: service for service in read_status(gateway.addresses.data)["services"]
        }
        pid = int(services["gateway"]["pid"])
        print(f"no clients: {resident_mb(pid):.0f} MB")
        began_s = time.monotonic()
        streams = stack.enter_context(
            listening("stream", gateway.url, gateway.key, "0", str(arguments.clients))
        )
        print(
            f"{arguments.clients:,} clients, each with its figures after "
            f"{time.monotonic() - began_s:.1f} s: {resident_mb(pid):.0f} MB"
        )
        began_s, used_s = time.monotonic(), processor_s(pid)
        time.sleep(QUIET_S)
        print(
            f"nothing happens: {(processor_s(pid) - used_s) / (time.monotonic() - began_s):.1%} of "
            "a core"
        )
        accounts = [account_name(number) for number in range(arguments.crossings)]
        sent_s = cross(gateway, accounts, 0.1, Path(directory) / "spool")
        wait_for({"streams": streams}, accounts)
        took_ms = [
            (streams.heard_s[account] - sent_s[account]) * 1e3
            for account in accounts
            if account in streams.heard_s
        ]
        heard = f"{len(took_ms)} of {len(accounts)} crossings heard"
        print(
            f"{heard}: p50 {percentile(took_ms, 0.5):.1f} ms, "
            f"p99 {percentile(took_ms, 0.99):.1f} ms; {resident_mb(pid):.0f} MB"
        )


def resident_mb(pid: int) -> float:
    """A process's resident memory."""
    (line,) = (
        line
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        if line.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1_024


def processor_s(pid: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
