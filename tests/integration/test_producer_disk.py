"""The spool on a disk that is really full: a file system of 256 KiB in a mount namespace of its
own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEADLINE_S = 60
SCRIPT = """
import sys
from pathlib import Path
from tests.worlds.producer_fakes import FakeKafka
from usageledger.sdk.producer.meter import UsageMeter
from usageledger.sdk.producer.spool import SpoolFull

directory, durability = Path(sys.argv[1]), sys.argv[2]
kafka = FakeKafka()
kafka.is_down = True
meter = UsageMeter(
    source="render",
    spool_directory=directory / "spool",
    connect_to=kafka.connect_to,
    durability=durability,
    exit_timeout_s=0.0,
)
recorded, refused = [], 0
def record(count):
    global refused
    for _ in range(count):
        id = f"gen_{len(recorded) + refused}"
        try:
            recorded.append(meter.record(account="acct_1", feature="genai_image", id=id))
        except SpoolFull:
            refused += 1

(directory / "others").write_bytes(b"x" * 100_000)
record(1_000)
assert recorded and refused, (len(recorded), refused)
(directory / "others").unlink()
before, refused_before = len(recorded), refused
record(100)
assert len(recorded) == before + 100 and refused == refused_before, "there is room again"
record(2_000)
assert refused > refused_before
kafka.is_down = False
assert meter.flush(30.0)
record(10)
assert meter.close(30.0)
assert [event["id"] for event in kafka.events()] == recorded
assert not list(directory.rglob("*.segment"))
print(len(recorded), refused)
"""


def _can_mount() -> bool:
    unshare = shutil.which("unshare")
    command = [
        unshare or "",
        "--user",
        "--map-root-user",
        "--mount",
        "mount",
        "-t",
        "tmpfs",
        "none",
        "/mnt",
    ]
    return (
        unshare is not None
        and subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=False).returncode
        == 0
    )


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_full_disk_refuses_at_the_call_and_loses_nothing_recorded_before(
    tmp_path: Path, durability: str
) -> None:
    if not _can_mount():
        pytest.skip("no file system can be mounted here without privileges")
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *(path for path in sys.path if path)])
    mount = f'mount -t tmpfs -o size=256k none "{tmp_path}" && exec "$@"'
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        mount,
        "sh",
        sys.executable,
        "-c",
        SCRIPT,
        str(tmp_path),
        durability,
    ]
    result = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
