"""Our own Kafka and Redis: from packages, and in containers where an engine answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from usageledger.local.docker_servers import why_not_docker
from usageledger.local.errors import StackError
from usageledger.local.processes import ChildProcess, ends_within, is_alive
from usageledger.local.progress import Silent
from usageledger.local.servers import Backend, Servers, make_redis, start_all, start_servers
from usageledger.log.topics import Topics
from usageledger.operations.topics import create_topics

TOPIC = Topics().usage


@pytest.fixture(params=["packages", pytest.param("docker", marks=pytest.mark.docker_backend)])
def backend(request: pytest.FixtureRequest) -> Backend:
    backend_name: Backend = request.param
    if backend_name == "docker" and (reason := why_not_docker()) is not None:
        pytest.skip(reason)
    return backend_name


def append(servers: Servers, value: bytes) -> None:
    producer = KafkaProducer(**servers.kafka.for_kafka_python())
    try:
        producer.send(TOPIC, key=b"acct_1", value=value, partition=0).get(timeout=30)
    finally:
        producer.close(timeout=5)


def values(servers: Servers, count: int) -> list[bytes]:
    consumer = KafkaConsumer(**servers.kafka.for_kafka_python(), enable_auto_commit=False)
    try:
        partition = TopicPartition(TOPIC, 0)
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        read: list[bytes] = []
        deadline = time.monotonic() + 30
        while len(read) < count and time.monotonic() < deadline:
            read += [record.value for record in consumer.poll(timeout_ms=1000).get(partition, [])]
        return read
    finally:
        consumer.close()


def test_data_and_addresses_outlive_a_restart(backend: Backend, tmp_path: Path) -> None:
    servers = start_servers(tmp_path, backend)
    try:
        create_topics(servers.kafka, partitions=1)
        append(servers, b"first")
        with redis.Redis.from_url(servers.redis_url) as client:
            client.set("meter", "14")
    finally:
        servers.stop()

    again = start_servers(tmp_path, backend)
    try:
        assert (again.kafka, again.redis_url) == (servers.kafka, servers.redis_url)
        append(again, b"second")
        assert values(again, 2) == [b"first", b"second"]
        with redis.Redis.from_url(again.redis_url) as client:
            assert client.get("meter") == b"14"
    finally:
        again.stop()


def test_the_redis_loses_nothing_that_it_acknowledged_when_it_is_killed(tmp_path: Path) -> None:
    server = make_redis(tmp_path, "packages")
    start_all([server], Silent())
    try:
        with redis.Redis.from_url(server.address) as client:
            client.set("meter", "14")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        assert within(60, lambda: server.exit_code == -9)
        start_all([server], Silent())
        with redis.Redis.from_url(server.address) as client:
            assert client.get("meter") == b"14"
            assert client.config_get("maxmemory-policy", "appendonly") == {
                "maxmemory-policy": "noeviction",
                "appendonly": "yes",
            }
    finally:
        server.stop(10)


def test_a_server_that_cannot_start_says_why_and_leaves_nothing_running(tmp_path: Path) -> None:
    aof = tmp_path / "redis" / "data" / "appendonlydir"
    aof.mkdir(parents=True)
    (aof / "appendonly.aof.manifest").write_text("this is no manifest\n", encoding="utf-8")
    server = make_redis(tmp_path, "packages")
    with pytest.raises(StackError, match=r"Valkey.* ended with exit code 1[\s\S]*manifest"):
        start_all([server], Silent())
    assert server.pid is None


def test_a_child_ends_with_a_parent_that_is_killed_outright(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from usageledger.local.processes import ChildProcess
sleeper = [sys.executable, "-c", "import time; time.sleep(300)"]
child = ChildProcess("sleeper", sleeper, Path(sys.argv[1]))
child.spawn()
print(child.pid, flush=True)
time.sleep(300)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
        assert ends_within(child, 60)
    finally:
        parent.kill()
        parent.communicate(timeout=60)


def test_elsewhere_than_on_linux_a_child_ends_with_its_parent_as_well(tmp_path: Path) -> None:
    """Without the kernel's help, a watcher at the other end of a pipe ends the servers."""
    program = """
import os, sys
from usageledger.local import die_with_parent
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.close(writing)
    die_with_parent.kill_when_the_pipe_ends(reading)
    os.execvp("sleep", ["sleep", "300"])
os.close(reading)
print(child, flush=True)
os.waitpid(child, 0)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert is_alive(child)
        parent.kill()
        assert ends_within(child, 60)
    finally:
        parent.kill()
        parent.wait(60)
        parent.stdout.close()


def test_a_child_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', "
        "flush=True); time.sleep(300)"
    )
    child = ChildProcess("stubborn", [sys.executable, "-c", stubborn], tmp_path / "log")
    child.spawn()
    assert within(60, lambda: child.last_lines() == ["deaf"])
    child.stop(0.2)
    assert child.exit_code == -9


def test_the_end_of_a_log_is_that_of_the_last_start(tmp_path: Path) -> None:
    child = ChildProcess(
        "talker", [sys.executable, "-c", "import os; print(os.getpid())"], tmp_path / "log"
    )
    for _ in range(2):
        child.spawn()
        assert within(60, lambda: child.exit_code == 0)
        assert len(child.last_lines()) == 1
    assert len((tmp_path / "log").read_text(encoding="utf-8").splitlines()) == 2


def within(seconds: float, check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True
