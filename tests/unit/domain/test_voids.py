"""Voids: a void makes a usage event cost nothing, once, whichever of the two comes first."""

from __future__ import annotations

import pytest

from tests.notation import ledger


@pytest.mark.peer_defect("Draftdeckai")
@ledger
def test_a_void_gives_the_credits_back_once() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1m               use genai_video/veo_3 id=g     => usage 32 200+0-32=168
    +1m               use chat_action 3              => usage 3 200+0-35=165
    +1m               void g                         => void -32 200+0-3=197
    +1m               void g                         => refused already_voided
    """


@ledger
def test_a_repeated_void_is_a_duplicate() -> None:
    """
    2026-01-31T10:00  use genai_video/veo_3 id=g
        => account_opened free 200+0-0=200 ; usage 32 200+0-32=168
    +1m               void g id=v on=-1s          => void -32 200+0-0=200
    +1m               void g id=v on=-61s         => duplicate
    """


@ledger
def test_a_repeated_voided_event_is_a_duplicate() -> None:
    """
    2026-01-31T10:00  use genai_video/veo_3 id=g
        => account_opened free 200+0-0=200 ; usage 32 200+0-32=168
    +1m               void g                      => void -32 200+0-0=200
    +1m               use genai_video/veo_3 id=g  => duplicate
    +1m               use genai_video/veo_2 id=g  => refused id_reused_with_different_content
    """


@ledger
def test_a_void_that_overtakes_its_usage_cancels_it_on_arrival() -> None:
    """
    2026-01-31T10:00  void g                      => account_opened free 200+0-0=200 ; void awaits
    +1m               void g                      => refused already_voided
    +1m               use genai_video/veo_3 id=g  => usage 0 voided 200+0-0=200
    +1m               use genai_video/veo_3 id=g  => duplicate
    +1m               void g                      => refused already_voided
    +1m               use genai_video/veo_3 id=h  => usage 32 200+0-32=168
    """


@ledger
def test_a_void_waits_for_its_usage_as_long_as_an_identity_counts() -> None:
    """
    2026-01-01T00:00              void g
        => account_opened free 200+0-0=200 ; void awaits
    +35d5m                        use genai_video/veo_3 id=g  => usage 0 voided 200+0-0=200
    2026-03-01T00:00              void h                      => void awaits
    +35d5m1ms                     use genai_video/veo_3 id=h  => usage 32 200+0-32=168
    """


@ledger
def test_a_void_of_refused_usage_cancels_that_usage_when_it_is_sent_again() -> None:
    """There is nothing to give back, so the void waits for the usage.

    2026-01-31T10:00  use chat_action
        => account_opened free 200+0-0=200 ; usage 1 200+0-1=199
    +1m               use genai_video/x id=g    => refused unknown_model
    +1m               void g                    => void awaits
    +1m               use genai_video/veo_3 id=g => usage 0 voided 200+0-1=199
    """


@ledger
def test_a_void_of_usage_in_the_ended_period_counts_there_within_its_grace() -> None:
    """
    2026-01-31T10:00          subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    2026-02-27T00:00          use genai_video/veo_3 id=g     => usage 32 200+0-32=168
    +1m                       use genai_video/veo_3 id=h     => usage 32 200+0-64=136
    2026-03-03T09:59:59.999   void g
        => renewal pro 200+0-0=200 ; void -32 late 200+0-32=168
    2026-03-03T10:00          void h                         => refused period_closed
    """


@ledger
def test_a_second_void_is_already_voided_even_if_the_period_is_closed() -> None:
    """
    2026-01-31T10:00          subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    2026-02-27T00:00          use genai_video/veo_3 id=g     => usage 32 200+0-32=168
    +1m                       void g                         => void -32 200+0-0=200
    2026-03-03T10:00          void g                         => refused already_voided
    """


@ledger
def test_a_void_in_an_ended_period_does_not_give_drawn_grants_back() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               grant 100                    => grant 200+100-0=300
    2026-02-27T00:00  use chat_action 230 id=g     => usage 230 200+100-230=70
    2026-02-28T10:00  void g
        => renewal pro 200+70-0=270 ; void -230 late 200+30-0=230
    +1s               use chat_action              => usage 1 200+70-1=269
    """


@ledger
def test_a_void_in_the_running_period_gives_drawn_grants_back() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               grant 100                    => grant 200+100-0=300
    2026-02-27T00:00  use chat_action 230 id=g     => usage 230 200+100-230=70
    +1s               void g                       => void -230 200+100-0=300
    2026-02-28T10:00  use chat_action
        => renewal pro 200+100-0=300 ; usage 1 200+100-1=299
    """


@ledger
def test_late_voids_in_free_count_when_the_account_falls_back() -> None:
    """
    2026-01-01T00:00  use chat_action 150 id=g
        => account_opened free 200+0-0=200 ; usage 150 200+0-150=50
    +1d               subscribe pro             => plan_change pro 200+0-0=200
    +1h               void g                    => void -150 late 200+0-0=200
    +1h               cancel now                => plan_change free 200+0-0=200
    """


@ledger
def test_a_void_clears_a_block_and_a_threshold_is_not_announced_again() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1m               use chat_action 200 id=g  => usage 200 200+0-200=0 !80% !reached
    +1m               void g                    => void -200 200+0-0=200 !cleared
    +1m               use chat_action 200 id=h  => usage 200 200+0-200=0 !reached
    """


@ledger
def test_one_accounts_void_never_reaches_anothers_usage() -> None:
    """
    2026-01-31T10:00  use genai_video/veo_3 id=g account=b
        => account_opened free 200+0-0=200 ; usage 32 200+0-32=168
    +1m               void g account=a
        => account_opened free 200+0-0=200 ; void awaits
    +1m               use genai_video/veo_3 id=g account=b  => duplicate
    +1m               use genai_video/veo_3 id=g account=a  => usage 0 voided 200+0-0=200
    """
