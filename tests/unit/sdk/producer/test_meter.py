"""The promises of `UsageMeter` to a program, and of the meter in memory."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.producer_fakes import FakeKafka, in_child
from usageledger.sdk.producer.events import InvalidEvent
from usageledger.sdk.producer.meter import UsageMeter
from usageledger.sdk.producer.publisher import Blame, Connect, Publisher, PublishError
from usageledger.sdk.producer.recording import UsageRecorder, Waiting
from usageledger.sdk.producer.sender import SenderSettings
from usageledger.sdk.producer.spool import SpoolError, SpoolFull
from usageledger.testing import InMemoryMeter

NOW = datetime(2026, 11, 22, 10, 15, 31, tzinfo=UTC)
DEADLINE_S = 20.0


@dataclass
class Case:
    """A meter, and the events that it delivered."""

    meter: UsageRecorder
    events: Callable[[], list[dict[str, Any]]]


def file_meter(kafka: FakeKafka, directory: Path, **settings: Any) -> UsageMeter:
    given = {
        "source": "render",
        "clock": lambda: NOW,
        "spool_directory": directory,
        "connect_to": kafka.connect_to,
        "exit_timeout_s": 0.0,
    }
    return UsageMeter(**{**given, **settings})


@pytest.fixture(params=["UsageMeter", "InMemoryMeter"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    if request.param == "InMemoryMeter":
        memory = InMemoryMeter(source="render", clock=lambda: NOW)
        yield Case(memory, lambda: memory.events)
        return
    kafka = FakeKafka()
    meter = file_meter(kafka, tmp_path)

    def events() -> list[dict[str, Any]]:
        assert meter.flush(DEADLINE_S)
        return kafka.events()

    yield Case(meter, events)
    meter.close(DEADLINE_S)


def test_a_recorded_use_becomes_one_usage_event_with_the_id_given(case: Case) -> None:
    id = case.meter.record(
        account="acct_4821",
        feature="genai_video",
        model="veo_3",
        quantity="1.50",
        id="gen_1",
        occurred_at=NOW - timedelta(seconds=1),
        hold_id="hold_9",
        dimensions={"project": "p_77"},
    )
    assert id == "gen_1"
    assert case.events() == [
        {
            "specversion": "1.0",
            "type": "usage.recorded",
            "id": "gen_1",
            "source": "render",
            "subject": "acct_4821",
            "time": "2026-11-22T10:15:30Z",
            "recordedtime": "2026-11-22T10:15:31Z",
            "datacontenttype": "application/json",
            "data": {
                "feature": "genai_video",
                "model": "veo_3",
                "quantity": "1.5",
                "hold_id": "hold_9",
                "dimensions": {"project": "p_77"},
            },
        }
    ]


def test_a_void_names_the_usage_and_is_the_same_when_repeated(case: Case) -> None:
    first = case.meter.void(account="acct_1", id="gen_1", reason="black frames")
    again = case.meter.void(account="acct_1", id="gen_1", reason="black frames")
    other = case.meter.void(account="acct_1", id="gen_1", reason="black frames", source="image")
    assert first == again != other
    found = case.events()
    assert [event["type"] for event in found] == ["usage.voided"] * 3
    assert [event["data"]["source"] for event in found] == ["render", "render", "image"]
    assert found[0]["id"] == first


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("account", ""),
        ("feature", None),
        ("quantity", 0.5),
        ("occurred_at", NOW - timedelta(days=36)),
        ("dimensions", {"a": "x" * 70_000}),
    ],
)
def test_what_is_wrong_is_refused_at_the_call_and_not_recorded(
    case: Case, field: str, value: Any
) -> None:
    given: dict[str, Any] = {
        "account": "acct_1",
        "feature": "genai_image",
        "id": "gen_1",
        field: value,
    }
    with pytest.raises(InvalidEvent, match=field):
        case.meter.record(**given)
    assert case.events() == []


def test_a_generation_is_recorded_when_its_block_ends_well(case: Case) -> None:
    with case.meter.generation(
        account="acct_1", feature="genai_video", model="veo_3", id="gen_1"
    ) as generation:
        generation.quantity = "3.5"
        generation.dimensions = {"worker": "eu-1/7"}
        assert case.events() == []
    [event] = case.events()
    assert event["data"]["quantity"] == "3.5"
    assert event["data"]["dimensions"] == {"worker": "eu-1/7"}


def test_a_generation_that_fails_is_not_recorded_unless_told(case: Case) -> None:
    for told in (False, True):
        with (
            pytest.raises(RuntimeError, match="out of memory"),
            case.meter.generation(
                account="acct_1", feature="genai_video", id=f"gen_{told}", record_on_error=told
            ),
        ):
            raise RuntimeError("out of memory")
    assert [event["id"] for event in case.events()] == ["gen_True"]


def test_a_generation_that_was_cancelled_is_not_recorded(case: Case) -> None:
    with case.meter.generation(account="acct_1", feature="genai_video", id="gen_1") as generation:
        generation.cancel()
    assert case.events() == []


def test_a_generation_that_could_not_be_recorded_is_refused_before_the_work_is_done(
    case: Case,
) -> None:
    worked = False
    with (
        pytest.raises(InvalidEvent, match="account"),
        case.meter.generation(account="", feature="genai_video", id="gen_1"),
    ):
        worked = True
    assert not worked


@dataclass
class Clip:
    id: str
    seconds: str


def test_a_decorated_function_records_what_it_returned(case: Case) -> None:
    @case.meter.records(
        account=lambda owner: owner,
        feature="genai_music",
        model=lambda style: f"model_{style}",
        quantity=lambda result: result.seconds,
        id=lambda result: result.id,
        dimensions=lambda owner, result: {"clip": f"{owner}/{result.id}"},
    )
    def compose(owner: str, style: str = "jazz") -> Clip:
        """Compose."""
        return Clip("clip_1", "12.5")

    assert compose("acct_1").id == "clip_1"
    assert (compose.__name__, compose.__doc__) == ("compose", "Compose.")
    [event] = case.events()
    assert event["subject"] == "acct_1"
    assert event["id"] == "clip_1"
    assert event["data"] == {
        "feature": "genai_music",
        "model": "model_jazz",
        "quantity": "12.5",
        "hold_id": None,
        "dimensions": {"clip": "acct_1/clip_1"},
    }


def test_a_decorated_coroutine_records_when_it_is_done(case: Case) -> None:
    @case.meter.records(
        account=lambda owner: owner, feature="genai_music", id=lambda result: result.id
    )
    async def compose(owner: str) -> Clip:
        await asyncio.sleep(0)
        return Clip("clip_1", "1")

    async def work() -> None:
        composing = compose("acct_1")
        assert case.events() == []
        assert (await composing).seconds == "1"

    asyncio.run(work())
    assert [event["id"] for event in case.events()] == ["clip_1"]


def test_a_decorated_function_that_raises_records_nothing(case: Case) -> None:
    @case.meter.records(account="acct_1", feature="genai_music", id=lambda: "never")
    def compose() -> None:
        raise RuntimeError("no inspiration")

    with pytest.raises(RuntimeError, match="no inspiration"):
        compose()
    assert case.events() == []


def test_a_decorator_that_cannot_work_is_refused_when_it_is_written(case: Case) -> None:
    def compose(owner: str) -> str:
        return owner

    def stream(owner: str) -> Iterator[str]:
        yield owner

    with pytest.raises(TypeError, match="account asks for user"):
        case.meter.records(
            account=lambda user: user, feature="genai_music", id=lambda result: result
        )(compose)
    with pytest.raises(TypeError, match="yields"):
        case.meter.records(account="acct_1", feature="genai_music", id=lambda result: result)(
            stream
        )


def test_a_closed_meter_refuses(case: Case) -> None:
    with case.meter as meter:
        meter.record(account="acct_1", feature="genai_image", id="gen_1")
    with pytest.raises(SpoolError, match="closed"):
        case.meter.record(account="acct_1", feature="genai_image", id="gen_2")
    assert case.meter.close(), "closing twice is closing once"


def test_nothing_waits_when_all_is_flushed(case: Case) -> None:
    case.meter.record(account="acct_1", feature="genai_image", id="gen_1")
    assert case.meter.flush(DEADLINE_S)
    assert case.meter.waiting() == Waiting()


def test_a_source_is_needed_and_checked() -> None:
    for meter in (UsageMeter, InMemoryMeter):
        with pytest.raises(InvalidEvent, match="source"):
            meter(source="")


def test_the_in_memory_meter_can_stand_for_a_full_disk() -> None:
    meter = InMemoryMeter(source="render")
    meter.fail_with = SpoolFull("full")
    with pytest.raises(SpoolFull):
        meter.record(account="acct_1", feature="genai_image", id="gen_1")
    assert meter.events == []


# Rules of UsageMeter alone.


def spooled(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*.segment"))


def test_an_event_is_on_disk_when_record_returns_and_kafka_is_not_asked(tmp_path: Path) -> None:
    kafka = FakeKafka()
    kafka.is_down = True
    meter = file_meter(kafka, tmp_path)
    meter.record(account="acct_1", feature="genai_image", id="gen_1")
    assert b'"id":"gen_1"' in spooled(tmp_path)
    waiting = meter.waiting()
    assert (waiting.count, waiting.parked) == (1, 0)
    assert waiting.bytes > 200
    assert waiting.age_s >= 0
    assert not meter.close(timeout_s=0.0)


def test_what_an_earlier_process_could_not_send_is_sent_by_the_next(tmp_path: Path) -> None:
    kafka = FakeKafka()
    kafka.is_down = True
    with file_meter(kafka, tmp_path) as meter:
        meter.record(account="acct_1", feature="genai_image", id="gen_1")
        meter.void(account="acct_1", id="gen_0", reason="failed")
        meter.close(timeout_s=0.0)
    kafka.is_down = False
    with file_meter(kafka, tmp_path) as later:
        assert later.flush(DEADLINE_S)
        assert later.waiting().count == 0
    assert sorted(topic for topic, _, _ in kafka.log) == ["account.events.v1", "usage.events.v1"]
    assert {key for _, key, _ in kafka.log} == {b"acct_1"}


def test_a_refused_event_makes_flush_say_so_and_not_wait(tmp_path: Path) -> None:
    kafka = FakeKafka()
    kafka.refuses = lambda value: b"gen_bad" in value

    def refuse(topic: str) -> Any:
        return lambda: _AtOnce(kafka, topic)

    with file_meter(kafka, tmp_path, connect_to=refuse) as meter:
        meter.record(account="acct_1", feature="genai_image", id="gen_bad")
        meter.record(account="acct_1", feature="genai_image", id="gen_good")
        assert not meter.flush(DEADLINE_S)
        assert (meter.waiting().count, meter.waiting().parked) == (0, 1)
    assert [event["id"] for event in kafka.events()] == ["gen_good"]


class _AtOnce:
    """A connection that refuses at the call, as kafka-python does with a record above its own
    limit.
    """

    def __init__(self, kafka: FakeKafka, topic: str) -> None:
        self._connection = kafka.connect_to(topic)()
        self._kafka = kafka

    def send(self, key: bytes, value: bytes, done: Any, *, timestamp_ms: int | None = None) -> None:
        if self._kafka.refuses(value):
            raise PublishError("too large", Blame.EVENT)
        self._connection.send(key, value, done)

    def close(self) -> None:
        self._connection.close()


def test_a_meter_closed_while_it_connects_does_not_wait_and_gives_up_its_spool(
    tmp_path: Path,
) -> None:
    kafka = FakeKafka()
    connecting, go_on = threading.Event(), threading.Event()

    def connect_slowly(topic: str) -> Connect:
        def connect() -> Publisher:
            connecting.set()
            assert go_on.wait(DEADLINE_S)
            raise PublishError("no broker", Blame.CONNECTION)

        return connect

    meter = file_meter(kafka, tmp_path, connect_to=connect_slowly)
    meter.record(account="acct_1", feature="genai_image", id="gen_1")
    assert connecting.wait(DEADLINE_S)
    assert not meter.close(timeout_s=0.0)
    go_on.set()
    with file_meter(
        kafka, tmp_path, sender_settings=SenderSettings(adopt_every_s=0.0, idle_s=0.01)
    ):
        assert kafka.stored.wait(DEADLINE_S)
    assert [event["id"] for event in kafka.events()] == ["gen_1"]


def test_a_full_spool_refuses_at_the_call(tmp_path: Path) -> None:
    kafka = FakeKafka()
    kafka.is_down = True
    meter = file_meter(kafka, tmp_path, spool_count_max=2)
    for number in range(2):
        meter.record(account="acct_1", feature="genai_image", id=f"gen_{number}")
    with pytest.raises(SpoolFull, match="NOT recorded"):
        meter.record(account="acct_1", feature="genai_image", id="gen_2")
    meter.close(timeout_s=0.0)


def test_many_threads_record_through_one_meter_and_each_accounts_order_is_kept(
    tmp_path: Path,
) -> None:
    kafka = FakeKafka()
    meter = file_meter(kafka, tmp_path, sender_settings=SenderSettings(in_flight_max=7))

    def work(account: str) -> None:
        for number in range(100):
            meter.record(account=account, feature="genai_image", id=f"{account}_{number}")

    threads = [threading.Thread(target=work, args=(f"acct_{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert meter.close(DEADLINE_S)
    for account in ("acct_0", "acct_1", "acct_2", "acct_3"):
        ids = [event["id"] for event in kafka.events() if event["subject"] == account]
        assert ids == [f"{account}_{number}" for number in range(100)]
    assert list(tmp_path.rglob("*.segment")) == []


def test_a_forked_child_records_into_a_spool_and_a_connection_of_its_own(tmp_path: Path) -> None:
    """gunicorn with preload: the meter is made, and used, before the fork."""
    kafka = FakeKafka()
    meter = file_meter(kafka, tmp_path)
    meter.record(account="acct_1", feature="genai_image", id="before")
    assert meter.flush(DEADLINE_S)
    kafka.answers = False
    meter.record(account="acct_1", feature="genai_image", id="parents")

    def work() -> None:
        kafka.log.clear()
        kafka.answers = True
        assert meter.waiting().count == 0, "only the parent sends the events that wait"
        meter.record(account="acct_1", feature="genai_image", id="childs")
        assert meter.flush(60.0)
        assert [event["id"] for event in kafka.events()] == ["childs"]
        assert len(kafka.connections) == connections + 1
        assert not any(connection.is_closed for connection in kafka.connections)
        assert meter.close(60.0)

    connections = len(kafka.connections)
    assert in_child(work) == 0
    assert meter.waiting().count == 1
    _deliver_until_flushed(kafka, meter)
    assert [event["id"] for event in kafka.events()] == ["before", "parents"]
    meter.close(DEADLINE_S)


@pytest.mark.timeout(180)  # ten processes, each with a thread, on a machine that others share
def test_children_forked_while_threads_record_do_not_hang_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    kafka = FakeKafka()
    meter = file_meter(kafka, tmp_path)
    stop = threading.Event()
    recorded: list[str] = []

    def record() -> None:
        while not stop.is_set():
            recorded.append(
                meter.record(account="acct_1", feature="genai_image", id=f"parent_{len(recorded)}")
            )

    def work() -> None:
        kafka.log.clear()
        meter.record(account="acct_1", feature="genai_image", id=f"child_{os.getpid()}")
        assert meter.close(60.0)
        assert [event["id"] for event in kafka.events()] == [f"child_{os.getpid()}"]

    thread = threading.Thread(target=record)
    thread.start()
    try:
        assert [in_child(work) for _ in range(10)] == [0] * 10
    finally:
        stop.set()
        thread.join(DEADLINE_S)
    # On a busy machine the children take long, and the thread has recorded thousands meanwhile.
    assert meter.close(60.0)
    assert [event["id"] for event in kafka.events()] == recorded


def test_a_child_forked_while_a_meter_closes_does_not_keep_what_it_left_from_others(
    tmp_path: Path,
) -> None:
    """Kafka was down when a server was asked to end.

    While its meter tried to send the rest, another thread forked a worker, which lived on.

    The worker had a copy of the lock on the events on disk. When Kafka was back and the next server
    ran, the events still waited for the worker to end.
    """
    kafka = FakeKafka()
    kafka.is_down = True
    meter = file_meter(kafka, tmp_path)
    meter.record(account="acct_1", feature="genai_image", id="left")
    closing = threading.Thread(target=meter.close, args=(1.0,))
    closing.start()
    while meter.waiting().count:  # it is closing once it reports nothing
        closing.join(0.001)
    assert closing.is_alive()
    ends, may_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(may_end)
        os.read(ends, 1)
        os._exit(0)
    try:
        closing.join(DEADLINE_S)
        kafka.is_down = False
        successor = file_meter(kafka, tmp_path)
        assert successor.close(DEADLINE_S)
        assert [event["id"] for event in kafka.events()] == ["left"]
    finally:
        os.close(may_end)
        os.waitpid(child, 0)


def test_what_a_killed_child_left_is_sent_by_a_process_that_lives(tmp_path: Path) -> None:
    kafka = FakeKafka()
    meter = file_meter(
        kafka, tmp_path, sender_settings=SenderSettings(adopt_every_s=0.0, idle_s=0.01)
    )

    def work() -> None:
        kafka.is_down = True
        meter.record(account="acct_1", feature="genai_image", id="orphan")
        os.kill(os.getpid(), 9)

    assert in_child(work) == -9
    assert kafka.stored.wait(DEADLINE_S)
    assert [event["id"] for event in kafka.events()] == ["orphan"]
    meter.close(DEADLINE_S)


def test_what_waits_at_the_end_of_the_process_is_sent_or_left_on_disk(tmp_path: Path) -> None:
    """Without close or flush, the process just ends."""
    script = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parents[4])!r})
from tests.worlds.producer_fakes import FakeKafka
from usageledger.sdk.producer.meter import UsageMeter
from usageledger.sdk.producer.publisher import Blame, Connect, Publisher, PublishError

class Printing(FakeKafka):
    def __init__(self):
        super().__init__()
        self.log = self
    def append(self, record):
        print(json.loads(record[2])["id"], flush=True)

kafka = Printing()
kafka.is_down = sys.argv[1] == "down"
meter = UsageMeter(
    source="render",
    spool_directory={str(tmp_path)!r},
    connect_to=kafka.connect_to,
    exit_timeout_s=float(sys.argv[2]),
)
if sys.argv[1] != "later":
    meter.record(account="acct_1", feature="genai_image", id="gen_" + sys.argv[1])
"""

    def run(kafka_is: str, exit_timeout_s: float) -> str:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        command = [sys.executable, "-c", script, kafka_is, str(exit_timeout_s)]
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    assert run("up", 20.0) == "gen_up\n"
    assert run("down", 0.0) == ""
    assert b"gen_down" in spooled(tmp_path)
    assert run("later", 20.0) == "gen_down\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kafka": ""}, "host:port"),
        ({"kafka": "k:9092", "prefix": "a b"}, "prefix"),
        ({"kafka": "k:9092", "durability": "eternal"}, "durability"),
        ({"kafka": "k:9092", "kafka_options": {"acks": 0, "linger_ms": 1}}, "cannot set acks"),
    ],
)
def test_a_wrong_setting_is_told_at_the_start(
    settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("USAGELEDGER_KAFKA", raising=False)
    with pytest.raises(ValueError, match=message):
        UsageMeter(source="render", spool_directory=tmp_path, **settings)


def test_settings_come_from_the_environment_and_each_kafka_has_a_spool_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("USAGELEDGER_SPOOL", raising=False)
    monkeypatch.setenv("USAGELEDGER_PREFIX", "acme")
    for address in ("127.0.0.1:1", "127.0.0.1:2"):
        monkeypatch.setenv("USAGELEDGER_KAFKA", address)
        with UsageMeter(source="render", exit_timeout_s=0.0) as meter:
            meter.close(0.0)
    found = sorted(
        str(path.relative_to(tmp_path))
        for path in (tmp_path / "usageledger" / "spool").glob("*/*.usage.*")
    )
    assert found == [f"usageledger/spool/127.0.0.1_{port}/acme.usage.events.v1" for port in (1, 2)]


def _deliver_until_flushed(kafka: FakeKafka, meter: UsageMeter) -> None:
    kafka.answers = True
    for connection in kafka.connections:
        connection.deliver()
    assert meter.flush(DEADLINE_S)


def test_what_a_test_of_the_in_memory_meter_sees_is_what_kafka_would_get() -> None:
    meter = InMemoryMeter(source="render")
    meter.record(account="acct_1", feature="genai_image", id="gen_1")
    assert json.loads(json.dumps(meter.events)) == meter.events
