"""Draws `docs/usage-meter.png`, the README's picture of the meter, from the current component.

Run as ``python -m tests.browser.picture``. Needs Chromium; the font is Inter where it is installed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from tests.browser import made_up
from tests.browser.gateway_on_stage import Shown, on_stage

PICTURE = Path(__file__).parents[2] / "docs" / "usage-meter.png"
ACCOUNT = "acct_4821"
WIDTH = 960
MARGIN = 12
DAILY = (9, 0, 18, 12, 26, 4, 0, 31, 22, 14, 25, 17, 0, 8, 29, 36, 24, 19, 6, 14, 33, 41, 43.5)
BYTES_MAX = 200_000

# The meter alone on the page, with a margin around it.
_STAGE = """document.body.replaceChildren(document.querySelector("usage-meter"));
document.body.style.setProperty("padding", "20px");
document.querySelector("usage-meter").setAttribute("upgrade-url", "/billing?plan={plan}");"""


def draw(path: Path) -> None:
    """Write the picture.

    Raises SystemExit where there is no Chromium, or the picture has grown too large for a README.
    """
    chromium = os.environ.get("USAGELEDGER_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise SystemExit(
            "there is no Chromium here: install Debian's `chromium`, or name one in "
            "USAGELEDGER_CHROMIUM"
        )
    with (
        tempfile.TemporaryDirectory() as directory,
        on_stage(Path(directory)) as gateway,
        sync_playwright() as playwright,
    ):
        gateway.accounts[ACCOUNT] = Shown(made_up.busy(DAILY))
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_page(
            viewport={"width": WIDTH, "height": 900},
            device_scale_factor=1.5,
            reduced_motion="reduce",
        )
        page.request.post(f"{gateway.url}/session", data={"key": gateway.world.key("read")})
        page.goto(f"{gateway.url}/accounts/{ACCOUNT}/meter")
        page.locator("usage-meter .charge time").first.wait_for()
        page.evaluate(_STAGE)
        meter = page.locator("usage-meter")
        expect(meter.locator(".status")).to_have_text("Live")
        meter.locator(".chart [data-date='2026-11-18']").hover()
        expect(meter.locator(".readout")).to_contain_text("November 18")
        path.parent.mkdir(parents=True, exist_ok=True)
        # It ends after the first two rows.
        chart = meter.get_by_role("region", name="Day by day").first.bounding_box()
        assert chart is not None
        page.screenshot(
            path=path,
            clip={"x": 0, "y": 0, "width": WIDTH, "height": chart["y"] + chart["height"] + MARGIN},
        )
        browser.close()
    if path.stat().st_size > BYTES_MAX:
        raise SystemExit(f"{path.name} has {path.stat().st_size:,} bytes: at most {BYTES_MAX:,}")


if __name__ == "__main__":
    draw(PICTURE)
