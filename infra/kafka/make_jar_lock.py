"""Make services/usageledger/local/kafka_jars.lock.json anew: run it with `mvn` on the PATH when the
Kafka version is raised.

Maven is asked once for the true runtime closure; users fetch exactly these files and need no Maven.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

KAFKA = "4.4.0"
LOG4J = "2.25.3"
LOCK = (
    Path(__file__).resolve().parents[2]
    / "services"
    / "usageledger"
    / "local"
    / "kafka_jars.lock.json"
)

POM = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>usageledger</groupId><artifactId>kafka-runtime</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA}</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>{LOG4J}</version></dependency>
  </dependencies>
</project>
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        jars = copy_runtime_jars(Path(directory))
        lock = {"kafka": KAFKA, "jars": [locked(jar, jars) for jar in sorted(jars.rglob("*.jar"))]}
    LOCK.write_text(json.dumps(lock, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{LOCK.name}: {len(lock['jars'])} jars of Apache Kafka {KAFKA}\n")
    return 0


def copy_runtime_jars(directory: Path) -> Path:
    """Have Maven copy the runtime closure into a directory laid out as a repository:
    group/artifact/version/file.
    """
    (directory / "pom.xml").write_text(POM, encoding="utf-8")
    jars = directory / "jars"
    command = [
        "mvn",
        "-q",
        "-B",
        "dependency:copy-dependencies",
        "-DincludeScope=runtime",
        "-Dmdep.useRepositoryLayout=true",
    ]
    subprocess.run([*command, f"-DoutputDirectory={jars}"], cwd=directory, check=True, timeout=900)
    return jars


def locked(jar: Path, root: Path) -> dict[str, str | int]:
    """The coordinates of a jar, read off its path, with its size in bytes and its SHA-256."""
    *group, artifact, version, file = jar.relative_to(root).parts
    if file != f"{artifact}-{version}.jar":
        raise ValueError(f"{file}: a jar with a classifier; the lock knows plain jars only")
    digest = hashlib.sha256(jar.read_bytes()).hexdigest()
    return {
        "group": ".".join(group),
        "artifact": artifact,
        "version": version,
        "bytes": jar.stat().st_size,
        "sha256": digest,
    }


if __name__ == "__main__":
    sys.exit(main())
