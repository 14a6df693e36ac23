"""An exact duplicate is never charged twice, though the view forgets old identities.

This is true however late the duplicate comes, and for any clock of the worker.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import example, given
from hypothesis import strategies as st

from tests.notation import SHIPPED
from usageledger.domain.events import UsageRecorded
from usageledger.domain.head import Head
from usageledger.domain.identity import IDENTITY_LIFE, IdentityRecord, window_of
from usageledger.ledger.decoded_input import DecodedInput
from usageledger.ledger.partition_book import PartitionBook

MS = timedelta(milliseconds=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
LIFE_MS = IDENTITY_LIFE // MS

starts = st.integers(0, 80 * 24 * 3600 * 1000)
boundaries = st.integers(-2, 2).map(lambda near: LIFE_MS + near)
delays = st.lists(
    st.one_of(boundaries, st.integers(0, 2 * LIFE_MS), st.integers(0, 60_000)),
    min_size=1,
    max_size=8,
)
skews = st.one_of(
    st.sampled_from([-300_001, -300_000, -299_999, 0, 299_999, 300_000, 300_001]),
    st.integers(-36 * 24 * 3600 * 1000, 400_000),
)


class ForgetfulView:
    """A partition that keeps the two newest windows of identities, as the Redis view does."""

    def __init__(self) -> None:
        self.book = PartitionBook(0, 1, Head(ledger="ledger"), SHIPPED)
        self.windows: dict[int, dict[bytes, IdentityRecord]] = {}
        self.offset = 0

    def decide(self, event: UsageRecorded, at: datetime) -> str:
        """The kind of the event's own entry."""
        self.book.identities.clear()
        item = DecodedInput("usage", self.offset, at, event)
        self.offset += 1
        for window, identity in self.book.needed_to_decide([item])[1]:
            kept = (self.windows.get(number, {}).get(identity) for number in (window, window - 1))
            self.book.identities[identity] = next(
                (record for record in kept if record is not None), None
            )
        entry = self.book.decide_input(item)[-1].entry
        for identity, record in self.book.take_changes().identities.items():
            self.windows.setdefault(window_of(record.first_appended_at), {})[identity] = record
        for window in [
            number for number in self.windows if number < window_of(self.book.head.clock) - 1
        ]:
            del self.windows[window]
        return entry.kind


def _use(occurred_at: datetime, quantity: int = 1) -> UsageRecorded:
    return UsageRecorded(
        account="a",
        source="/s",
        id="g",
        occurred_at=occurred_at,
        feature="chat_action",
        quantity=Decimal(quantity),
    )


@given(start=starts, skew=skews, delays=delays)
@example(start=0, skew=300_000, delays=[0, LIFE_MS])
@example(start=0, skew=300_000, delays=[0, LIFE_MS + 1])
def test_an_exact_duplicate_is_never_charged_twice(
    start: int, skew: int, delays: list[int]
) -> None:
    """``skew`` is how far the worker's clock was ahead of Kafka's when it first sent the event."""
    view = ForgetfulView()
    first = START + start * MS
    event = _use(first + skew * MS)
    kinds = [view.decide(event, first + delay * MS) for delay in sorted(delays)]
    assert kinds.count("usage") <= 1
    state = view.book.accounts.get("a")
    assert (0 if state is None else state.period.used) == kinds.count("usage") * 1_000_000


@given(
    start=starts,
    times=st.lists(
        st.tuples(st.integers(0, LIFE_MS), st.integers(-3_600_000, 300_000)), min_size=1, max_size=8
    ),
)
def test_a_retry_with_another_date_is_charged_once_while_the_identity_counts(
    start: int, times: list[tuple[int, int]]
) -> None:
    view = ForgetfulView()
    delays = sorted(times)
    first = START + start * MS + delays[0][0] * MS
    kinds = []
    for delay, skew in delays:
        at = START + start * MS + delay * MS
        if at - first <= IDENTITY_LIFE:
            kinds.append(view.decide(_use(at + skew * MS), at))
    assert kinds == ["usage", *["duplicate"] * (len(kinds) - 1)]


@given(start=starts, later=st.integers(0, LIFE_MS))
def test_other_content_is_refused_as_long_as_the_identity_counts(start: int, later: int) -> None:
    view = ForgetfulView()
    first = START + start * MS
    assert view.decide(_use(first), first) == "usage"
    assert view.decide(_use(first + later * MS, quantity=2), first + later * MS) == "refusal"


@given(start=starts, later=st.integers(LIFE_MS + 1, 3 * LIFE_MS))
def test_an_id_that_no_longer_counts_names_another_event(start: int, later: int) -> None:
    view = ForgetfulView()
    first = START + start * MS
    assert view.decide(_use(first), first) == "usage"
    assert view.decide(_use(first + later * MS, quantity=2), first + later * MS) == "usage"
