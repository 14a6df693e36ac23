"""Write infra/topics.toml from the package's own topic settings:
`python infra/kafka/make_topics_toml.py`. A test says when it is due.
"""

from __future__ import annotations

import sys
from pathlib import Path

from usageledger.log.topics import Topics
from usageledger.operations.topics import topic_settings

DOCUMENT = Path(__file__).resolve().parents[1] / "topics.toml"

HEADING = """\
# The topics of a ledger, for those who make them with tools of their own on a cluster. Written by infra/kafka/make_topics_toml.py.
# Each name may have a prefix and a dot before it. The four topics keyed by account must have equal partition counts, which cannot be
# changed later: 64 is a good choice for a cluster, 8 is what the one-machine stack takes.
# A ledger that is created in import mode has [import]'s settings on its input topics until it goes live.
"""


def main() -> int:
    live, importing = (
        topic_settings(Topics(), partitions=64),
        topic_settings(Topics(), partitions=64, importing=True),
    )
    parts = [HEADING, "[cluster]\nreplication_factor = 3\nmin_insync_replicas = 2\n"]
    for topic in live:
        settings = "".join(f'"{name}" = "{value}"\n' for name, value in topic.configs.items())
        parts.append(
            f'[topics."{topic.name}"]\npartitions = '
            f'{topic.partitions}\n\n[topics."{topic.name}".configs]\n{settings}'
        )
    changed = {
        name: value
        for name, value in importing[0].configs.items()
        if live[0].configs.get(name) != value
    }
    parts.append(
        "[import.configs]\n" + "".join(f'"{name}" = "{value}"\n' for name, value in changed.items())
    )
    DOCUMENT.write_text("\n".join(parts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
