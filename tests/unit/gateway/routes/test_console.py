"""The operator's API: accounts, refusals, lags and catalogs, over a ledger in memory."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import pytest
from kafka.errors import KafkaTimeoutError
from msgspec.structs import replace

from tests.history_files import records_of
from tests.notation import SHIPPED, Partition
from tests.worlds.account_sources import MemoryAccounts
from tests.worlds.gateway_world import NOW, GatewayWorld
from usageledger.accounts.queries import Clock
from usageledger.accounts.reader import Accounts
from usageledger.counters.owner_reports import OwnerReport
from usageledger.counters.view import Position, StoredHead
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog_document import load_shipped_catalog
from usageledger.domain.encoding import encode
from usageledger.domain.entry import InputAddress
from usageledger.domain.refusal import Refusal
from usageledger.gateway.inspector import Inspector
from usageledger.gateway.routes.refusals import Result
from usageledger.history.folding import HistoryFold
from usageledger.history.tables import HISTORY_FILE, open_for_writing
from usageledger.ledger.records import Record
from usageledger.ledger.refused_input import RefusedInput
from usageledger.log.event_publisher import Outgoing, Sent
from usageledger.log.topics import Topics
from usageledger.operations.lags import Lag, LedgerLags
from usageledger.operations.ledger_inspection import (
    LedgerConnections,
    LedgerProgress,
    PublishedAndAdopted,
)
from usageledger.operations.partition_states import partition_states

START = "2026-11-20T09:00"
KNOWN_RECORD = Record(0, 1_763_629_200_000, b"a", b'{"refused": "as it was"}')


class DecidedAccounts(MemoryAccounts):
    """The one partition that was decided in memory. Only its head is read."""

    def __init__(self, world: ConsoleWorld) -> None:
        super().__init__()
        self._world = world

    async def heads(self, partitions: Iterable[int]) -> dict[int, StoredHead | None]:
        head = self._world.partition.book.head
        return {0: StoredHead(Position(head.next_offset, head.hash), encode(head), 0)}


class ToldInspector(Inspector):
    """An inspector with prepared answers."""

    def __init__(self) -> None:
        self.looked = LedgerProgress(NOW, LedgerLags((), {}), ())
        self.there = PublishedAndAdopted(SHIPPED, {0: SHIPPED})
        self.lying: dict[InputAddress, Record] = {}

    async def progress(self) -> LedgerProgress:
        return self.looked

    async def catalogs(self) -> PublishedAndAdopted:
        return self.there

    async def refused_records(self, refused: Sequence[RefusedInput]) -> list[list[Record]]:
        return [
            [
                self.lying[address]
                for offset in refusal.input_offsets
                if (address := replace(refusal.input, offset=offset)) in self.lying
            ]
            for refusal in refused
        ]


class ConsoleWorld:
    """A gateway over a partition in memory.

    ``fold`` folds what has been decided; ``sent`` lists the records that went to Kafka.
    """

    def __init__(self, directory: Path) -> None:
        self.gateway = GatewayWorld(directory)
        self.partition = Partition()
        self.inspector = ToldInspector()
        self.is_importing = False
        self.sent: list[Outgoing] = []
        self.unavailable: set[bytes] = set()
        self.source = DecidedAccounts(self)
        clock = Clock(lambda: NOW, lambda: self.is_importing)
        self.gateway.use(
            accounts=Accounts(self.source, partition_count=1, clock=clock),
            inspector=self.inspector,
            publish=self._publish,
        )
        self.key = self.gateway.key("admin")
        self._path = directory / HISTORY_FILE

    def take(self, *lines: str) -> None:
        for line in lines:
            self.partition.take(line)

    def fold(self) -> None:
        database = open_for_writing(self._path)
        fold = HistoryFold(database)
        if new := records_of(self.partition.entries)[fold.position(0).next_offset :]:
            fold.add(0, new)
        database.close()

    def refused(self, *lines: str) -> list[str]:
        """Decide these lines, fold them, and return the refusals' addresses. The topic holds their
        records.
        """
        before = len(self.partition.entries)
        self.take(*lines)
        self.fold()
        entries = [
            sealed.entry
            for sealed in self.partition.entries[before:]
            if sealed.entry.kind == "refusal"
        ]
        for entry in entries:
            assert entry.input is not None and entry.event is not None
            key = entry.account.encode()
            self.inspector.lying[entry.input] = KNOWN_RECORD._replace(
                offset=entry.input.offset, key=key, value=entry.event.id.encode()
            )
        return [f"{entry.partition}-{entry.offset}" for entry in entries]

    def get(self, path: str, *, status: int = 200) -> dict[str, Any]:
        return self._answer("GET", path, None, status)

    def resend(self, entries: Sequence[str], *, status: int = 200) -> dict[str, Any]:
        return self._answer("POST", "/v1/refusals/resend", {"entries": list(entries)}, status)

    def close(self) -> None:
        self.gateway.close()

    async def _publish(self, records: Sequence[Outgoing]) -> list[Sent]:
        taken = [
            Sent(None, "Kafka did not take it") if record.value in self.unavailable else Sent(7)
            for record in records
        ]
        self.sent += [
            record
            for record, outcome in zip(records, taken, strict=True)
            if outcome.offset is not None
        ]
        return taken

    def _answer(self, method: str, path: str, body: object, status: int) -> dict[str, Any]:
        answer = asyncio.run(self.gateway.ask(method, path, credential=self.key, body=body))
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ConsoleWorld]:
    made = ConsoleWorld(tmp_path)
    yield made
    made.close()


def names(page: dict[str, Any]) -> list[str]:
    return [item["account"] for item in page["items"]]


# Accounts


def test_an_account_is_found_by_any_part_of_its_name_whatever_the_case(world: ConsoleWorld) -> None:
    world.take(
        *(
            f"{START} use ai_edit account={name}"
            for name in ("Acme/Video", "acme-audio", "team_7", "50%_off")
        )
    )
    world.fold()
    for search, found in {
        "ACME": ["Acme/Video", "acme-audio"],
        "video": ["Acme/Video"],
        "_": ["50%25_off", "team_7"],
        "%25": ["50%25_off"],
        "nobody": [],
        "": ["50%25_off", "Acme/Video", "acme-audio", "team_7"],
    }.items():
        assert names(world.get(f"/v1/accounts?search={search}")) == [
            name.replace("%25", "%") for name in found
        ]


def test_pages_of_accounts_miss_none_and_repeat_none_whatever_comes_in_meanwhile(
    world: ConsoleWorld,
) -> None:
    world.take(*(f"{START} use ai_edit account=acct_{number}" for number in range(0, 10, 2)))
    world.fold()
    seen, cursor = [], ""
    while True:
        page = world.get(f"/v1/accounts?limit=2{cursor}")
        seen += names(page)
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
        world.take("+1s use ai_edit account=acct_1")
        world.fold()
    assert seen == [f"acct_{number}" for number in range(0, 10, 2)]


def test_an_accounts_figures_are_rolled_to_now(world: ConsoleWorld) -> None:
    world.take(
        "2026-10-20T09:00 subscribe pro account=renewed",
        "+1h use ai_edit account=renewed",
        f"{START} subscribe pro account=running",
        "+1h use ai_edit account=running",
        "+1m use genai_video/veo_3 7 account=spent",
    )
    world.fold()
    renewed, running, spent = world.get("/v1/accounts")["items"]
    assert (renewed["used"], renewed["remaining"], renewed["last_used_at"]) == (
        "0",
        "200",
        "2026-10-20T10:00:00Z",
    )
    assert (running["used"], running["remaining"], running["plan"], running["plan_name"]) == (
        "14",
        "186",
        "pro",
        "Pro",
    )
    assert (spent["plan"], spent["remaining"], spent["blocked"], running["blocked"]) == (
        "free",
        "-24",
        True,
        False,
    )


def test_an_account_is_not_rolled_forward_by_counters_that_do_not_know_its_plan(
    world: ConsoleWorld,
) -> None:
    """Counters that are rebuilt adopt each catalog when they reach it. The history has every
    account long before.
    """
    shipped = load_shipped_catalog()
    older = replace(
        shipped, version="older", plans=tuple(plan for plan in shipped.plans if plan.id != "max")
    )

    world.take("2026-10-20T09:00 subscribe max", "+1h use ai_edit")
    world.fold()
    world.source.catalogs = AdoptedCatalogs((older,))
    (shown,) = world.get("/v1/accounts")["items"]
    assert (shown["plan"], shown["plan_name"], shown["used"]) == ("max", "max", "14")


def test_lists_say_up_to_when_they_are_complete(world: ConsoleWorld) -> None:
    world.take(f"{START} use ai_edit")
    world.fold()
    assert world.get("/v1/accounts")["history_as_of"] is None
    world.take("+1h use ai_edit")
    for path in ("/v1/accounts", "/v1/refusals"):
        assert world.get(path)["history_as_of"] == "2026-11-20T09:00:00Z"


def test_with_an_empty_history_a_list_is_complete_until_1970(world: ConsoleWorld) -> None:
    world.fold()
    world.take(f"{START} use ai_edit")
    assert world.get("/v1/accounts") == {
        "items": [],
        "next_cursor": None,
        "history_as_of": "1970-01-01T00:00:00Z",
    }


def test_without_a_history_lists_are_not_ready(world: ConsoleWorld) -> None:
    for path in ("/v1/accounts", "/v1/refusals"):
        assert world.get(path, status=503)["code"] == "not_ready"
    assert world.resend(["0-1"], status=503)["code"] == "not_ready"


@pytest.mark.parametrize(
    ("path", "cursor"),
    [
        ("/v1/accounts", "!"),
        ("/v1/accounts", "abc"),
        ("/v1/refusals", "!"),
        ("/v1/refusals", "616363745f34383231"),
    ],
)
def test_a_malformed_cursor_is_refused_as_an_invalid_field(
    world: ConsoleWorld, path: str, cursor: str
) -> None:
    world.fold()
    problem = world.get(f"{path}?cursor={cursor}", status=422)
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("invalid_request", "query/cursor")


def test_any_string_of_its_pattern_is_a_cursor(world: ConsoleWorld) -> None:
    world.refused(f"{START} use genai_video/veo_9", "+1h use ai_edit account=b")
    assert names(world.get("/v1/accounts?cursor=61")) == ["b"]
    assert names(world.get("/v1/accounts?cursor=ff00")) == []
    assert world.get("/v1/refusals?cursor=0.0-0")["items"] == []
    assert len(world.get(f"/v1/refusals?cursor={'9' * 18}.999999-999999999999")["items"]) == 1


# Refusals


def test_a_refusal_is_listed_with_its_place_and_its_reason_the_newest_first(
    world: ConsoleWorld,
) -> None:
    entries = world.refused(
        f"{START} use genai_video/veo_9 id=gen_1",
        "+1h subscribe platinum id=s_1",
        "+1h use holograms id=gen_2",
    )
    items = world.get("/v1/refusals")["items"]
    assert [item["entry"] for item in items] == entries[::-1]
    assert [item["reason"] for item in items] == [
        "unknown_feature",
        "unknown_plan",
        "unknown_model",
    ]
    assert items[2] | {"detail": ""} == {
        "entry": entries[0],
        "account": "a",
        "reason": "unknown_model",
        "detail": "",
        "appended_at": "2026-11-20T09:00:00Z",
        "event": {"source": "/test", "id": "gen_1"},
        "feature": "genai_video",
        "model": "veo_9",
        "is_resolved": False,
        "place": "usage 0-0",
        "records": 1,
        "reasons": None,
    }
    assert items[1]["place"] == "account 0-0"


def test_refusals_are_chosen_by_reason_and_by_whether_they_are_resolved(
    world: ConsoleWorld,
) -> None:
    mended, still_open, _ = world.refused(
        f"{START} use genai_video/veo_9 id=gen_1",
        "+1h use genai_video/veo_9 id=gen_2",
        "+1h use holograms",
        "+1h use genai_video/veo_3 id=gen_1",
    )
    for query, found in {
        "reason=unknown_model": [still_open, mended],
        "reason=unknown_model&resolved=true": [mended],
        "reason=unknown_model&resolved=false": [still_open],
        "resolved=true": [mended],
        "reason=period_closed": [],
    }.items():
        assert [item["entry"] for item in world.get(f"/v1/refusals?{query}")["items"]] == found, (
            query
        )


def test_pages_of_refusals_go_on_where_the_last_one_ended(world: ConsoleWorld) -> None:
    entries = world.refused(f"{START} use genai_video/veo_9", *["+0s use genai_video/veo_9"] * 4)
    seen, cursor = [], ""
    for _ in entries:
        page = world.get(f"/v1/refusals?limit=1{cursor}")
        seen += [item["entry"] for item in page["items"]]
        cursor = f"&cursor={page['next_cursor']}"
        world.refused("+1m use genai_video/veo_9")
    assert (seen, page["next_cursor"] is None) == (entries[::-1], True)


def test_an_unknown_reason_is_refused_and_does_not_give_an_empty_list(
    world: ConsoleWorld,
) -> None:
    world.fold()
    assert world.get("/v1/refusals?reason=out_of_luck", status=422)["code"] == "invalid_request"


def test_the_console_offers_every_reason_and_every_result() -> None:
    page = (
        resources.files("usageledger")
        .joinpath("web/pages/console-refusals.js")
        .read_text(encoding="utf-8")
    )
    reasons = page.partition("const REASONS = [")[2].partition("]")[0]
    assert sorted(re.findall(r'"(\w+)"', reasons)) == sorted(reason.value for reason in Refusal)
    results = page.partition("const RESULTS = {")[2].partition("}")[0]
    assert sorted(re.findall(r"(\w+):", results)) == sorted(get_args(Result))


# Sending again


def test_a_refused_record_is_sent_again_unchanged(world: ConsoleWorld) -> None:
    usage, account = world.refused(
        f"{START} use genai_video/veo_9 id=gen_1", "+1h subscribe platinum id=s_1"
    )
    assert world.resend([usage, account])["items"] == [
        {"entry": usage, "result": "sent", "detail": None},
        {"entry": account, "result": "sent", "detail": None},
    ]
    topics = Topics()
    assert world.sent == [
        Outgoing(topics.usage, 0, b"a", b"gen_1", None),
        Outgoing(topics.account, 0, b"a", b"s_1", None),
    ]


def test_a_resent_record_goes_to_its_keys_partition_or_without_a_key_to_the_first(
    world: ConsoleWorld,
) -> None:
    keyed, without = world.refused(f"{START} use genai_video/veo_9", "+1h use genai_video/veo_9")
    world.gateway.gateway.accounts.partition_count = 8
    for address, record in list(world.inspector.lying.items()):
        world.inspector.lying[address] = record._replace(
            key=b"acct_1" if record.offset == 0 else None
        )
    world.resend([keyed, without])
    assert [(record.key, record.partition) for record in world.sent] == [
        (b"acct_1", world.gateway.gateway.accounts.partition("acct_1")),
        (None, 0),
    ]
    assert world.sent[0].partition != 0


def test_into_an_import_a_record_goes_under_its_own_time(world: ConsoleWorld) -> None:
    (entry,) = world.refused(f"{START} use genai_video/veo_9")
    world.is_importing = True
    world.resend([entry])
    assert [record.timestamp_ms for record in world.sent] == [KNOWN_RECORD.timestamp_ms]


def test_each_input_that_is_not_resent_has_a_reason_and_the_rest_is_sent(
    world: ConsoleWorld,
) -> None:
    mended, gone, good = world.refused(
        f"{START} use genai_video/veo_9 id=1",
        "+1h use genai_video/veo_9 id=2",
        "+1h use genai_video/veo_9 id=3",
        "+1h use ai_edit id=1",
    )
    del world.inspector.lying[InputAddress(topic="usage", partition=0, offset=1)]
    told = world.resend([mended, gone, "0-999", "5-77", good, good])["items"]
    assert [(item["entry"], item["result"]) for item in told] == [
        (mended, "already_resolved"),
        (gone, "gone"),
        ("0-999", "not_found"),
        ("5-77", "not_found"),
        (good, "sent"),
    ]
    assert all(item["detail"] for item in told if item["result"] != "sent")
    assert [record.value for record in world.sent] == [b"3"]


def test_a_refused_catalog_is_listed_and_never_sent_again(world: ConsoleWorld) -> None:
    world.partition.entries += world.partition.book.adopt(Record(0, 0, None, b"not json"))
    world.fold()
    (item,) = world.get("/v1/refusals")["items"]
    assert (item["reason"], item["account"], item["place"]) == ("not_json", None, "catalog 0-0")
    assert [told["result"] for told in world.resend([item["entry"]])["items"]] == ["not_sendable"]
    assert world.sent == []


def test_if_kafka_acknowledges_none_the_answer_is_a_problem_and_nothing_is_sent(
    world: ConsoleWorld,
) -> None:
    (entry,) = world.refused(f"{START} use genai_video/veo_9 id=1")
    world.unavailable = {b"1"}
    problem = world.resend([entry, "5-77"], status=503)
    assert problem["code"] == "log_unavailable"
    assert [item["result"] for item in problem["items"]] == ["unavailable", "not_found"]


def test_if_kafka_acknowledges_some_each_input_has_its_own_result(world: ConsoleWorld) -> None:
    first, second = world.refused(
        f"{START} use genai_video/veo_9 id=1", "+1h use genai_video/veo_9 id=2"
    )
    world.unavailable = {b"1"}
    assert [item["result"] for item in world.resend([first, second])["items"]] == [
        "unavailable",
        "sent",
    ]


@pytest.mark.parametrize("entries", [[], ["0-1"] * 101, ["0"], ["0-1;"], [7]])
def test_malformed_addresses_and_too_many_of_them_are_refused(
    world: ConsoleWorld, entries: list[Any]
) -> None:
    world.fold()
    assert world.resend(entries, status=422)["code"] == "invalid_request"


# Lags and catalogs


def test_the_lag_of_a_service_counts_the_records_that_it_has_not_handled(
    world: ConsoleWorld,
) -> None:
    world.take(f"{START} use ai_edit")
    world.fold()
    folded = len(world.partition.entries)
    lags = LedgerLags(
        (
            Lag("usage", 0, 5),
            Lag("account", 0, 2),
            Lag("catalog", 0, 1),
            Lag("limits", 0, 9),
            Lag("usage", 1, 0),
        ),
        {(Topics().ledger, 0): folded + 3, (Topics().ledger, 1): 4, (Topics().usage, 0): 1_000},
    )
    stopped = OwnerReport(worker="host/1", state="stopped", stopped_because="it was truncated")
    world.inspector.looked = LedgerProgress(
        NOW, lags, partition_states(lags, {0: stopped, 1: None})
    )
    told = world.get("/v1/lag")
    assert told["services"] == [
        {"name": "processor", "records": 8},
        {"name": "limits", "records": 9},
        {"name": "history", "records": 7},
    ]
    assert told["partitions"] == [
        {
            "partition": 0,
            "state": "stopped",
            "undecided": 8,
            "lag": {"usage": 5, "account": 2, "catalog": 1, "limits": 9},
            "detail": "it was truncated",
            "needs_somebody": True,
            "worker": "host/1",
        },
        {
            "partition": 1,
            "state": "no_owner",
            "undecided": 0,
            "lag": {"usage": 0},
            "detail": "no processor has it",
            "needs_somebody": True,
            "worker": None,
        },
    ]


def test_without_a_history_the_whole_ledger_waits_to_be_folded(world: ConsoleWorld) -> None:
    world.inspector.looked = LedgerProgress(NOW, LedgerLags((), {(Topics().ledger, 0): 12}), ())
    assert world.get("/v1/lag")["services"][2] == {"name": "history", "records": 12}


def test_every_catalog_shows_how_many_partitions_adopted_it_and_if_it_is_in_force(
    world: ConsoleWorld,
) -> None:
    shipped = load_shipped_catalog()
    later = replace(
        shipped, version="2027-01", effective_from=datetime(2027, 1, 1, tzinfo=UTC), thresholds=()
    )
    both = AdoptedCatalogs((shipped, later))
    world.inspector.there = PublishedAndAdopted(both, {0: both, 1: SHIPPED, 2: AdoptedCatalogs()})
    told = world.get("/v1/catalogs")
    first, second = told["items"]
    assert told["partitions"] == 3
    assert [
        (each["version"], each["adopted_by"], each["is_in_force"]) for each in told["items"]
    ] == [
        (shipped.version, 2, True),
        ("2027-01", 1, False),
    ]
    assert first["plans"][1] == {
        "id": "pro",
        "name": "Pro",
        "price_cents": 999,
        "allotment": "200",
        "renews": True,
        "thresholds": None,
    }
    video = next(feature for feature in first["features"] if feature["id"] == "genai_video")
    assert {
        "id": "veo_3",
        "name": "Veo 3",
        "rate": {"credits": "32", "unit": "generation", "per": "1", "rounding": "up"},
    } in video["models"]
    assert (first["thresholds"], second["thresholds"]) == (["0.8"], [])


def test_catalogs_are_listed_while_redis_does_not_answer(world: ConsoleWorld) -> None:
    world.inspector.there = PublishedAndAdopted(SHIPPED, None)
    told = world.get("/v1/catalogs")
    assert (told["partitions"], told["items"][0]["adopted_by"]) == (None, None)


def test_without_a_published_catalog_none_is_in_force(world: ConsoleWorld) -> None:
    world.inspector.there = PublishedAndAdopted(AdoptedCatalogs(), {0: AdoptedCatalogs()})
    assert world.get("/v1/catalogs") == {"items": [], "partitions": 1}


# Asking Kafka


class MadeUpConnections(LedgerConnections):
    """Connections to no broker, which fail ``failures`` times. ``looks`` counts the requests."""

    failures = 0
    looks = 0

    def __init__(self) -> None:
        self.is_closed = False

    def progress(self) -> LedgerProgress:
        type(self).looks += 1
        if self.looks <= self.failures:
            raise KafkaTimeoutError("no answer")
        return LedgerProgress(NOW, LedgerLags((), {}), ())

    def close(self) -> None:
        self.is_closed = True


def test_requests_at_the_same_time_share_one_look() -> None:
    class Counted(MadeUpConnections):
        pass

    inspector = Inspector(Counted)

    async def scenario() -> int:
        looks = await asyncio.gather(*(inspector.progress() for _ in range(100)))
        return len({id(look) for look in looks})

    assert asyncio.run(scenario()) == 1
    inspector.close()
    assert Counted.looks == 1


def test_a_connection_that_has_failed_is_replaced_with_the_next_question(
    world: ConsoleWorld,
) -> None:
    class FailsOnce(MadeUpConnections):
        failures = 1

    made: list[MadeUpConnections] = []

    def connect() -> LedgerConnections:
        made.append(FailsOnce())
        return made[-1]

    inspector = Inspector(connect)
    world.gateway.use(inspector=inspector)
    problem = world.get("/v1/lag", status=503)
    assert (problem["code"], "KafkaTimeoutError" in problem["detail"]) == ("log_unavailable", True)
    world.get("/v1/lag")
    inspector.close()
    assert [connections.is_closed for connections in made[:1]] == [True]
    assert len(made) == 2


def test_a_silent_broker_delays_no_answer_beyond_the_bound(world: ConsoleWorld) -> None:
    answered = threading.Event()

    def connect() -> LedgerConnections:
        answered.wait(30)
        return MadeUpConnections()

    inspector = Inspector(connect, answer_within_s=0.05)
    world.gateway.use(inspector=inspector)
    for path in ("/v1/lag", "/v1/catalogs", "/v1/lag"):
        assert world.get(path, status=503)["code"] == "log_unavailable"
    answered.set()
    inspector.close()


def test_a_key_without_admin_reads_none_of_the_operators_lists(world: ConsoleWorld) -> None:
    world.fold()
    world.key = world.gateway.key("read", "report", "check", "hold")
    for path in ("/v1/accounts", "/v1/refusals", "/v1/lag"):
        assert world.get(path, status=403)["scope"] == "admin"
    assert world.resend(["0-0"], status=403)["scope"] == "admin"
    assert json.dumps(world.get("/v1/catalogs")["items"][0]["version"])
