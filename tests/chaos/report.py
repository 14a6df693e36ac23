"""The report: one self-contained page without scripts.

It shows when each fault was, the throughput meanwhile, how soon events flowed again, and the
verdict.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.schedule import KINDS, SHARES

if TYPE_CHECKING:
    from tests.chaos.run import Outcome

WIDTH, LEFT, RIGHT = 1080, 92, 14
PANEL, LANE, GAP = 96, 30, 30
TICKS = 8

STYLE = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")


def write_report(outcome: Outcome, directory: Path) -> Path:
    """Write ``chaos.html`` and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    page = directory / "chaos.html"
    page.write_text(_page(outcome), encoding="utf-8")
    return page


def _page(outcome: Outcome) -> str:
    options = outcome.options
    word, kind = ("Proved", "good") if outcome.is_proved else ("Not proved", "bad")
    store = (
        "Valkey with a replica and three Sentinels"
        if options.store == "sentinel"
        else "a Redis Cluster of 3 + 3"
    )
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(outcome.began))
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Chaos: {word.lower()}</title><style>{STYLE}</style></head><body><main>
<h1><span class="{kind}">{word}</span>: no credit lost or counted twice</h1>
<p class="soft">{len(outcome.suffered):,} faults on three Kafka brokers and {store}, {day}.
Repeat it with <code>{escape(options.command)}</code></p>
{_figures(outcome)}
<h2>Checks, from the log alone</h2><div class="card">{_findings(outcome)}</div>
<h2>The run</h2><div class="card">{_chart(outcome)}</div>
<h2>How soon events flow again after one fault alone</h2>
<div class="card">{_recoveries(outcome)}</div>
<h2>Faults</h2><div class="card">{_kinds(outcome)}</div>
</main></body></html>
"""


def _figures(outcome: Outcome) -> str:
    kinds: dict[str, int] = defaultdict(int)
    for sealed in outcome.log.all_entries():
        kinds[sealed.entry.kind] += 1
    came_off = sum(not fault.problem for fault in outcome.suffered)
    lost, doubled = (
        f"{len(outcome.findings[n].wrong)}" if outcome.findings else "?" for n in (0, 3)
    )
    figures = {
        "faults survived": f"{came_off:,}",
        "events lost": lost,
        "charged twice": doubled,
        "charged": f"{kinds['usage']:,}",
        "duplicates": f"{kinds['duplicate']:,}",
        "refused": f"{kinds['refusal']:,}",
        "claims": f"{outcome.log.claims:,}",
    }
    return (
        '<div class="figures">'
        + "".join(f"<div><b>{value}</b>{name}</div>" for name, value in figures.items())
        + "</div>"
    )


def _findings(outcome: Outcome) -> str:
    rows = [
        (
            finding.title,
            f"{finding.looked_at:,}",
            f"{len(finding.wrong):,}",
            "; ".join(finding.wrong[:2]),
            not finding.wrong,
        )
        for finding in outcome.findings
    ]
    rows += [(problem, "", "1", "", False) for problem in outcome.problems]
    body = "".join(
        f'<tr><td>{escape(title)}<div class="bad">{escape(detail)}</div></td><td '
        f'class="n">{looked}</td>'
        f'<td class="n {"good" if is_right else "bad"}">{wrong}</td></tr>'
        for title, looked, wrong, detail, is_right in rows
    )
    return (
        '<table><tr><th>check</th><th class="n">checked</th><th '
        f'class="n">wrong</th></tr>{body}</table>'
    )


def _recoveries(outcome: Outcome) -> str:
    if not outcome.alone:
        return '<p class="soft">Not measured in this run (<code>--alone</code>).</p>'
    by_kind: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for fault, slowest in outcome.alone:
        by_kind[fault.kind].append((slowest, fault.ended - fault.began))
    rows = sorted(by_kind.items(), key=lambda item: -max(slowest for slowest, _ in item[1]))
    body = "".join(
        _recovery(kind, [held for _, held in found], [slowest for slowest, _ in found])
        for kind, found in rows
    )
    heads = (
        '<th>fault</th><th class="n">lasted</th><th class="n">slowest event, at most</th><th '
        'class="n">median</th>'
    )
    return f"<table><tr>{heads}</tr>{body}</table>"


def _recovery(kind: str, lasted: Sequence[float], slowest: Sequence[float]) -> str:
    figures = (max(lasted), max(slowest), statistics.median(slowest))
    return (
        f"<tr><td>{escape(kind)}</td>"
        + "".join(f'<td class="n">{figure:.1f} s</td>' for figure in figures)
        + "</tr>"
    )


def _kinds(outcome: Outcome) -> str:
    counts: dict[str, int] = defaultdict(int)
    for fault in outcome.suffered:
        counts[fault.kind] += not fault.problem
    body = "".join(
        f'<tr><td>{escape(kind)}</td><td class="n">{counts[kind]:,}</td></tr>' for kind in KINDS
    )
    return f'<table><tr><th>kind</th><th class="n">times</th></tr>{body}</table>'


def _chart(outcome: Outcome) -> str:
    seconds = max(
        1,
        math.ceil(
            max([outcome.broke_until, *outcome.log.input_times, outcome.began + 1]) - outcome.began
        ),
    )

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(at - outcome.began, 0.0), seconds) / seconds

    parts, top = [], 8
    for lane in SHARES:
        parts.append(f'<text class="name" x="0" y="{top + 16}">{lane}</text>')
        for fault in outcome.suffered:
            if KINDS[fault.kind].lane == lane:
                width = max(1.5, x(fault.ended) - x(fault.began))
                label = escape(
                    f"{fault.began - outcome.began:.0f} s: {fault.kind}, {fault.target}, "
                    f"{fault.ended - fault.began:.1f} s"
                )
                rect = (
                    f'<rect class="fault" x="{x(fault.began):.1f}" y="{top}" width="{width:.1f}" '
                    f'height="{LANE - 8}" rx="1.5">'
                )
                parts.append(f"{rect}<title>{label}</title></rect>")
        top += LANE
    top += 10
    entries = _per_second(
        [at for times in outcome.log.entry_times for at in times], outcome.began, seconds
    )
    panels = (
        ("entries a second", entries, "one", True),
        ("inputs waiting", _lag(outcome, seconds), "two", False),
        ("slowest canary, s", _delays(outcome, seconds), "three", False),
    )
    for name, values, style, is_area in panels:
        parts.append(_panel(name, values, style, is_area, top, x, outcome.began))
        top += PANEL + GAP
    parts += [
        f'<text x="{x(outcome.began + seconds * n / TICKS):.1f}" y="{top - 8}" '
        f'text-anchor="middle">{_clock(seconds * n / TICKS)}</text>'
        for n in range(TICKS + 1)
    ]
    return (
        f'<svg viewBox="0 0 {WIDTH} {top + 4}" role="img" aria-label="faults, throughput, lag and '
        f'delay over time">{"".join(parts)}</svg>'
    )


def _panel(
    name: str,
    values: Sequence[float],
    style: str,
    is_area: bool,
    top: int,
    x: Callable[[float], float],
    began: float,
) -> str:
    highest = max(max(values, default=0.0), 1.0)
    points = [
        (x(began + second), top + PANEL - PANEL * value / highest)
        for second, value in enumerate(values)
    ]
    line = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
    area = (
        f'<polygon class="oneArea" points="{LEFT},{top + PANEL} {line} '
        f'{points[-1][0]:.1f},{top + PANEL}"/>'
        if is_area and points
        else ""
    )
    rules = "".join(
        f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        for y in (top, top + PANEL)
    )
    names = (
        f'<text class="name" x="0" y="{top + 14}">{name}</text><text x="{LEFT - 6}" y="{top + 30}" '
        f'text-anchor="end">{highest:,.0f}</text>'
    )
    return f'{rules}{names}{area}<polyline class="{style}" stroke-width="1.3" points="{line}"/>'


def _per_second(times: Sequence[float], began: float, seconds: int) -> list[float]:
    counts = [0.0] * (seconds + 1)
    for at in times:
        counts[min(max(int(at - began), 0), seconds)] += 1
    return counts


def _lag(outcome: Outcome, seconds: int) -> list[float]:
    came = _per_second(outcome.log.input_times, outcome.began, seconds)
    decided = _per_second(outcome.log.decided_times, outcome.began, seconds)
    waiting, lag = 0.0, []
    for second in range(seconds + 1):
        waiting += came[second] - decided[second]
        lag.append(max(0.0, waiting))
    return lag


def _delays(outcome: Outcome, seconds: int) -> list[float]:
    slowest = [0.0] * (seconds + 1)
    for use in outcome.followed:
        if use.in_ledger is not None:
            second = min(max(int(use.sent - outcome.began), 0), seconds)
            slowest[second] = max(slowest[second], use.in_ledger - use.sent)
    return slowest


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
