"""The types of the messages' fields.

They accept exactly what `ledger.decoding` accepts. Credits and quantities are never floats.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from pydantic import (
    AwareDatetime,
    BeforeValidator,
    Field,
    PlainSerializer,
    StrictInt,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue

from usageledger.domain.bounds import NAME_LENGTH_MAX, THRESHOLDS_MAX, YEAR_MAX, YEAR_MIN
from usageledger.domain.credits import format_credits, parse_credits
from usageledger.domain.quantity import check_name, format_quantity, parse_quantity
from usageledger.domain.thresholds import parse_thresholds

# \u0085 is white space for Python and not for JSON Schema, whose patterns are those of JavaScript.
_NAME_PATTERN = (
    r"^[^\s\u0000-\u001f\u007f\u0085]([^\u0000-\u001f\u007f]*[^\s\u0000-\u001f\u007f\u0085])?$"
)
_UNSIGNED = r"^[0-9]{1,10}(\.[0-9]{1,6})?$"
SHARE_PATTERN = r"^0{1,10}\.[0-9]{1,6}$"
_SIGNED = r"^-?[0-9]+(\.[0-9]{1,6})?$"

_ZONED_TIME = Annotated[datetime, msgspec.Meta(tz=True)]


def _name(value: object) -> str:
    return check_name("the name", value)


def _zoned_time(value: object) -> object:
    """Read a time as the ledger does. pydantic itself would also accept numbers and short forms."""
    if not isinstance(value, str):
        if isinstance(value, datetime):
            return value
        raise ValueError(
            f"a time is a string such as '2026-11-22T10:15:30Z', not {type(value).__name__}"
        )
    try:
        return msgspec.convert(value, type=_ZONED_TIME)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def _utc(value: object) -> object:
    read = _zoned_time(value)
    try:
        return (
            read.astimezone(UTC) if isinstance(read, datetime) and read.tzinfo is not None else read
        )
    except OverflowError:
        raise ValueError(f"{value!r} is outside the years 1 to 9999 in UTC") from None


def _within_cycle_years(value: object) -> object:
    written = _zoned_time(value)
    if isinstance(written, datetime) and not YEAR_MIN <= written.year <= YEAR_MAX:
        raise ValueError(f"a year from {YEAR_MIN} to {YEAR_MAX}, not {written.year}")
    return _utc(written)


def _quantity(value: object) -> Decimal:
    return parse_quantity(value)


def _credits(value: object) -> int:
    return parse_credits(value)  # type: ignore[arg-type]  # it refuses what is no str or int


def _credits_from_zero(value: object) -> int:
    credits = _credits(value)
    if credits < 0:
        raise ValueError(f"at least 0, not {value}")
    return credits


def _credits_above_zero(value: object) -> int:
    credits = _credits(value)
    if credits <= 0:
        raise ValueError(f"more than 0, not {value}")
    return credits


def _thresholds(value: object) -> tuple[Decimal, ...] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"a list of shares, not {type(value).__name__}")
    return parse_thresholds(value)


def _decimal(description: str, examples: list[Any]) -> WithJsonSchema:
    written = [{"type": "string", "pattern": _UNSIGNED}, {"type": "integer", "minimum": 0}]
    return WithJsonSchema({"anyOf": written, "description": description, "examples": examples})


_TIME_SCHEMA = WithJsonSchema({"type": "string", "format": "date-time"})
_as_credits = PlainSerializer(format_credits, return_type=str)

NAME_SCHEMA: JsonSchemaValue = {
    "type": "string",
    "minLength": 1,
    "maxLength": NAME_LENGTH_MAX,
    "pattern": _NAME_PATTERN,
}

Name = Annotated[str, BeforeValidator(_name), WithJsonSchema(NAME_SCHEMA)]
"""The name of an account, a source, an event, a feature or a model.

It has no control characters, and no spaces at its ends.
"""

Time = Annotated[AwareDatetime, BeforeValidator(_utc), _TIME_SCHEMA]
"""RFC 3339 with a zone. It is turned into UTC when it is read."""

CycleTime = Annotated[AwareDatetime, BeforeValidator(_within_cycle_years), _TIME_SCHEMA]
"""A time of a billing cycle or a grant, in the years that these may have."""

TimeAsWritten = Annotated[AwareDatetime, BeforeValidator(_zoned_time), _TIME_SCHEMA]
"""RFC 3339 with a zone, which is kept."""

Quantity = Annotated[
    Decimal,
    BeforeValidator(_quantity),
    PlainSerializer(format_quantity, return_type=str),
    _decimal(
        "In the rate's units: a decimal from 0 to 1000000000 with at most 6 places. Never a float.",
        ["1", "0.5", 12],
    ),
]

CreditsFromZero = Annotated[
    int,
    BeforeValidator(_credits_from_zero),
    _as_credits,
    _decimal(
        "Credits, a decimal of at least 0 with at most 6 places. Never a float.", ["14", "0.5", 12]
    ),
]
CreditsAboveZero = Annotated[
    int,
    BeforeValidator(_credits_above_zero),
    _as_credits,
    _decimal("Credits, a decimal above 0 with at most 6 places. Never a float.", ["50", "0.5", 12]),
]

Thresholds = Annotated[
    tuple[Decimal, ...] | None,
    BeforeValidator(_thresholds),
    PlainSerializer(
        lambda shares: None if shares is None else [format_quantity(share) for share in shares]
    ),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "array",
                    "items": {"type": "string", "pattern": SHARE_PATTERN},
                    "maxItems": THRESHOLDS_MAX,
                    "uniqueItems": True,
                },
                {"type": "null"},
            ],
            "description": "Shares of a period's credits, each between 0 and 1, ascending. Null "
            "means the plan's, or the catalog's if the plan has none.",
            "examples": [["0.5", "0.9"], [], None],
        }
    ),
]
"""An account's own thresholds; an empty tuple announces none."""

Credits = Annotated[
    int,
    BeforeValidator(_credits),
    _as_credits,
    WithJsonSchema(
        {
            "type": "string",
            "pattern": _SIGNED,
            "description": "Credits, a decimal with at most 6 places.",
            "examples": ["14"],
        }
    ),
]
"""Credits as apps and people read them. They are turned into micro-credits when they are read."""

Microcredits = Annotated[StrictInt, Field(description="Micro-credits: 1 credit is 1000000.")]
"""The ledger's unit of account."""

Offset = Annotated[StrictInt, Field(ge=0)]
Partition = Annotated[StrictInt, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
