"""``python -m tests.supply_chain.write_constraints``: write constraints.txt from requirements.lock.

It has the versions that the tests ran with, of what users install, without the tools of
development. It asks no network.
"""

from __future__ import annotations

from packaging.utils import canonicalize_name

from tests.supply_chain.locked import ROOT, names_for_users, read_pins

CONSTRAINTS = ROOT / "constraints.txt"


def constraints() -> str:
    """The text of constraints.txt: one requirement a line, in the order of the lock."""
    wanted = names_for_users()
    return "".join(f"{pin.line}\n" for pin in read_pins() if canonicalize_name(pin.name) in wanted)


def main() -> None:
    """Write the file, and say how many versions it has."""
    text = constraints()
    CONSTRAINTS.write_text(text, encoding="utf-8")
    print(f"constraints.txt has {text.count('==')} versions")


if __name__ == "__main__":
    main()
