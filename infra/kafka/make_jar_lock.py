"""Write services/usageledger/local/kafka_jars.lock.json.

Run it with `mvn` on the PATH when the Kafka version is raised. Maven finds the true runtime closure
here, once. Users fetch exactly these files and need no Maven.
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
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{KAFKA}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J}</version>
    </dependency>
  </dependencies>
</project>
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        jars = copy_runtime_jars(Path(directory))
        entries = [lock_entry(jar, jars) for jar in sorted(jars.rglob("*.jar"))]
    lock = {"kafka": KAFKA, "jars": entries}
    LOCK.write_text(json.dumps(lock, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{LOCK.name}: {len(entries)} jars of Apache Kafka {KAFKA}\n")
    return 0


def copy_runtime_jars(directory: Path) -> Path:
    """Copy the runtime closure with Maven, and return the directory of the copy.

    It is laid out as a repository: group/artifact/version/file.
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


def lock_entry(jar: Path, root: Path) -> dict[str, str | int]:
    """Return the coordinates of a jar, as its path gives them, its size in bytes and SHA-256."""
    *group, artifact, version, file = jar.relative_to(root).parts
    if file != f"{artifact}-{version}.jar":
        raise ValueError(f"{file} has a classifier: the lock has plain jars only")
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
