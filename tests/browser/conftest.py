"""A real browser that shows the gateway's pages.

A test fails if its page logs an error or a warning on the browser's console.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.browser import made_up
from tests.browser.gateway_on_stage import GatewayOnStage, Shown, on_stage

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
DESKTOP, PHONE = 1_180, 390
WITHIN_MS = 15_000
"""How long a page may take to show something, on a busy machine."""

expect.set_options(timeout=WITHIN_MS)


class OpenPage(Protocol):
    """Opens a page at an address of the gateway, signed in by default; without a path, empty."""

    def __call__(
        self,
        path: str,
        *,
        width: int = DESKTOP,
        scheme: str = "light",
        locale: str = "en-GB",
        is_calm: bool = False,
        is_signed_in: bool = True,
        may_fail: bool = False,
    ) -> Page: ...


# One per module: Playwright keeps an event loop running in this thread, and other suites run loops
# of their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, or the one that USAGELEDGER_CHROMIUM names."""
    path = os.environ.get("USAGELEDGER_CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip(
            "there is no Chromium here: install Debian's `chromium`, or name one in "
            "USAGELEDGER_CHROMIUM"
        )
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield running
        running.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[GatewayOnStage]:
    """A gateway in which the account ``acct_4821`` is busy."""
    with on_stage(tmp_path) as gateway:
        gateway.accounts["acct_4821"] = Shown(made_up.busy())
        yield gateway


@pytest.fixture
def open_page(browser: Browser, stage: GatewayOnStage) -> Iterator[OpenPage]:
    """Open pages. At the end none may have logged an error, except those opened with `may_fail`."""
    key = stage.world.key("admin")
    complaints: list[str] = []
    with ExitStack() as stack:

        def opened(
            path: str,
            *,
            width: int = DESKTOP,
            scheme: str = "light",
            locale: str = "en-GB",
            is_calm: bool = False,
            is_signed_in: bool = True,
            may_fail: bool = False,
        ) -> Page:
            page = new_page(
                browser,
                stack,
                [] if may_fail else complaints,
                width=width,
                scheme=scheme,
                locale=locale,
                is_calm=is_calm,
            )
            if is_signed_in:
                page.request.post(f"{stage.url}/session", data={"key": key})
            if path:
                page.goto(stage.url + path)
            return page

        yield opened
    assert complaints == []


def new_page(
    browser: Browser,
    stack: ExitStack,
    complaints: list[str],
    *,
    width: int = DESKTOP,
    scheme: str = "light",
    locale: str = "en-GB",
    is_calm: bool = False,
) -> Page:
    """A page in a fresh context, which the stack closes.

    Errors and warnings of its console are added to ``complaints``.
    """
    context = browser.new_context(
        viewport={"width": width, "height": 900 if width > 500 else 760},
        color_scheme="dark" if scheme == "dark" else "light",
        locale=locale,
        reduced_motion="reduce" if is_calm else "no-preference",
        device_scale_factor=1 if width > 500 else 2,
    )
    stack.callback(context.close)
    context.set_default_timeout(WITHIN_MS)
    page = context.new_page()
    page.on("console", lambda message: complaints.extend(_complaint(message)))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return page


def keep(page: Page, name: str) -> None:
    """Save a screenshot of the whole page."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def complaints_of_axe(page: Page) -> list[str]:
    """The breaches of WCAG 2.2 AA and of good practice that axe finds."""
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = Axe().run(page, options={"runOnly": rules}).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for rule in found
        for node in rule["nodes"]
    ]


def overflow(page: Page) -> int:
    """How many pixels the page is wider than its window."""
    wider: int = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return wider


def until(page: Page, holds: Callable[[], bool]) -> None:
    """Wait until a condition holds.

    Playwright's own wait evaluates strings, which our pages' policy forbids.
    """
    for _ in range(WITHIN_MS // 20):
        if holds():
            return
        page.wait_for_timeout(20)
    pytest.fail(f"it did not come true in {WITHIN_MS / 1_000:.0f} seconds")


def _complaint(message: ConsoleMessage) -> list[str]:
    return [f"{message.type}: {message.text}"] if message.type in ("error", "warning") else []
