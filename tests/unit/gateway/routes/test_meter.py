"""The usage meter, charges and past periods over HTTP, from a ledger decided in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import jsonschema
import pytest

from tests.history_files import records_of
from tests.notation import Partition
from tests.worlds.account_sources import MemoryAccounts
from tests.worlds.gateway_world import GatewayWorld
from usageledger.accounts.queries import Clock
from usageledger.accounts.reader import Accounts
from usageledger.counters.calling import Call
from usageledger.counters.memory import MemoryView
from usageledger.counters.view import Position, StoredHead
from usageledger.domain.encoding import encode
from usageledger.gateway.app import bare_app
from usageledger.history.folding import HistoryFold
from usageledger.history.tables import HISTORY_FILE, open_for_writing
from usageledger.ledger.timestamps import milliseconds
from usageledger.sdk.tokens import mint_account_token

T = TypeVar("T")

START = "2026-01-03T09:00"
NOON = datetime(2026, 1, 13, 12, tzinfo=UTC)


class DecidedAccounts(MemoryAccounts):
    """Accounts as a partition in memory has decided them."""

    def __init__(self, partition: Partition) -> None:
        super().__init__(MemoryView())
        self._decided = partition

    async def ask(self, partition: int, call: Call[T]) -> T:
        book, (view,) = self._decided.book, self.views
        view.stored_head = StoredHead(
            Position(book.head.next_offset, book.head.hash),
            encode(book.head),
            milliseconds(NOON + timedelta(days=3_650)),
        )
        view.stored_accounts = {
            account: encode(state) for account, state in book.accounts.items() if state is not None
        }
        return await super().ask(partition, call)


class MeterWorld:
    """A gateway over a partition in memory.

    ``fold`` folds what has been decided, ``take`` decides more.
    """

    def __init__(self, directory: Path) -> None:
        self.gateway = GatewayWorld(directory)
        self.partition = Partition()
        self.at = NOON
        self.gateway.use(
            accounts=Accounts(
                DecidedAccounts(self.partition), partition_count=1, clock=Clock(lambda: self.at)
            )
        )
        self.key = self.gateway.key("read")
        self._path = directory / HISTORY_FILE

    def take(self, *lines: str, at: datetime = NOON) -> None:
        for line in lines:
            self.partition.take(line)
        self.at = at

    def fold(self) -> None:
        database = open_for_writing(self._path)
        fold = HistoryFold(database)
        fold.add(0, records_of(self.partition.entries)[fold.position(0).next_offset :])
        database.close()

    def get(self, path: str, *, credential: str | None = None, status: int = 200) -> dict[str, Any]:
        answer = asyncio.run(self.gateway.ask("GET", path, credential=credential or self.key))
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def close(self) -> None:
        self.gateway.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[MeterWorld]:
    made = MeterWorld(tmp_path)
    yield made
    made.close()


def test_the_meter_shows_use_by_feature_model_and_day(world: MeterWorld) -> None:
    world.take(
        f"{START} subscribe max",
        "+1h use genai_video/veo_3 2",
        "+1h use genai_video/ray_2_flash",
        "+2d use ai_edit",
        "+1h grant 20",
    )
    world.fold()
    meter = world.get("/v1/accounts/a/meter")
    assert (meter["used"], meter["remaining"], meter["share_used"], meter["known"]) == (
        "79",
        "441",
        "0.1519",
        True,
    )
    assert [
        (each["id"], each["name"], each["credits"], each["uses"]) for each in meter["features"]
    ] == [
        ("genai_video", "GenAI Video", "65", 2),
        ("ai_edit", "AI Edit", "14", 1),
    ]
    assert meter["features"][0]["models"] == [
        {
            "id": "veo_3",
            "name": "Veo 3",
            "credits": "64",
            "quantity": "2",
            "unit": "generation",
            "uses": 1,
        },
        {
            "id": "ray_2_flash",
            "name": "Ray 2 Flash",
            "credits": "1",
            "quantity": "1",
            "unit": "generation",
            "uses": 1,
        },
    ]
    assert meter["features"][1]["models"][0]["name"] is None
    assert [day["date"] for day in meter["days"]] == [f"2026-01-{day:02}" for day in range(3, 14)]
    assert meter["days"][0] == {
        "date": "2026-01-03",
        "credits": "65",
        "features": {"genai_video": "65"},
    }
    assert meter["days"][1] == {"date": "2026-01-04", "credits": "0", "features": {}}
    assert meter["grants"][0] | {"granted_at": ""} == {
        "source": "/test",
        "id": meter["grants"][0]["id"],
        "credits": "20",
        "left": "20",
        "granted_at": "",
        "expires_at": None,
    }
    assert meter["thresholds"] == ["0.8"]
    assert meter["history_as_of"] is None


def test_the_days_sum_to_what_was_used_and_so_do_the_features(world: MeterWorld) -> None:
    world.take(f"{START} subscribe max", *(f"+7h use chat_action {n}" for n in range(1, 20)))
    world.fold()
    meter = world.get("/v1/accounts/a/meter")
    for of_what in ("days", "features"):
        assert sum(int(each["credits"]) for each in meter[of_what]) == int(meter["used"]) == 190


def test_figures_that_the_history_does_not_have_yet_are_said_to_be_old(world: MeterWorld) -> None:
    world.take(f"{START} subscribe max", "+1h use ai_edit")
    world.fold()
    world.take("+1h use ai_edit")
    meter = world.get("/v1/accounts/a/meter")
    assert (meter["used"], meter["features"][0]["credits"], meter["history_as_of"]) == (
        "28",
        "14",
        "2026-01-03T10:00:00Z",
    )
    assert world.get("/v1/accounts/a/charges")["history_as_of"] == "2026-01-03T10:00:00Z"
    world.fold()
    meter = world.get("/v1/accounts/a/meter")
    assert (meter["features"][0]["credits"], meter["history_as_of"]) == ("28", None)


def test_what_other_accounts_do_makes_no_figure_old(world: MeterWorld) -> None:
    world.take(f"{START} subscribe max", "+1h use ai_edit")
    world.fold()
    world.take("+1h use ai_edit account=b")
    assert world.get("/v1/accounts/a/meter")["history_as_of"] is None


def test_without_a_history_the_figures_are_there_and_lists_say_what_to_do(
    world: MeterWorld,
) -> None:
    world.take(f"{START} subscribe max", "+1h use ai_edit")
    meter = world.get("/v1/accounts/a/meter")
    assert (meter["used"], meter["features"], meter["history_as_of"]) == (
        "14",
        [],
        "2026-01-03T09:00:00Z",
    )
    for path in ("charges", "periods"):
        problem = world.get(f"/v1/accounts/a/{path}", status=503)
        assert (problem["code"], "usageledger service history" in problem["detail"]) == (
            "not_ready",
            True,
        )


def test_an_account_that_nobody_knows_has_a_meter_and_no_charges(world: MeterWorld) -> None:
    world.take(f"{START} subscribe max")
    world.fold()
    meter = world.get("/v1/accounts/new/meter")
    assert (meter["known"], meter["plan"]["id"], meter["remaining"], meter["history_as_of"]) == (
        False,
        "free",
        "200",
        None,
    )
    assert (meter["pace"], meter["renewal"], len(meter["days"])) == (None, None, 1)
    assert world.get("/v1/accounts/new/charges")["items"] == []
    assert world.get("/v1/accounts/new/periods")["items"] == []


def test_a_blocked_account_says_since_when_why_and_what_clears_it(world: MeterWorld) -> None:
    world.take(f"{START} subscribe pro", "+1h use chat_action 200")
    world.fold()
    meter = world.get("/v1/accounts/a/meter")
    assert meter["blocked"] == {
        "reason": "usage",
        "since": "2026-01-03T10:00:00Z",
        "suspension": None,
        "upgrade": {
            "plan": "max",
            "name": "Max",
            "price_cents": meter["upgrade"]["price_cents"],
            "allotment": "500",
        },
        "resets_at": "2026-02-03T09:00:00Z",
    }


def test_since_when_an_account_is_blocked_is_not_said_by_a_history_that_is_old(
    world: MeterWorld,
) -> None:
    """The account may be blocked for the second time while the history knows only the first."""
    world.take(f"{START} subscribe pro", "+1h use chat_action 200")
    world.fold()
    world.take("+1h grant 10", "+1h use chat_action 10")
    blocked = world.get("/v1/accounts/a/meter")["blocked"]
    assert (blocked["reason"], blocked["since"]) == ("usage", None)


def test_free_shows_the_last_31_days(world: MeterWorld) -> None:
    world.take(
        "2026-01-03T09:00 use chat_action", "+60d use chat_action 5", at=NOON + timedelta(days=60)
    )
    world.fold()
    meter = world.get("/v1/accounts/a/meter")
    assert [meter["days"][0]["date"], meter["days"][-1]["date"], len(meter["days"])] == [
        "2026-02-12",
        "2026-03-14",
        31,
    ]
    assert meter["features"][0]["credits"] == "6"


def test_past_periods_are_there_though_no_entry_has_ended_them(world: MeterWorld) -> None:
    world.take(
        f"{START} subscribe pro", "+1h use chat_action 120", "2026-02-05T09:00 use chat_action 7"
    )
    world.take(at=datetime(2026, 5, 4, tzinfo=UTC))
    world.fold()
    page = world.get("/v1/accounts/a/periods?limit=3")
    assert [(each["number"], each["used"], each["start"]) for each in page["items"]] == [
        (4, "0", "2026-04-03T09:00:00Z"),
        (3, "0", "2026-03-03T09:00:00Z"),
        (2, "7", "2026-02-03T09:00:00Z"),
    ]
    rest = world.get(f"/v1/accounts/a/periods?limit=3&cursor={page['next_cursor']}")
    assert [(each["number"], each["used"], each["by_feature"]) for each in rest["items"]] == [
        (1, "120", {"chat_action": "120"}),
        (0, "0", {}),
    ]
    assert rest["next_cursor"] is None


def test_charges_come_with_their_explanations_the_newest_first(world: MeterWorld) -> None:
    world.take(
        f"{START} subscribe max",
        "+1h use genai_video/veo_3 2 id=gen_1",
        "+1h use telepathy",
        "+1h void gen_1",
    )
    world.fold()
    page = world.get("/v1/accounts/a/charges")
    assert [(each["kind"], each["credits"], each["remaining_after"]) for each in page["items"]] == [
        ("void", "64", "500"),
        ("usage", "64", "436"),
        ("plan_change", "0", "500"),
        ("account_opened", "0", "200"),
    ]
    use = page["items"][1]
    assert use["explanation"] == "2 generations of Veo 3 at 32 credits a generation: 64 credits."
    assert use["event"] == {"source": "/test", "id": "gen_1"}
    assert use["rate"] == {"credits": "32", "unit": "generation", "per": "1", "rounding": "up"}
    first = world.get("/v1/accounts/a/charges?limit=1")
    assert [first["items"][0]["kind"], first["next_cursor"]] == ["void", first["items"][0]["entry"]]
    rest = world.get(f"/v1/accounts/a/charges?cursor={first['next_cursor']}&period=1")
    assert [each["kind"] for each in rest["items"]] == ["usage", "plan_change"]


@pytest.mark.parametrize(
    "query",
    [
        "cursor=x",
        "limit=0",
        "limit=201",
        "period=-1",
        "period=99999999999999999999",
        "cursor=" + "9" * 50,
    ],
)
def test_a_query_that_makes_no_sense_is_refused(query: str, world: MeterWorld) -> None:
    world.take(f"{START} subscribe max")
    world.fold()
    assert world.get(f"/v1/accounts/a/charges?{query}", status=422)["code"] == "invalid_request"


def test_an_account_token_reads_its_own_meter_and_no_other(world: MeterWorld) -> None:
    world.take(f"{START} subscribe max", "+1h use ai_edit account=b")
    world.fold()
    token = mint_account_token(world.key, "a", now=world.gateway.now)
    for what in ("meter", "charges", "periods"):
        world.get(f"/v1/accounts/a/{what}", credential=token)
        world.get(f"/v1/accounts/b/{what}", credential=token, status=403)


def test_whatever_is_answered_is_what_the_document_says(world: MeterWorld) -> None:
    world.take(
        f"{START} subscribe pro",
        "+1h use prompt_to_video 2.5",
        "+1h use chat_action 5 id=x",
        "+1h void x",
        "+1h grant 7 until=+3d",
        "+1h suspend fraud",
        "+1h change max",
        "+1h resume",
        "+1h cancel",
        "2026-02-04T09:00 use ai_edit",
        at=datetime(2026, 2, 5, tzinfo=UTC),
    )
    world.fold()
    document = bare_app().openapi()
    for what, schema in (("meter", "Meter"), ("charges", "ChargePage"), ("periods", "PeriodPage")):
        answer = world.get(f"/v1/accounts/a/{what}")
        jsonschema.validate(
            answer, {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
        )
    kinds = {each["kind"] for each in world.get("/v1/accounts/a/charges")["items"]}
    assert kinds == {
        "usage",
        "void",
        "grant",
        "grant_expired",
        "renewal",
        "plan_change",
        "account_opened",
        "suspension",
        "resumption",
    }
