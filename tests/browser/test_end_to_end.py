"""The meter and the console in a real browser, on the real stack.

The ledger is in import mode: its clock follows the events that the test reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from itertools import product
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from examples import meter_page
from tests.browser.conftest import DESKTOP, PHONE, complaints_of_axe, keep, new_page
from tests.examples.serving import running_app
from tests.servers import RunningGateway, running_gateway
from usageledger.local.ports import free_port
from usageledger.runtime.kafka_connection import KafkaConnection

ACCOUNT, OTHER = "acct_4821", "acct_17"
SECONDS = Decimal(8)
"""Credits that a second of Prompt to Video costs."""
MOVES_WITHIN_MS = 20_000


class Reporter:
    """Reports events to the gateway, in the order of their times."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._client = httpx.Client(
            base_url=gateway.url, headers={"Authorization": f"Bearer {gateway.key}"}, timeout=20
        )
        self._count = 0

    def account(self, type_: str, account: str, at: str, **data: Any) -> None:
        """Report an event of an account, such as a change of its plan."""
        self.send(type_, "/billing", account, at, data)

    def use(self, account: str, at: str, *, seconds: int) -> None:
        """Report that an account used this many seconds of Prompt to Video."""
        self.send(
            "usage.recorded",
            "/render",
            account,
            at,
            {"feature": "prompt_to_video", "quantity": str(seconds)},
        )

    def post(self, path: str, body: object) -> None:
        """Post anything else to the gateway."""
        self._client.post(path, json=body).raise_for_status()

    def send(self, type_: str, source: str, account: str, at: str, data: dict[str, Any]) -> None:
        """Send one event. Kafka has it when this returns."""
        self._count += 1
        event = {
            "specversion": "1.0",
            "type": type_,
            "id": f"event_{self._count}",
            "source": source,
            "subject": account,
            "time": at,
        }
        answer = self._client.post(
            "/v1/events", json=event | {"datacontenttype": "application/json", "data": data}
        )
        assert answer.status_code == 200, answer.text

    def close(self) -> None:
        self._client.close()


class Lived(NamedTuple):
    """A running stack whose ledger's clock follows the test's reports."""

    gateway: RunningGateway
    report: Reporter
    app_port: int
    """The port of an app whose pages may send requests to the gateway."""


@pytest.fixture(scope="module")
def lived(
    tmp_path_factory: pytest.TempPathFactory, kafka: KafkaConnection, redis_url: str
) -> Iterator[Lived]:
    with pytest.MonkeyPatch.context() as environment, ExitStack() as stack:
        app_port = free_port()
        environment.setenv("USAGELEDGER_GATEWAY_ALLOWED_ORIGINS", f"http://127.0.0.1:{app_port}")
        gateway = stack.enter_context(
            running_gateway(tmp_path_factory.mktemp("lived"), kafka, redis_url, importing=True)
        )
        report = Reporter(gateway)
        for account, plan in ((ACCOUNT, "pro"), (OTHER, "max")):
            report.account(
                "account.subscribed",
                account,
                "2026-01-05T10:00:00Z",
                plan=plan,
                time_zone="Europe/Berlin",
            )
        report.use(OTHER, "2026-01-05T10:00:01Z", seconds=5)
        yield Lived(gateway, report, app_port)
        report.close()


def test_the_meter_follows_use_warning_block_upgrade_and_renewal(
    lived: Lived, browser: Browser
) -> None:
    complaints: list[str] = []
    with ExitStack() as stack:
        meters = _meters(browser, lived.gateway, stack, complaints)
        _expect_all(meters, "200", "fresh")

        lived.report.use(ACCOUNT, "2026-01-06T11:00:00Z", seconds=10)
        _expect_all(meters, "120", "fresh")
        _expect_history(meters, "80")

        lived.report.use(ACCOUNT, "2026-01-08T12:00:00Z", seconds=10)
        _expect_all(meters, "40", "near")
        _expect_notice(meters, "80% of the credits are used")

        lived.report.use(ACCOUNT, "2026-01-09T13:00:00Z", seconds=5)
        _expect_all(meters, "0", "blocked")
        _expect_notice(meters, "Max brings 500 credits for $24.99 a month.")
        _expect_notice(meters, "Credits renew on February 5.")
        for meter in meters.values():
            expect(meter.get_by_role("button", name="Upgrade to Max")).to_be_visible()
            expect(meter.get_by_role("status")).to_have_text(
                "The account is blocked: all credits are used."
            )
        _expect_history(meters, "200")
        _keep(meters, "blocked")

        lived.report.account("account.plan_changed", ACCOUNT, "2026-01-09T13:05:00Z", plan="max")
        _expect_all(meters, "300", "fresh")
        for meter in meters.values():
            expect(meter.get_by_role("status")).to_have_text(
                "The account is free again: 300 credits are available."
            )
            expect(meter.locator(".plan")).to_have_text("Max")

        lived.report.use(ACCOUNT, "2026-01-20T09:00:00Z", seconds=38)
        _expect_all(meters, "0", "blocked")
        _expect_notice(meters, "Scale brings 1,400 credits for $69.99 a month.")

        lived.report.use(ACCOUNT, "2026-02-06T09:00:00Z", seconds=1)
        _expect_all(meters, "492", "fresh")
        for meter in meters.values():
            expect(meter.locator(".past .row").first).to_contain_text(
                "504 of 500", timeout=MOVES_WITHIN_MS
            )
            expect(meter.locator(".charge").first).to_contain_text(
                "1 second of Prompt to Video at 8 credits a second: 8 credits."
            )
            assert complaints_of_axe(meter.page) == []
        _keep(meters, "renewed")
    assert complaints == []


def test_an_accounts_token_shows_that_account_and_no_other(lived: Lived, browser: Browser) -> None:
    complaints: list[str] = []
    with ExitStack() as stack:
        page = _signed_in(browser, lived.gateway, stack, complaints)
        page.goto(f"{lived.gateway.url}/accounts/{OTHER}/meter")
        meter = page.locator("usage-meter")
        expect(meter.locator(".figure strong")).to_have_text("460", timeout=MOVES_WITHIN_MS)
        token = page.evaluate("document.querySelector('usage-meter').token")
        page.evaluate(
            """([token, account]) => {
                const meter = document.createElement("usage-meter");
                meter.id = "another";
                meter.token = token;
                meter.account = account;
                document.querySelector("main").append(meter);
            }""",
            [token, ACCOUNT],
        )
        another = page.locator("#another")
        expect(another.locator(".notice")).to_contain_text(
            "An account token works on the paths of its own account alone", ignore_case=True
        )
        shown = another.evaluate("meter => meter.shadowRoot.textContent")
        assert "Prompt to Video" not in shown
        for path in ("meter", "charges", "periods", "stream"):
            refused = httpx.get(
                f"{lived.gateway.url}/v1/accounts/{ACCOUNT}/{path}",
                headers={"Authorization": f"Bearer {token}"},
            )
            assert refused.status_code == 403, path
        # The console reports the refusals of the other account's requests, and nothing else.
        assert all("403" in complaint for complaint in complaints)


def test_an_app_embeds_the_meter_and_receives_its_upgrade(
    lived: Lived, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAGELEDGER_GATEWAY_URL", lived.gateway.url)
    monkeypatch.setenv("USAGELEDGER_KEY", lived.gateway.key)
    embedded = "acct_embedded"
    lived.report.use(embedded, "2026-02-06T10:00:00Z", seconds=22)
    complaints: list[str] = []
    with ExitStack() as stack:
        app = stack.enter_context(running_app(meter_page.app, lived.app_port))
        page = new_page(browser, stack, complaints)
        page.context.add_cookies([{"name": "account", "value": embedded, "url": app}])
        page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
        page.goto(f"{app}/settings/usage")
        meter = page.locator("usage-meter")
        expect(meter.locator(".status")).to_have_text("Live", timeout=MOVES_WITHIN_MS)
        expect(meter.locator(".figure strong")).to_have_text("24", timeout=MOVES_WITHIN_MS)
        lived.report.use(embedded, "2026-02-06T10:01:00Z", seconds=3)
        expect(meter.locator(".root")).to_have_attribute(
            "data-state", "blocked", timeout=MOVES_WITHIN_MS
        )
        expect(meter.locator(".figure strong")).to_have_text("0")
        expect(meter.locator(".charge").first).to_contain_text("3 seconds", timeout=MOVES_WITHIN_MS)
        keep(page, "real-embedded")
        expect(meter.get_by_role("link", name="Upgrade to")).to_have_attribute(
            "href", re.compile(r"^/upgrade\?plan=\w+$")
        )
    assert complaints == []


def test_the_console_shows_the_ledger_as_it_is(lived: Lived, browser: Browser) -> None:
    lived.report.post(
        "/v1/webhooks", {"url": "http://127.0.0.1:9/hook", "types": ["limit.reached"]}
    )
    event = {"feature": "genai_video", "model": "veo_9", "quantity": "1"}
    lived.report.account(
        "account.suspended", OTHER, "2026-02-07T10:00:00Z", reason="payment_failed"
    )
    lived.report.send("usage.recorded", "/render", OTHER, "2026-02-07T10:00:01Z", event)
    expected = {
        "accounts": (OTHER, "max"),
        "blocked": (OTHER, "payment failed"),
        "refusals": (OTHER, "unknown model"),
        "partitions": ("1", "running/idle"),
        "catalogs": ("Plan Pro", "200 credits a month"),
        "webhooks": ("http://127.0.0.1:9/hook", "active"),
        "keys": ("from the start", "works"),
    }
    complaints: list[str] = []
    with ExitStack() as stack:
        page = _signed_in(browser, lived.gateway, stack, complaints)
        for view, (row, what) in expected.items():
            page.goto(f"{lived.gateway.url}/console#/{view}")
            found = (
                page.get_by_role("row")
                .filter(has_text=row)
                .filter(has_text=re.compile(re.escape(what), re.IGNORECASE))
                .first
            )
            _reloaded_until_visible(page, found)
            assert page.locator(".problem:not(:empty)").count() == 0
            keep(page, f"real-console-{view}")
        page.goto(f"{lived.gateway.url}/console#/refusals")
        page.get_by_role("button", name="Send again", exact=True).first.click()
        expect(page.get_by_role("status").filter(has_text="sent")).to_be_visible(
            timeout=MOVES_WITHIN_MS
        )
    assert complaints == []


def _meters(
    browser: Browser, gateway: RunningGateway, stack: ExitStack, complaints: list[str]
) -> dict[str, Locator]:
    """The account's meter on a phone and a desktop, in light and in dark, all of them live."""
    found = {}
    for (device, width), scheme in product(
        (("desktop", DESKTOP), ("phone", PHONE)), ("light", "dark")
    ):
        page = _signed_in(browser, gateway, stack, complaints, width=width, scheme=scheme)
        page.goto(f"{gateway.url}/accounts/{ACCOUNT}/meter")
        found[f"{device}-{scheme}"] = page.locator("usage-meter")
    for meter in found.values():
        expect(meter.locator(".status")).to_have_text("Live", timeout=MOVES_WITHIN_MS)
    return found


def _signed_in(
    browser: Browser,
    gateway: RunningGateway,
    stack: ExitStack,
    complaints: list[str],
    *,
    width: int = DESKTOP,
    scheme: str = "light",
) -> Page:
    page = new_page(browser, stack, complaints, width=width, scheme=scheme)
    assert page.request.post(f"{gateway.url}/session", data={"key": gateway.key}).status == 204
    return page


def _expect_all(meters: dict[str, Locator], available: str, state: str) -> None:
    """Wait until each meter shows the figures, without a reload."""
    for meter in meters.values():
        expect(meter.locator(".figure strong")).to_have_text(available, timeout=MOVES_WITHIN_MS)
        expect(meter.locator(".root")).to_have_attribute(
            "data-state", state, timeout=MOVES_WITHIN_MS
        )


def _expect_notice(meters: dict[str, Locator], text: str) -> None:
    for meter in meters.values():
        expect(meter.locator(".notice")).to_contain_text(text, timeout=MOVES_WITHIN_MS)


def _expect_history(meters: dict[str, Locator], credits: str) -> None:
    """Wait until each meter shows these credits of its history."""
    for meter in meters.values():
        expect(meter.locator(".features .amount").first).to_have_text(
            credits, timeout=MOVES_WITHIN_MS
        )


def _keep(meters: dict[str, Locator], name: str) -> None:
    for device, meter in meters.items():
        keep(meter.page, f"real-{name}-{device}")


def _reloaded_until_visible(page: Page, found: Locator) -> None:
    """Reload until a list shows the row. A list is read once, and its row may be written later."""
    for _ in range(20):
        page.wait_for_timeout(500)
        if found.is_visible():
            return
        page.reload()
    expect(found).to_be_visible()
