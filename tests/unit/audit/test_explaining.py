"""Each kind of entry explained, with the numbers that its credits follow from."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from tests.notation import SHIPPED, Partition
from usageledger.audit.explaining import credits_of, explain, names_of
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog import Rate
from usageledger.domain.entry import LedgerEntry

START = "2026-01-03T09:00"
LATE = "It counts in the period that ended on 3 February 2026, because it was used then."


def entries(*lines: str) -> list[LedgerEntry]:
    partition = Partition()
    return [sealed.entry for line in lines for sealed in partition.take(line)]


def last(*lines: str) -> LedgerEntry:
    return entries(*lines)[-1]


@pytest.mark.parametrize(
    ("lines", "explanation"),
    [
        (
            (f"{START} use genai_video/veo_3 2",),
            "2 generations of Veo 3 at 32 credits a generation: 64 credits.",
        ),
        (
            (f"{START} use chat_action",),
            "1 action of Chat-Based Editing (action taken) at 1 credit an action: 1 credit.",
        ),
        (
            (f"{START} use prompt_to_video 2.1",),
            "2.1 seconds of Prompt to Video at 8 credits a second, each begun second in full: 24 "
            "credits.",
        ),
        (
            (f"{START} subscribe pro", "2026-02-03T10:00 use chat_action 1 on=2026-02-03T08:00"),
            "1 action of Chat-Based Editing (action taken) at 1 credit an action: 1 credit. "
            f"{LATE}",
        ),
        (
            (
                f"{START} subscribe pro",
                "+1h use chat_action 200",
                "2026-02-03T10:00 use chat_action 1 on=2026-02-03T08:00",
            ),
            "1 action of Chat-Based Editing (action taken) at 1 credit an action: 1 credit. It was "
            "used in the period that ended on 3 February 2026. That period did not have enough "
            "credits left for it, so it counts in the next one.",
        ),
        (
            (f"{START} void g", "+1h use chat_action 2 id=g"),
            "2 actions of Chat-Based Editing (action taken) at 1 credit an action. It costs "
            "nothing, because it was voided before it arrived.",
        ),
        (
            (f"{START} use chat_action 14 id=g", "+1h void g"),
            "The use g was voided (failed): 14 credits given back.",
        ),
        (
            (f"{START} void g",),
            "The use g was voided (failed) before it arrived: it will cost nothing.",
        ),
        (
            (f"{START} subscribe pro", "+1h use chat_action 3 id=g", "2026-02-03T10:00 void g"),
            f"The use g was voided (failed): 3 credits given back. {LATE}",
        ),
        (
            (f"{START} grant 50",),
            "50 credits granted (support), to be used beside the allotment until they are used.",
        ),
        (
            (f"{START} grant 1 until=2026-03-01T00:00",),
            "1 credit granted (support), to be used beside the allotment until 1 March 2026.",
        ),
        (
            (f"{START} subscribe max",),
            "A new period began on Max, with an allotment of 500 credits.",
        ),
        (
            (f"{START} subscribe pro", "+1h change max"),
            "The plan is Max now, with an allotment of 500 credits. What was used in the period "
            "stays.",
        ),
        (
            (f"{START} subscribe max", "+1h change pro"),
            "The plan stays Max until the next renewal, and is Pro from then on.",
        ),
        (
            (f"{START} subscribe max", "+1h change pro", "+1h change max"),
            "The plan stays Max: the change planned for the next renewal was withdrawn.",
        ),
        (
            (f"{START} suspend fraud",),
            "The account was suspended (fraud): it is blocked until it is resumed, whatever it has "
            "left.",
        ),
        ((f"{START} suspend fraud", "+1h resume"), "The account is no longer suspended."),
    ],
)
def test_the_last_entry_is_explained(lines: tuple[str, ...], explanation: str) -> None:
    assert explain(last(*lines), SHIPPED) == explanation


@pytest.mark.parametrize(
    ("lines", "kind", "explanation"),
    [
        (
            (f"{START} use chat_action",),
            "account_opened",
            "The account began on Free, with an allotment of 200 credits.",
        ),
        (
            (f"{START} open max used=120",),
            "account_opened",
            "The account began on Max, with an allotment of 500 credits. 120 credits of it had "
            "been used elsewhere.",
        ),
        (
            (
                f"{START} subscribe pro",
                "+1h use chat_action 150",
                "2026-02-04T00:00 use chat_action",
            ),
            "renewal",
            "A new period began on Pro, with an allotment of 200 credits. The 50 credits that were "
            "left of the one before lapsed.",
        ),
        (
            (
                f"{START} subscribe pro",
                "+1h use chat_action 200",
                "2026-02-04T00:00 use chat_action",
            ),
            "renewal",
            "A new period began on Pro, with an allotment of 200 credits.",
        ),
        (
            (
                f"{START} subscribe pro",
                "+1h grant 50 until=+3d",
                "+1h use chat_action 230",
                "+4d use chat_action",
            ),
            "grant_expired",
            "A grant of 50 credits expired: the 20 credits that were left of it lapsed.",
        ),
        (
            (
                f"{START} subscribe pro",
                "+1h grant 50 until=+3d",
                "+1h use chat_action 250",
                "+4d use chat_action",
            ),
            "grant_expired",
            "A grant of 50 credits expired: all of it had been used.",
        ),
    ],
)
def test_an_entry_that_comes_with_an_event_is_explained_too(
    lines: tuple[str, ...], kind: str, explanation: str
) -> None:
    (found,) = (entry for entry in entries(*lines) if entry.kind == kind)
    assert explain(found, SHIPPED) == explanation


@pytest.mark.parametrize(
    ("rate", "quantity", "explanation"),
    [
        (
            Rate(credits=7_000_000, unit="second", per=Decimal(10)),
            "20",
            "20 seconds of Veo 3 at 7 credits for each 10 seconds: 14 credits.",
        ),
        (
            Rate(credits=7_000_000, unit="second", per=Decimal(10)),
            "12",
            "12 seconds of Veo 3 at 7 credits for each 10 seconds, each begun 10 seconds in full: "
            "14 credits.",
        ),
        (
            Rate(credits=10_000_000, unit="hour", rounding="exact"),
            "1.4",
            "1.4 hours of Veo 3 at 10 credits an hour, in proportion: 14 credits.",
        ),
        (
            Rate(credits=0, unit="generation"),
            "1",
            "1 generation of Veo 3 at 0 credits a generation: 14 credits.",
        ),
    ],
)
def test_a_rate_is_worded_as_it_was_applied(rate: Rate, quantity: str, explanation: str) -> None:
    entry = replace(
        last(f"{START} use genai_video/veo_3"),
        rate=rate,
        quantity=Decimal(quantity),
        credits=14_000_000,
    )
    assert explain(entry, SHIPPED) == explanation


def test_names_are_those_of_the_catalog_that_rated_the_use() -> None:
    entry = last(f"{START} use genai_video/veo_3")
    assert names_of(entry, SHIPPED) == ("GenAI Video", "Veo 3")
    assert names_of(replace(entry, feature="gone", model="old"), SHIPPED) == ("gone", "old")
    assert names_of(replace(entry, feature=None), SHIPPED) == (None, None)
    (catalog,) = SHIPPED
    renamed = replace(
        catalog,
        version="next",
        features=tuple(replace(each, name="?") for each in catalog.features),
    )
    assert names_of(entry, AdoptedCatalogs((catalog, renamed))) == ("GenAI Video", "Veo 3")
    assert names_of(entry, AdoptedCatalogs((renamed,))) == ("?", "Veo 3"), (
        "a catalog that is not known here does not replace the one in force"
    )


def test_the_amount_of_an_entry_is_never_negative() -> None:
    assert credits_of(last(f"{START} use chat_action 14 id=g", "+1h void g")) == 14_000_000
    assert credits_of(last(f"{START} grant 50")) == 50_000_000
    assert credits_of(last(f"{START} subscribe max")) == 0
