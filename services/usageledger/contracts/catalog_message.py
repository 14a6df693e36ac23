"""The data of ``catalog.published``: a catalog in the shape that people edit.

These models give the message its JSON Schema, and name every path with a wrong shape. Only the
domain decides whether a catalog can be used: see ``domain.catalog_document``.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    WithJsonSchema,
    model_validator,
)

from usageledger.contracts.fields import SHARE_PATTERN
from usageledger.domain.bounds import NAME_LENGTH_MAX
from usageledger.domain.catalog import Catalog
from usageledger.domain.catalog_check import PRICE_CENTS_MAX
from usageledger.domain.catalog_document import catalog_document, read_catalog
from usageledger.domain.credits import parse_credits
from usageledger.domain.quantity import parse_quantity

CATALOG_PUBLISHED = "catalog.published"

_DECIMAL = r"^[0-9]{1,10}(\.[0-9]{1,6})?$"


def _check_credits(value: object) -> object:
    if not isinstance(value, (str, int)):
        raise ValueError(f"credits are a decimal string or an integer, not {type(value).__name__}")
    parse_credits(value)
    return value


def _check_quantity(value: object) -> object:
    parse_quantity(value)
    return value


def _check_share(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError(f"a share is a decimal string such as '0.8', not {type(value).__name__}")
    return _check_quantity(value)


def _check_time(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError(
            f"a time is a string such as '2026-11-01T00:00:00Z', not {type(value).__name__}"
        )
    return value


def _decimal_schema(description: str) -> WithJsonSchema:
    written = [{"type": "string", "pattern": _DECIMAL}, {"type": "integer", "minimum": 0}]
    return WithJsonSchema({"anyOf": written, "description": description})


Name = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH_MAX)]
Credits = Annotated[
    str | int,
    BeforeValidator(_check_credits),
    _decimal_schema("Credits, a decimal with at most 6 places."),
]
Quantity = Annotated[
    str | int,
    BeforeValidator(_check_quantity),
    _decimal_schema("A decimal above 0 with at most 6 places."),
]
Share = Annotated[
    str,
    BeforeValidator(_check_share),
    WithJsonSchema(
        {"type": "string", "pattern": SHARE_PATTERN, "description": "A decimal between 0 and 1."}
    ),
]
Time = Annotated[AwareDatetime, BeforeValidator(_check_time)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RatePublished(_Part):
    """The cost of a use: ``credits`` for each ``per`` units."""

    credits: Credits
    unit: Name = Field(
        description="What is counted: generation, second, message, action, token, ..."
    )
    per: Quantity = 1
    rounding: Literal["up", "exact"] = Field(
        default="up",
        description="up: charge whole multiples of `per`, rounded up. exact: charge in "
        "proportion, rounded up to the micro-credit.",
    )
    note: str | None = None


class ModelPublished(_Part):
    """A model under its feature, with a rate of its own."""

    id: Name
    name: Name
    rate: RatePublished


class FeaturePublished(_Part):
    """A line of the rate card."""

    id: Name
    name: Name
    section: str
    rate: RatePublished | None = Field(
        default=None, description="For uses that name no model. Without it, they are refused."
    )
    stated_range: tuple[Credits, Credits] | None = Field(
        default=None, description="The lowest and highest rate that the line states."
    )
    models: tuple[ModelPublished, ...] = ()


class PlanPublished(_Part):
    """A plan.

    It brings its ``credits`` each billing cycle, or once in an account's life if it does not renew.
    """

    id: Name
    name: Name
    price_cents: StrictInt = Field(ge=0, le=PRICE_CENTS_MAX)
    credits: Credits
    renews: StrictBool
    thresholds: tuple[Share, ...] | None = Field(
        default=None,
        description="The plan's own, in place of the catalog's. An empty list announces none.",
    )


class CatalogPublished(_Part):
    """A version of plans and rates. A version is never published again with other content."""

    version: Name
    effective_from: Time
    plans: tuple[PlanPublished, ...] = Field(
        description="In the order of plan levels, lowest first. Exactly one does not renew."
    )
    features: tuple[FeaturePublished, ...]
    thresholds: tuple[Share, ...] = Field(
        default=(),
        description="Shares of a period's credits whose crossing is announced, ascending, for "
        "plans and accounts that set none.",
    )
    unknown_accounts: Literal["free", "refuse"] = Field(
        default="free",
        description="What becomes of usage by an account that was never opened or subscribed: the "
        "account is put on Free, or the usage is refused.",
    )
    notes: tuple[str, ...] = ()

    _catalog: Catalog = PrivateAttr()

    @model_validator(mode="after")
    def _read_catalog(self) -> Self:
        self._catalog = read_catalog(self.model_dump(mode="json"))
        return self

    def to_catalog(self) -> Catalog:
        """The domain's catalog."""
        return self._catalog

    @classmethod
    def from_catalog(cls, catalog: Catalog) -> CatalogPublished:
        """The message that publishes ``catalog``.

        Raises pydantic's ValidationError (a ValueError) if the catalog cannot be used.
        """
        return cls.model_validate(catalog_document(catalog))
