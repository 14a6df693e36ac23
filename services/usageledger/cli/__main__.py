"""``python -m usageledger.cli``: how the stack starts its services."""

from __future__ import annotations

from usageledger.cli import main

if __name__ == "__main__":
    main()
