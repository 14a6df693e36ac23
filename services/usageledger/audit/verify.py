"""``audit verify``: reads every input in the ledger's order, decides again, and compares the ledger, the limit events and the view."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from usageledger.audit.replay import Difference, PartitionReplay, ReplayCounts
from usageledger.counters.view import Snapshot
from usageledger.domain.chain import SealedEntry
from usageledger.domain.entry import Topic
from usageledger.domain.encoding import decode_head, encode
from usageledger.limits.translate import limit_events
from usageledger.log.deciding import PartitionBook, milliseconds
from usageledger.log.reading import LogReader, log_reader
from usageledger.log.records import Record
from usageledger.log.topics import Topics

READ_AHEAD = 5_000
