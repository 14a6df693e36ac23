"""When the usage meter's page is first painted, and what it loads, in a real Chromium on loopback.

    python -m tests.benchmarks.page_paint [--loads 20]

Each load is by a browser with an empty cache. The answers about the account are made up, so the
figures are the cost of the page alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.browser import made_up
from tests.browser.gateway_on_stage import GatewayOnStage, Shown, on_stage

_PAINTS = """() => Object.fromEntries([
    ...performance.getEntriesByType("paint").map((entry) => [entry.name, entry.startTime]),
    ["figures shown", performance.now()],
])"""
_LOADED = """() => performance.getEntriesByType("resource")
    .filter((entry) => entry.name.endsWith(".js"))
    .map((entry) => [entry.name, entry.decodedBodySize, entry.encodedBodySize])"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description="when the usage meter's page is first painted, and what it loads"
    )
    parser.add_argument("--loads", type=int, default=20)
    loads: int = parser.parse_args().loads
    chromium = os.environ.get("USAGELEDGER_CHROMIUM") or shutil.which("chromium")
    with (
        tempfile.TemporaryDirectory() as directory,
        on_stage(Path(directory)) as gateway,
        sync_playwright() as playwright,
    ):
        gateway.accounts["acct_4821"] = Shown(made_up.busy())
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
        )
        found = [_load(browser, gateway) for _ in range(loads)]
        browser.close()
    paints = [paint for paint, _ in found]
    for name in paints[0]:
        times = sorted(paint[name] for paint in paints)
        print(
            f"{name:<24} median {statistics.median(times):6.0f} ms   slowest of {loads} "
            f"{times[-1]:6.0f} ms"
        )
    scripts = found[0][1]
    print(
        f"script: {sum(plain for _, plain, _ in scripts):,} bytes in {len(scripts)} files, "
        f"{sum(sent for _, _, sent in scripts):,} as sent"
    )


def _load(
    browser: Browser, gateway: GatewayOnStage
) -> tuple[dict[str, float], list[tuple[str, int, int]]]:
    context = browser.new_context()
    context.request.post(f"{gateway.url}/session", data={"key": gateway.world.key("read")})
    page = context.new_page()
    page.goto(f"{gateway.url}/accounts/acct_4821/meter", wait_until="commit")
    page.locator("usage-meter .root:not([data-state='loading'])").wait_for()
    paints: dict[str, float] = page.evaluate(_PAINTS)
    scripts: list[tuple[str, int, int]] = page.evaluate(_LOADED)
    context.close()
    return paints, scripts


if __name__ == "__main__":
    main()
