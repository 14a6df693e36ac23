"""``doctor`` on a real Kafka and Redis: it finds nothing while everything runs, and it finds every
fault.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from tests.integration.operated import Operated, operated
from usageledger.counters.connection import connect_blocking
from usageledger.counters.keys import PartitionKeys
from usageledger.limits.consumer import run_limits
from usageledger.log.topics import Topics
from usageledger.operations.doctor.examine import examine
from usageledger.runtime.kafka_connection import KafkaConnection

__all__ = ["operated"]


@contextmanager
def limits(operated: Operated) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(
        target=run_limits, kwargs={"kafka": operated.kafka, "prefix": operated.prefix, "stop": stop}
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


async def findings(operated: Operated) -> dict[str, list[dict[str, Any]]]:
    """The command's findings that are no notices, by area. Its exit code agrees with them."""
    result = await operated.run("doctor", "--json")
    examination = json.loads(result.stdout)
    found: dict[str, list[dict[str, Any]]] = {}
    for each in examination["findings"]:
        if each["needs_somebody"]:
            found.setdefault(each["area"], []).append(each)
    assert (result.exit_code, examination["is_well"]) == ((1, False) if found else (0, True)), (
        result.output
    )
    return found


def test_a_running_ledger_is_well_and_each_fault_has_its_command(
    operated: Operated,
) -> None:
    async def work() -> None:
        with limits(operated):
            async with operated.processor():
                for partition in range(2):
                    await asyncio.to_thread(
                        operated.use, operated.account_in(partition), *(f"u{n}" for n in range(10))
                    )
                await operated.decided(20)
                await operated.until(
                    lambda: examine(operated.kafka, operated.redis_url, operated.prefix).is_well
                )
                assert await findings(operated) == {}
                shown = await operated.run("doctor")
                assert (shown.exit_code, "partitions" in shown.stdout, "mend" in shown.stdout) == (
                    0,
                    True,
                    True,
                ), shown.output
                with KafkaAdminClient(**operated.kafka.for_kafka_python()) as admin:
                    change = {"retention.ms": "1000000000"}
                    admin.alter_configs(
                        [
                            ConfigResource(
                                ConfigResourceType.TOPIC, Topics(operated.prefix).usage, change
                            )
                        ]
                    )
                [retention] = (await findings(operated))["topics"]
                assert "--add-config retention.ms=-1" in retention["mend"]
        await operated.until(lambda: _unowned(operated))
        found = await findings(operated)
        assert "partitions 0, 1 have no owner" in found["partitions"][0]["what"]
        with closing(connect_blocking(operated.redis_url)) as redis:
            redis.hset(PartitionKeys(operated.prefix, 1).head, mapping={"token": "3:" + "f" * 64})
            redis.hset(PartitionKeys(operated.prefix, 0).head, mapping={"value": "junk"})
        drifted = (await findings(operated))["view"]
        commands = {each["mend"] for each in drifted if "last verified" not in each["what"]}
        assert commands == {
            "usageledger rebuild --partition 0",
            "usageledger rebuild --partition 1",
        }

    asyncio.run(work())


def _unowned(operated: Operated) -> bool:
    return any(
        "no owner" in each.what
        for each in examine(operated.kafka, operated.redis_url, operated.prefix).findings
    )


def test_a_server_that_does_not_answer_is_a_finding(operated: Operated) -> None:
    async def work() -> None:
        away = Operated(
            KafkaConnection(servers="127.0.0.1:9"), "redis://127.0.0.1:9/0", operated.prefix
        )
        found = await findings(away)
        assert sorted(found) == ["broker", "redis"]
        assert all("usageledger up" in each["mend"] for some in found.values() for each in some)

    asyncio.run(work())
