"""The limits on what an event may say, shared by SDKs, contracts, decoder and rules.

Needs the standard library alone: the SDKs use it.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

EVENT_BYTES_MAX = 65_536
"""The bytes of a usage or account event's record."""

NAME_LENGTH_MAX = 200
"""The characters of a name: of an account, a source, an event, a feature or a model."""

QUANTITY_MAX = Decimal(1_000_000_000)
"""In the rate's units. A quantity has at most 6 decimal places."""

THRESHOLDS_MAX = 20
"""How many thresholds an account may have of its own.

They are kept with its state, which is read with every use.
"""

OPEN_GRANTS_MAX = 100
"""How many grants of an account can have credits left at a time.

They are kept with its state, which is read with every use.
"""

CLOCK_AHEAD_MAX = timedelta(minutes=5)
"""How far ahead of the ledger's time an event may be dated, because clocks differ."""

LATENESS_MAX = timedelta(days=35)
"""How long before it was appended an event may have occurred."""

YEAR_MIN, YEAR_MAX = 1970, 2999
"""The years in which anchors, ends of grants and the ledger's time can be."""
