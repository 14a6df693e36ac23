"""catalog …: plans and rates."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usageledger.cli import terminal
from usageledger.cli.options import AsJson, Data, connection, now

if TYPE_CHECKING:
    from usageledger.domain.catalog import Catalog, Rate
    from usageledger.domain.rating import Quote
    from usageledger.runtime.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    help="Plans and rates: show, check and publish them, and quote what uses would cost.",
)

ADOPTION_TIMEOUT_S = 60.0

Shipped = Annotated[
    bool,
    typer.Option("--shipped", help="The catalog of this release, whatever the ledger has."),
]


@app.command(epilog="Example: usageledger catalog show")
def show(data: Data = None, shipped: Shipped = False, as_json: AsJson = False) -> None:
    """Show the plans and rates in force now; where no ledger runs, those of this release."""
    from usageledger.domain.catalog_document import catalog_document

    catalog = _in_force(data, shipped)
    if as_json:
        terminal.print_json(catalog_document(catalog))
        return
    terminal.say(
        f"catalog {catalog.version}, effective from {terminal.time_text(catalog.effective_from)}\n"
    )
    plans = [
        (
            plan.id,
            plan.name,
            _dollar_text(plan.price_cents),
            _credits_text(plan.allotment),
            _renewal_text(plan.renews),
            ", ".join(map(_quantity_text, catalog.thresholds_on(plan.id))) or "the limit alone",
        )
        for plan in catalog.plans
    ]
    terminal.print_table(
        ("plan", "name", "price", "credits", "", "announced at"), plans, right=("price", "credits")
    )
    terminal.say("")
    terminal.print_table(
        ("feature/model", "name", "credits", "for each", "section"),
        _rate_rows(catalog),
        right=("credits",),
    )


@app.command(epilog="Example: usageledger catalog lint my_catalog.json")
def lint(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="A catalog file, published or not (default: the catalog in force).",
        ),
    ] = None,
    data: Data = None,
    shipped: Shipped = False,
    as_json: AsJson = False,
) -> None:
    """Find what does not fit together in a valid catalog.

    The exit code is 0 even if something is found: a catalog with findings can be published.
    """
    from usageledger.domain.catalog_lint import lint as lint_findings

    catalog = _in_force(data, shipped) if file is None else _read_catalog(file)
    findings = lint_findings(catalog)
    if as_json:
        for finding in findings:
            terminal.print_json(finding)
        return
    terminal.print_table(
        ("where", "what", "why"),
        [(finding.where, finding.code, finding.message) for finding in findings],
    )
    terminal.say(
        f"{len(findings)} finding{'' if len(findings) == 1 else 's'} in catalog {catalog.version}"
    )


@app.command(epilog="Example: usageledger catalog publish my_catalog.json")
def publish(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A catalog in the format of `catalog show --json`."),
    ],
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="S",
            min=0,
            help="How long to wait until every partition has adopted it.",
        ),
    ] = ADOPTION_TIMEOUT_S,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Check a catalog, publish it, and wait until every partition of the ledger has adopted it."""
    from usageledger.domain.catalog_lint import lint as lint_findings
    from usageledger.operations.catalogs import publish_to

    catalog = _read_catalog(file)
    settings = connection(data)
    publication = publish_to(settings.kafka, settings.prefix, catalog, now())
    for warning in publication.warnings:
        terminal.warn(warning)
    for finding in lint_findings(catalog) if publication.is_new else ():
        terminal.warn(f"{finding.where}: {finding.message}")
    _wait_until_adopted(settings, catalog.version, timeout_s)
    if as_json:
        terminal.print_json(
            {
                "version": catalog.version,
                "is_new": publication.is_new,
                "adopted": True,
                "warnings": list(publication.warnings),
            }
        )
        return
    published = "is published and" if publication.is_new else "had been published, and is"
    terminal.say(f"{catalog.version} {published} adopted by every partition")


def _wait_until_adopted(settings: Settings, version: str, timeout_s: float) -> None:
    """Wait until every partition has adopted the newest catalog. Raises OperatorError if late."""
    from usageledger.operations.catalogs import wait_until_adopted
    from usageledger.operations.errors import OperatorError
    from usageledger.operations.lags import lag_reader

    with lag_reader(settings.kafka, settings.redis_url, settings.prefix) as lags:
        behind = wait_until_adopted(lags.look, timeout_s)
    if behind:
        partitions = ", ".join(map(str, behind))
        raise OperatorError(
            f"{version} is published, but not adopted within {timeout_s:g} s by partition "
            f"{partitions}: see `usageledger status`"
        )


@app.command(epilog="Example: usageledger catalog quote genai_video/veo_3=2 prompt_to_video=12.5")
def quote(
    uses: Annotated[
        list[str],
        typer.Argument(
            metavar="FEATURE[/MODEL][=QUANTITY]",
            help="Uses, each with its quantity (default: 1).",
        ),
    ],
    data: Data = None,
    shipped: Shipped = False,
    as_json: AsJson = False,
) -> None:
    """Show what uses would cost, and which plans have that many credits."""
    from usageledger.domain.rating import quote as quote_uses
    from usageledger.operations.errors import OperatorError

    parsed = [_parsed_use(use) for use in uses]
    catalog = _in_force(data, shipped)
    try:
        found = quote_uses(catalog, parsed)
    except ValueError as error:
        raise OperatorError(f"{error}. `usageledger catalog show` lists what there is") from error
    if as_json:
        terminal.print_json(_quote_json(catalog, found))
        return
    rows = [
        (
            _rate_name(line.feature, line.model),
            _quantity_text(line.quantity),
            f"{_credits_text(line.rate.credits)} {_per_unit_text(line.rate)}",
            _credits_text(line.credits),
        )
        for line in found.lines
    ]
    terminal.print_table(
        ("use", "quantity", "rate", "credits"), rows, right=("quantity", "credits")
    )
    fits = ", ".join(
        f"{plan.name} ({_credits_text(plan.allotment)}{'' if plan.renews else ' once'})"
        for plan in found.fits
    )
    terminal.say(
        f"total {_credits_text(found.total)} credits by catalog {catalog.version}; fits on: "
        f"{fits or 'no plan'}"
    )


def _in_force(data: Path | None, shipped: bool) -> Catalog:
    """The catalog in force in the ledger; where no ledger runs, this release's, with a note."""
    from usageledger.accounts.errors import NoCatalog
    from usageledger.domain.catalog_document import load_shipped_catalog
    from usageledger.log.reading import log_reader
    from usageledger.operations.catalogs import published_catalogs
    from usageledger.runtime.settings import SettingsError

    if shipped:
        return load_shipped_catalog()
    try:
        settings = connection(data)
    except SettingsError:
        if data is not None:
            raise
        terminal.note("no ledger runs here: this is the catalog of this release")
        return load_shipped_catalog()
    with log_reader(settings.kafka) as reader:
        published = published_catalogs(reader, settings.prefix)
    if not published:
        raise NoCatalog
    return published.in_force(datetime.now(UTC))


def _read_catalog(file: Path) -> Catalog:
    from usageledger.domain.catalog_document import read_catalog

    return read_catalog(file.read_bytes())


def _parsed_use(text: str) -> tuple[str, str | None, Decimal]:
    from usageledger.domain.quantity import parse_quantity

    name, _, quantity = text.partition("=")
    feature, _, model = name.partition("/")
    try:
        return feature, model or None, parse_quantity(quantity or "1")
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}") from None


def _rate_rows(catalog: Catalog) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for feature in catalog.features:
        if feature.rate is not None:
            rows.append(
                (
                    feature.id,
                    feature.name,
                    _credits_text(feature.rate.credits),
                    _unit_text(feature.rate),
                    feature.section,
                )
            )
        for model in feature.models:
            rows.append(
                (
                    f"{feature.id}/{model.id}",
                    model.name,
                    _credits_text(model.rate.credits),
                    _unit_text(model.rate),
                    feature.section,
                )
            )
    return rows


def _quote_json(catalog: Catalog, found: Quote) -> dict[str, Any]:
    lines = [
        {
            "feature": line.feature,
            "model": line.model,
            "quantity": _quantity_text(line.quantity),
            "credits": _credits_text(line.credits),
        }
        for line in found.lines
    ]
    fits = [
        {
            "plan": plan.id,
            "name": plan.name,
            "price_cents": plan.price_cents,
            "credits": _credits_text(plan.allotment),
            "renews": plan.renews,
        }
        for plan in found.fits
    ]
    return {
        "catalog_version": catalog.version,
        "credits": _credits_text(found.total),
        "lines": lines,
        "fits": fits,
    }


def _rate_name(feature: str, model: str | None) -> str:
    return feature if model is None else f"{feature}/{model}"


def _per_unit_text(rate: Rate) -> str:
    from usageledger.audit.explaining import one_unit

    return (
        f"{one_unit(rate.unit)}{_rounding_note(rate)}"
        if rate.per == 1
        else f"for {_unit_text(rate)}"
    )


def _unit_text(rate: Rate) -> str:
    units = rate.unit if rate.per == 1 else f"{_quantity_text(rate.per)} {rate.unit}s"
    return f"{units}{_rounding_note(rate)}"


def _rounding_note(rate: Rate) -> str:
    return ", exact" if rate.rounding == "exact" else ""


def _renewal_text(renews: bool) -> str:
    return "each billing cycle" if renews else "once"


def _credits_text(microcredits: int) -> str:
    from usageledger.domain.credits import format_credits

    return format_credits(microcredits)


def _quantity_text(quantity: Decimal) -> str:
    from usageledger.domain.quantity import format_quantity

    return format_quantity(quantity)


def _dollar_text(cents: int) -> str:
    return f"${cents // 100}.{cents % 100:02d}"
