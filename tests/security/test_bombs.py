"""Services stay below 512 MiB whatever batches decompress to, and go on where they can.

Each runs as a process of its own: the kernel says how much memory it has had at most.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.integration.operated import Operated
from tests.integration.test_history_service import reached
from tests.security.batches import (
    CODECS,
    bomb,
    heavy,
    made_by_others,
    many_headers,
    send,
    send_payload,
)
from tests.security.test_codecs import ledger_records, limit_records, read_all, use
from usageledger.history.tables import HISTORY_FILE
from usageledger.local.ports import free_port
from usageledger.log.bounded_codecs import BATCH_BYTES_MAX
from usageledger.log.topics import Topics
from usageledger.operations.catalogs import publish_shipped
from usageledger.operations.lags import lag_reader
from usageledger.operations.waiting import is_true_within
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.tokens import new_key

MEMORY_MIB_MAX = 512
BOMBED = range(1, 9)
"""The partitions that hold bombs; partition 0 holds none."""

WORST = ("zstd",)
"""The codec that makes the most of one batch."""

DEADLINE_S = 120.0

pytestmark = pytest.mark.partitions(9)


@dataclass(frozen=True, slots=True)
class Process:
    """A service as a process."""

    pid: int
    port: int

    def stopped(self) -> set[int]:
        """The partitions that it says it cannot read, by the reasons of /readyz."""
        try:
            body = self.ask("readyz")
        except urllib.error.HTTPError as error:
            body = error.read()
        except OSError:
            return set()
        reasons = [each for each in json.loads(body)["reasons"] if "cannot be read from" in each]
        return {int(number) for each in reasons for number in re.findall(r"partition (\d+)", each)}

    def ask(self, path: str) -> bytes:
        """The answer of its telemetry port. Raises OSError."""
        url = f"http://127.0.0.1:{self.port}/{path}"
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
            return bytes(answer.read())

    def peak_mib(self) -> float:
        """The most memory that it has had, in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
        return int(kib) / 1024


@contextmanager
def service(
    name: str, kafka: KafkaConnection, redis_url: str, prefix: str, data: Path
) -> Iterator[Process]:
    port = free_port()
    own = {
        "KAFKA": str(kafka),
        "REDIS_URL": redis_url,
        "PREFIX": prefix,
        "DATA": str(data),
        "TELEMETRY_PORT": str(port),
        "GATEWAY_PORT": str(free_port({port})),
        "GATEWAY_KEY": new_key(),
    }
    environment = os.environ | {f"USAGELEDGER_{key}": value for key, value in own.items()}
    command = [sys.executable, "-m", "usageledger.cli", "service", name]
    with (data / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stderr=log)
    try:
        yield Process(process.pid, port)
        assert process.poll() is None, "it ended"
    finally:
        process.kill()
        process.wait(DEADLINE_S)


def until(condition: Callable[[], bool], what: str) -> None:
    assert is_true_within(condition, DEADLINE_S), what


def send_bombs(kafka: KafkaConnection, topic: str, codecs: Sequence[str]) -> None:
    """Put one bomb on each bombed partition, in these codecs by turns."""
    for number, codec in enumerate(codecs):
        send_payload(kafka, topic, BOMBED[number :: len(codecs)], codec, bomb(codec))


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("codecs", [CODECS, WORST], ids=lambda codecs: "-".join(codecs))
def test_a_processor_with_bombs_on_eight_partitions_stays_small_and_goes_on(
    kafka: KafkaConnection, redis_url: str, prefix: str, codecs: Sequence[str], tmp_path: Path
) -> None:
    """One zstd batch of 1 MiB had cost a processor 1.24 GiB."""
    made_by_others(kafka, prefix)
    topics = Topics(prefix)
    account = Operated(kafka, redis_url, prefix, partitions=9).account_in(0)
    publish_shipped(kafka, prefix, datetime.now(UTC))
    send_bombs(kafka, topics.usage, codecs)
    with service("processor", kafka, redis_url, prefix, tmp_path) as processor:
        until(lambda: processor.stopped() == set(BOMBED), "the bombed partitions stop")
        before = len(read_all(kafka, topics.ledger))
        send(kafka, topics.usage, 0, [use(account, "after")], codecs[-1])
        until(lambda: len(read_all(kafka, topics.ledger)) > before, "the other one goes on")
        assert processor.peak_mib() <= MEMORY_MIB_MAX


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("codecs", [CODECS, WORST], ids=lambda codecs: "-".join(codecs))
def test_readers_of_the_ledgers_own_topics_stay_small_among_bombs_and_go_on(
    kafka: KafkaConnection, redis_url: str, prefix: str, codecs: Sequence[str], tmp_path: Path
) -> None:
    topics, ledger, count = Topics(prefix), ledger_records(), len(limit_records())
    send_bombs(kafka, topics.ledger, codecs)
    send_bombs(kafka, topics.limit, codecs)
    path = tmp_path / "gateway" / HISTORY_FILE
    followed = f'usageledger_limit_events_next_offset{{partition="0"}} {count}.0'.encode()
    with (
        service("limits", kafka, redis_url, prefix, tmp_path) as limits,
        service("history", kafka, redis_url, prefix, tmp_path) as history,
        service("gateway", kafka, redis_url, prefix, tmp_path) as gateway,
    ):
        until(lambda: limits.stopped() == set(BOMBED), "limits stops the bombed partitions")
        until(lambda: history.stopped() == set(BOMBED), "history stops the bombed partitions")
        until(lambda: gateway.stopped() == set(BOMBED), "the gateway stops the bombed partitions")
        send(kafka, topics.ledger, 0, ledger, codecs[-1])
        until(lambda: len(read_all(kafka, topics.limit)) == count, "limits goes on")
        until(lambda: reached(path, 0) == len(ledger), "history goes on")
        until(lambda: followed in gateway.ask("metrics"), "the gateway goes on")
        for each in (limits, history, gateway):
            assert each.peak_mib() <= MEMORY_MIB_MAX


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_batches_just_below_the_bound_on_all_partitions_keep_a_processor_small(
    kafka: KafkaConnection, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    """All of them are read: 18 topic partitions with 6 batches of 8 MiB each, 864 MiB in all."""
    made_by_others(kafka, prefix)
    topics, partitions = Topics(prefix), range(9)
    publish_shipped(kafka, prefix, datetime.now(UTC))
    payloads = {codec: heavy(codec, BATCH_BYTES_MAX) for codec in ("lz4", "zstd")}
    for topic in (topics.usage, topics.account):
        for _ in range(3):
            for codec, payload in payloads.items():
                send_payload(kafka, topic, partitions, codec, payload)
    with service("processor", kafka, redis_url, prefix, tmp_path) as processor:
        with lag_reader(kafka, redis_url, prefix) as lags:
            until(lambda: lags.look().records("usage", "account") == 0, "every batch is decided")
        assert processor.stopped() == set()
        assert processor.peak_mib() <= MEMORY_MIB_MAX


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_records_of_four_million_headers_on_eight_partitions_keep_services_small(
    kafka: KafkaConnection, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    """Both libraries make an object of each header, though no reader of ours looks at any."""
    made_by_others(kafka, prefix)
    topics, payload = Topics(prefix), many_headers("zstd", BATCH_BYTES_MAX)
    publish_shipped(kafka, prefix, datetime.now(UTC))
    send_payload(kafka, topics.usage, BOMBED, "zstd", payload)
    send_payload(kafka, topics.limit, BOMBED, "zstd", payload)
    with (
        service("processor", kafka, redis_url, prefix, tmp_path) as processor,
        service("limits", kafka, redis_url, prefix, tmp_path) as limits,
    ):
        with lag_reader(kafka, redis_url, prefix) as lags:
            until(lambda: lags.look().records("usage") == 0, "every record is refused")
            until(lambda: lags.look().records("limits") == 0, "limits goes on")
        assert processor.peak_mib() <= MEMORY_MIB_MAX
        assert limits.peak_mib() <= MEMORY_MIB_MAX
