"""Fetching the broker's jars, from a Maven repository of the test's own."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from usageledger.local.errors import StackError
from usageledger.local.kafka_jars import Jar, JarLock, fetch_jars
from usageledger.local.progress import Remembering
from usageledger.operations.errors import StopRequested

CONTENT = {"alpha": b"a" * 50_000, "beta": b"b" * 20_000}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address and the directory of a repository that holds the two jars."""
    root = tmp_path / "repository"
    for name, content in CONTENT.items():
        folder = root / "org" / "example" / name / "1.0"
        folder.mkdir(parents=True)
        (folder / f"{name}-1.0.jar").write_bytes(content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", root
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.fixture
def lock() -> JarLock:
    return JarLock(
        "9.9.9",
        tuple(
            Jar("org.example", name, "1.0", len(data), hashlib.sha256(data).hexdigest())
            for name, data in CONTENT.items()
        ),
    )


def test_each_jar_is_fetched_once_and_its_progress_is_told(
    repository: tuple[str, Path], lock: JarLock, tmp_path: Path
) -> None:
    progress = Remembering()
    paths = fetch_jars(progress, lock=lock, directory=tmp_path / "jars", repository=repository[0])
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert progress.said == ["fetching Apache Kafka 9.9.9: 70000 bytes"]
    assert progress.fetched_bytes == 70_000

    again = Remembering()
    assert (
        fetch_jars(
            again, lock=lock, directory=tmp_path / "jars", repository="http://127.0.0.1:9/nobody"
        )
        == paths
    )
    assert again.said == []
    assert sorted(path.name for path in (tmp_path / "jars").iterdir()) == [
        "alpha-1.0.jar",
        "beta-1.0.jar",
    ]


def test_a_jar_that_arrives_changed_is_refused_and_not_kept(
    repository: tuple[str, Path], lock: JarLock, tmp_path: Path
) -> None:
    (repository[1] / "org/example/beta/1.0/beta-1.0.jar").write_bytes(b"something else")
    with pytest.raises(
        StackError,
        match=r"org.example:beta:1.0 arrived with another SHA-256.*USAGELEDGER_MAVEN_REPOSITORY",
    ):
        fetch_jars(lock=lock, directory=tmp_path / "jars", repository=repository[0])
    assert not (tmp_path / "jars" / "beta-1.0.jar").exists()


def test_a_jar_that_was_spoilt_in_the_cache_is_fetched_again(
    repository: tuple[str, Path], lock: JarLock, tmp_path: Path
) -> None:
    paths = fetch_jars(lock=lock, directory=tmp_path / "jars", repository=repository[0])
    paths[0].write_bytes(b"half")
    progress = Remembering()
    fetch_jars(progress, lock=lock, directory=tmp_path / "jars", repository=repository[0])
    assert paths[0].read_bytes() == CONTENT["alpha"]
    assert progress.fetched_bytes == 50_000


def test_several_first_runs_at_once_do_not_break_each_other(
    repository: tuple[str, Path], lock: JarLock, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(6) as pool:
        fetch = partial(
            fetch_jars, lock=lock, directory=tmp_path / "jars", repository=repository[0]
        )
        for paths in [future.result(60) for future in [pool.submit(fetch) for _ in range(6)]]:
            assert [path.read_bytes() for path in paths] == list(CONTENT.values())


def test_a_repository_without_the_jar_is_told_with_what_to_do(
    repository: tuple[str, Path], lock: JarLock, tmp_path: Path
) -> None:
    (repository[1] / "org/example/beta/1.0/beta-1.0.jar").unlink()
    with pytest.raises(
        StackError, match=r"could not fetch org.example:beta:1.0 in 3 attempts.*Is there a network"
    ):
        fetch_jars(lock=lock, directory=tmp_path / "jars", repository=repository[0])


def test_a_fetch_is_given_up_when_the_stack_is_asked_to_stop(
    repository: tuple[str, Path], lock: JarLock, tmp_path: Path
) -> None:
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(StopRequested):
        fetch_jars(
            lock=lock, directory=tmp_path / "jars", repository=repository[0], stopping=stopping
        )
