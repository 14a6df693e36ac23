"""How long an event is the same event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.notation import Partition, event_of, ledger, moment
from usageledger.domain.identity import (
    IDENTITY_LIFE,
    WINDOW,
    IdentityRecord,
    identity_of,
    window_of,
)

AT = datetime(2026, 3, 1, tzinfo=UTC)


@ledger
def test_an_exact_duplicate_is_one_until_it_is_too_old() -> None:
    """The event's clock ran five minutes ahead, so its identity's 35 days end five minutes later.

    2026-03-01T00:00  use chat_action id=g on=2026-03-01T00:05
        => account_opened free 200+0-0=200 ; usage 1 200+0-1=199
    +35d              use chat_action id=g on=2026-03-01T00:05  => duplicate
    +5m               use chat_action id=g on=2026-03-01T00:05  => duplicate
    +1ms              use chat_action id=g on=2026-03-01T00:05  => refused too_old
    """


@ledger
def test_an_identity_counts_for_35_days_and_5_minutes_and_then_names_another_event() -> None:
    """
    2026-03-01T00:00  use chat_action id=g
        => account_opened free 200+0-0=200 ; usage 1 200+0-1=199
    +1ms              use chat_action id=h            => usage 1 200+0-2=198
    +35d5m            use chat_action id=h            => duplicate
    +0s               use chat_action id=g            => usage 1 200+0-3=197
    +35d5m            use genai_video/veo_3 id=g      => refused id_reused_with_different_content
    +1ms              use genai_video/veo_3 id=g      => usage 32 200+0-35=165
    """


@ledger
def test_a_duplicate_does_not_make_an_identity_count_longer() -> None:
    """
    2026-03-01T00:00  use chat_action id=g
        => account_opened free 200+0-0=200 ; usage 1 200+0-1=199
    +30d              use chat_action id=g   => duplicate
    +5d5m1ms          use chat_action id=g   => usage 1 200+0-2=198
    """


@pytest.mark.peer_defect("FluxMeter: identity forgotten")
def test_a_log_that_is_sent_again_after_40_days_changes_nothing() -> None:
    """FluxMeter remembers an identity for at most an hour, so a log sent again is charged again."""
    partition = Partition()
    story = [
        *(
            "2026-03-01T00:00 subscribe pro id=sub",
            "+1h use genai_video/veo_3 id=g",
            "+1h use chat_action 170 id=h",
        ),
        *("+1h grant 5 id=sorry", "+1h void g id=back", "+1h change max id=up"),
    ]
    events = []
    for number, line in enumerate(story):
        when, what, *words = line.split()
        at = moment(when, partition.now)
        events.append(event_of(what, words, at, str(number)))
        assert partition.decide(events[-1], at)[-1].entry.kind != "refusal"
    state = partition.state()
    for event in events:
        (sealed,) = partition.decide(event, event.occurred_at + timedelta(days=40))
        assert (sealed.entry.kind, sealed.entry.reason, sealed.entry.credits) == (
            "refusal",
            "too_old",
            0,
        )
    assert partition.state() == state


@pytest.mark.parametrize(
    ("later", "counts"),
    [
        (timedelta(0), True),
        (IDENTITY_LIFE - timedelta(microseconds=1), True),
        (IDENTITY_LIFE, True),
        (IDENTITY_LIFE + timedelta(microseconds=1), False),
    ],
)
def test_the_last_instant_is_included(later: timedelta, counts: bool) -> None:
    assert IdentityRecord(AT, "decided").counts_at(AT + later) is counts


def test_two_windows_hold_every_identity_that_counts() -> None:
    for hours in range(0, 24 * 36 * 2, 5):
        at = AT + timedelta(hours=hours)
        assert window_of(at + IDENTITY_LIFE) - window_of(at) <= 1
    assert WINDOW > IDENTITY_LIFE


@pytest.mark.peer_defect("FluxMeter: tenants collide")
def test_parts_of_identities_do_not_run_together() -> None:
    parts = ["a", "b", "ab", "a/b", 'a"', 'a","b', "a\\", "", "ä"]
    identities = {
        identity_of(n, a, s, i)
        for n in ("usage", "account")
        for a in parts
        for s in parts
        for i in parts
    }
    assert len(identities) == 2 * len(parts) ** 3
    assert {len(identity) for identity in identities} == {16}
