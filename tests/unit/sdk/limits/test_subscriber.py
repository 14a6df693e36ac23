"""A subscriber refuses these before it has read anything."""

from __future__ import annotations

import pytest

from usageledger.sdk.limits.subscriber import LimitSubscriber


def test_a_wrong_setting_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("USAGELEDGER_KAFKA", raising=False)
    with pytest.raises(ValueError, match="USAGELEDGER_KAFKA"):
        LimitSubscriber()
    with pytest.raises(ValueError, match="prefix"):
        LimitSubscriber(kafka="localhost:9", prefix="a b")
    with pytest.raises(ValueError, match="enable_auto_commit"):
        LimitSubscriber(kafka="localhost:9", kafka_options={"enable_auto_commit": True})


def test_a_subscriber_without_a_view_does_not_answer() -> None:
    subscriber = LimitSubscriber(kafka="localhost:9")
    with pytest.raises(RuntimeError, match="wait_ready"):
        subscriber.is_blocked("acct")
    with pytest.raises(RuntimeError, match="wait_ready"):
        subscriber.blocked()
    with pytest.raises(RuntimeError, match="wait_ready"):
        subscriber.why_blocked("acct")
