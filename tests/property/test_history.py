"""The history is a fold like the counters, and they agree for any size of batches."""

from __future__ import annotations

import json
from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize

from tests.history_files import content, folded, records_of
from tests.property.test_account_life import PartitionLife
from usageledger.domain.account import Period
from usageledger.domain.encoding import encode
from usageledger.history.tables import microseconds
from usageledger.operations.refusals import refused_inputs


class HistoryLife(PartitionLife):
    """A partition's life, and at its end its history."""

    sizes: tuple[int, ...] = (1,)

    @initialize(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4))
    def choose_batches(self, sizes: list[int]) -> None:
        self.sizes = tuple(sizes)

    def teardown(self) -> None:
        super().teardown()
        records = records_of(self.live.entries)
        database = folded(records, [len(records) or 1])
        found = content(database)
        assert content(folded(records, self.sizes)) == found, "other batches make the same rows"
        states = self._states()
        assert {str(row[0]): row[1] for row in found["accounts"]} == {
            name: encode(state) for name, state in states.items()
        }
        periods = {(str(row[0]), int(str(row[1]))): row for row in found["periods"]}
        for account, state in states.items():
            shown = [(state.period, state.granted)]
            shown += [] if state.previous is None else [(state.previous, state.previous.settled)]
            for period, granted in shown:
                assert periods[account, period.number][2:9] == _row(period, granted)
        self._daily_use_sums_to_the_periods(found["daily_use"], periods)
        refused = {
            (item.partition, item.offset): item.is_resolved
            for item in refused_inputs(self.live.entries)
        }
        assert {(0, int(str(row[0]))): bool(row[-1]) for row in found["refusals"]} == refused

    def _daily_use_sums_to_the_periods(
        self,
        daily_use: list[tuple[object, ...]],
        periods: dict[tuple[str, int], tuple[object, ...]],
    ) -> None:
        by_feature: dict[tuple[str, int], dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for account, number, _, feature, _, uses, units, millionths, credits in daily_use:
            assert int(str(uses)) >= 0 and int(str(units)) * 1_000_000 + int(str(millionths)) >= 0
            by_feature[str(account), int(str(number))][str(feature)] += int(str(credits))
        for key, row in periods.items():
            assert {name: sum_ for name, sum_ in by_feature[key].items() if sum_} == {
                name: sum_ for name, sum_ in json.loads(str(row[8])).items() if sum_
            }
            if not (key[0] in self.opened and key[1] == 0):
                assert sum(by_feature[key].values()) == row[7] == self.charged[key]


def _row(period: Period, granted: int) -> tuple[object, ...]:
    end = None if period.end is None else microseconds(period.end)
    by_feature = json.dumps(period.by_feature, separators=(",", ":"))
    return (
        microseconds(period.start),
        end,
        period.plan,
        period.allotment,
        granted,
        period.used,
        by_feature,
    )


HistoryLife.TestCase.settings = settings(stateful_step_count=40, max_examples=40)
TestHistoryLife = HistoryLife.TestCase
