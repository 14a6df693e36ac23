"""Apache Kafka's jars: exact coordinates and digests from ``kafka_jars.lock.json``, fetched once
for each user.

The lock was made with Maven (``infra/kafka/make_jar_lock.py``), because jgo's own resolution of a
closure mixes versions. So jgo fetches one exact jar at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from threading import Event
from typing import Any

from usageledger.local.errors import StackError
from usageledger.local.files import cache_directory
from usageledger.local.progress import Progress, Silent
from usageledger.operations.errors import StopRequested

THREADS = 8
ATTEMPTS = 3
REQUEST_TIMEOUT_S = 60
REPOSITORY_VARIABLE = "USAGELEDGER_MAVEN_REPOSITORY"


@dataclass(frozen=True, slots=True)
class Jar:
    """One file of the lock."""

    group: str
    artifact: str
    version: str
    size_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"


@dataclass(frozen=True, slots=True)
class JarLock:
    """The jars that one version of Apache Kafka runs with."""

    kafka_version: str
    jars: tuple[Jar, ...]


def read_lock(text: str | None = None) -> JarLock:
    """Read a lock's JSON; without ``text`` the one that the package ships."""
    content = json.loads(
        text
        or resources.files(__package__).joinpath("kafka_jars.lock.json").read_text(encoding="utf-8")
    )
    jars = (
        Jar(jar["group"], jar["artifact"], jar["version"], jar["bytes"], jar["sha256"])
        for jar in content["jars"]
    )
    return JarLock(content["kafka"], tuple(jars))


def jars_directory() -> Path:
    """The directory of this user's jars."""
    return cache_directory() / "jars"


def fetch_jars(
    progress: Progress | None = None,
    *,
    lock: JarLock | None = None,
    directory: Path | None = None,
    repository: str | None = None,
    stopping: Event | None = None,
) -> tuple[Path, ...]:
    """Return every jar of the lock as a local file. Fetch those that are missing or corrupt.

    Each file's digest is compared with the lock's in this call.
    ``repository`` is the base address of a Maven repository, by default
    ``USAGELEDGER_MAVEN_REPOSITORY`` or the public one. Several processes may fetch at once: a file
    appears whole or not at all. Raises StackError, StopRequested.
    """
    lock = lock or read_lock()
    directory = directory or jars_directory()
    paths = tuple(directory / jar.file_name for jar in lock.jars)
    missing = [
        jar for jar, path in zip(lock.jars, paths, strict=True) if digest_of(path) != jar.sha256
    ]
    if missing:
        _make_directory(directory)
        repository = repository or os.environ.get(REPOSITORY_VARIABLE)
        _fetch(
            missing,
            lock.kafka_version,
            directory,
            repository,
            progress or Silent(),
            stopping or Event(),
        )
    return paths


def digest_of(path: Path) -> str | None:
    """A file's SHA-256 in hexadecimal; None if there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(
            f"Apache Kafka's jars cannot be written to {directory}: {error}. Choose another "
            "directory with USAGELEDGER_CACHE."
        ) from error


def _fetch(
    missing: list[Jar],
    version: str,
    directory: Path,
    repository: str | None,
    progress: Progress,
    stopping: Event,
) -> None:
    total_bytes = sum(jar.size_bytes for jar in missing)
    with (
        progress.fetching(f"Apache Kafka {version}", total_bytes) as on_bytes,
        ThreadPoolExecutor(THREADS, "usageledger-jars") as pool,
    ):
        futures = [
            pool.submit(_fetch_one, jar, directory, repository, on_bytes, stopping)
            for jar in missing
        ]
        finished, unfinished = wait(futures, return_when=FIRST_EXCEPTION)
        for future in unfinished:
            future.cancel()
        for future in finished:
            future.result()


def _fetch_one(
    jar: Jar,
    directory: Path,
    repository: str | None,
    on_bytes: Callable[[int], None],
    stopping: Event,
) -> None:
    """Fetch one jar into a temporary directory, check its digest, and move it to ``directory``."""
    with tempfile.TemporaryDirectory(dir=directory, prefix=".fetch-") as scratch:
        file = _download(jar, Path(scratch), repository, on_bytes, stopping)
        digest = digest_of(file)
        if digest != jar.sha256:
            raise StackError(
                f"{jar} arrived with another SHA-256 than the one this release was tested with: "
                f"{digest} instead of {jar.sha256}. It was discarded. A proxy or mirror may have "
                "changed it, or the download was cut short: try again, choose another Maven "
                f"repository with {REPOSITORY_VARIABLE}, or name a broker with --kafka HOST:PORT."
            )
        file.replace(directory / jar.file_name)


def _download(
    jar: Jar,
    scratch: Path,
    repository: str | None,
    on_bytes: Callable[[int], None],
    stopping: Event,
) -> Path:
    for attempt in range(ATTEMPTS):
        if stopping.is_set():
            raise StopRequested
        received = _ReceivedBytes(on_bytes, stopping)
        try:
            return _download_once(jar, scratch / str(attempt), repository, received)
        except (OSError, RuntimeError) as error:
            # requests' errors are OSErrors. jgo raises RuntimeError if the jar is not found.
            received.retract()
            failure: Exception = error
    raise StackError(
        f"could not fetch {jar} in {ATTEMPTS} attempts: {failure}. Is there a network? If you "
        f"use a mirror, name it in {REPOSITORY_VARIABLE}. Or name a broker with --kafka HOST:PORT."
    ) from failure


def _download_once(
    jar: Jar, scratch: Path, repository: str | None, received: _ReceivedBytes
) -> Path:
    maven = _jgo()
    resolver = maven.PythonResolver(progress_callback=received.callback)
    remote = {"chosen": repository.rstrip("/")} if repository else None
    context = maven.MavenContext(
        resolver=resolver, repo_cache=scratch, remote_repos=remote, timeout=REQUEST_TIMEOUT_S
    )
    return Path(
        context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    )


def _jgo() -> Any:
    try:
        from jgo import maven
    except ImportError as error:
        raise StackError(
            "Apache Kafka's jars are fetched with the jgo package, which is not installed. Install "
            "it (`pip install 'usageledger[local]'`), or name a broker with --kafka HOST:PORT."
        ) from error
    return maven


class _ReceivedBytes:
    """Reports the bytes that one attempt receives, through the callback that jgo asks for.

    A failed attempt retracts its bytes.
    """

    def __init__(self, on_bytes: Callable[[int], None], stopping: Event) -> None:
        self._on_bytes = on_bytes
        self._stopping = stopping
        self._count = 0

    @contextmanager
    def callback(self, file_name: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        yield self._add

    def retract(self) -> None:
        self._on_bytes(-self._count)
        self._count = 0

    def _add(self, count: int) -> None:
        if self._stopping.is_set():
            raise StopRequested
        self._count += count
        self._on_bytes(count)
