"""Adopting a record of the catalog topic: its entry, and the catalogs afterwards."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog import Catalog
from usageledger.domain.entry import LedgerEntry
from usageledger.domain.refusal import Refusal
from usageledger.ledger.decoding import Malformed, decode_catalog
from usageledger.ledger.records import Record

NONE_ADOPTED = AdoptedCatalogs()


def adoption_entry(entry: LedgerEntry, record: Record, catalogs: AdoptedCatalogs) -> LedgerEntry:
    """The entry for a catalog record: an adoption, a duplicate of an adopted version or a refusal.

    ``entry`` is a draft of kind ``catalog_adopted``.
    """
    catalog = decode_catalog(record)
    if isinstance(catalog, Malformed):
        return replace(entry, kind="refusal", reason=catalog.refusal.value, detail=catalog.detail)
    entry = replace(entry, catalog_version=catalog.version)
    known = catalogs.version(catalog.version)
    if known is None:
        return entry
    if known == catalog:
        return replace(entry, kind="duplicate")
    return replace(
        entry,
        kind="refusal",
        reason=Refusal.ID_REUSED.value,
        detail="a catalog version never changes: publish another one",
    )


def adopted_catalogs(
    records: Iterable[Record], catalogs: AdoptedCatalogs = NONE_ADOPTED
) -> AdoptedCatalogs:
    """``catalogs`` and those in these records of the catalog topic.

    Duplicates and records that are refused add nothing.
    """
    for record in records:
        catalog = decode_catalog(record)
        if isinstance(catalog, Catalog):
            try:
                catalogs = catalogs.adopt(catalog)
            except ValueError:
                continue
    return catalogs
