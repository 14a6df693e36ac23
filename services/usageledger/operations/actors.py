"""The person who runs an operator's command."""

from __future__ import annotations

import getpass
import os


def system_user() -> str:
    """The name of the system's user, or the number of one without a name, as in a container."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = ""
    return name if name.isprintable() and name.strip() else str(os.getuid())
