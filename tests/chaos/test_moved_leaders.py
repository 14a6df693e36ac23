"""Three real brokers, whose partitions change their leaders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.brokers import Brokers
from tests.chaos.proxy import Proxies
from usageledger.log.reading import log_reader
from usageledger.log.topics import Topics
from usageledger.operations.topics import create_topics

PARTITIONS = 3


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[Brokers]:
    proxies = Proxies(tmp_path / "proxies.log")
    cluster = Brokers(tmp_path, tmp_path, proxies, set(), ())
    try:
        proxies.start()
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        proxies.stop()


def test_a_reader_is_answered_after_its_partitions_have_moved_to_other_leaders(
    brokers: Brokers,
) -> None:
    """After a broker had been frozen and its partitions led by others, a limits consumer announced
    nothing for minutes.

    Its reader asked the old leader for a partition's end. The old leader answered that it no longer
    leads. The reader asked it again for half a minute, and did the same for each partition.
    """
    create_topics(brokers.direct, partitions=PARTITIONS, replication_factor=3)
    topic = Topics().ledger
    with log_reader(brokers.direct) as reader:
        for rotate in range(4):
            brokers.move_leaders([topic], rotate)
            assert brokers.wait_in_sync([topic])
            assert [reader.end_offset(topic, partition) for partition in range(PARTITIONS)] == [
                0
            ] * PARTITIONS
