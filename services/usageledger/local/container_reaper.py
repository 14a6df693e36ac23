"""Removes a container when the process that started this one has ended:
``python container_reaper.py CONTAINER_ID``.

The kernel ends our child processes with us, but a container is the engine's child. So this program
waits for the end of its standard input, whose other end its parent holds. Then it removes the
container, if there still is one.
"""

from __future__ import annotations

import os
import sys

from usageledger.local.docker_servers import remove_container


def main(arguments: list[str]) -> None:
    (container_id,) = arguments
    while os.read(sys.stdin.fileno(), 1024):
        pass
    remove_container(container_id)


if __name__ == "__main__":
    main(sys.argv[1:])
