"""Write infra/topics.toml from the package's own topic settings.

Run it as ``python infra/kafka/make_topics_toml.py``. A unit test fails if the file is out of date.
"""

from __future__ import annotations

import sys
from pathlib import Path

from usageledger.log.topics import Topics
from usageledger.operations.topics import topic_settings

DOCUMENT = Path(__file__).resolve().parents[1] / "topics.toml"

HEADING = """\
# The topics of a ledger, for operators who create them on a cluster with their own tools.
# Written by infra/kafka/make_topics_toml.py.
#
# Each name may have a prefix and a dot before it. The four topics keyed by account must have the
# same number of partitions, which cannot be changed later. 64 is a good choice for a cluster; the
# one-machine stack has 8.
# The input topics of a ledger in import mode have the settings under [import] until it goes live.
"""


def main() -> int:
    live = topic_settings(Topics(), partitions=64)
    importing = topic_settings(Topics(), partitions=64, importing=True)
    parts = [HEADING, "[cluster]\nreplication_factor = 3\nmin_insync_replicas = 2\n"]
    for topic in live:
        settings = "".join(f'"{name}" = "{value}"\n' for name, value in topic.configs.items())
        parts.append(
            f'[topics."{topic.name}"]\npartitions = {topic.partitions}\n\n'
            f'[topics."{topic.name}".configs]\n{settings}'
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
