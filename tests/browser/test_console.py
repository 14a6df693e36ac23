"""The operator's console in a real browser, against a gateway whose answers the test sets.

Keys and sessions are the gateway's own.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from starlette.requests import Request

from tests.browser import operated
from tests.browser.conftest import (
    DESKTOP,
    PHONE,
    OpenPage,
    complaints_of_axe,
    keep,
    overflow,
    until,
)
from tests.browser.gateway_on_stage import GatewayOnStage
from usageledger.gateway.problems import problem_response

VIEWS = (
    "accounts",
    "blocked",
    "refusals",
    "partitions",
    "catalogs",
    "webhooks",
    "webhooks/wh_0a1b2c3d",
    "keys",
)


@pytest.fixture(autouse=True)
def operated_ledger(stage: GatewayOnStage) -> None:
    """A ledger in which a bit of everything has happened."""
    stage.answers = operated.answers()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_accessible_and_fits(
    open_page: OpenPage, view: str, width: int, scheme: str
) -> None:
    page = open_page(f"/console#/{view}", width=width, scheme=scheme, is_calm=True)
    page.locator("tbody tr").first.wait_for()
    assert complaints_of_axe(page) == []
    assert overflow(page) <= 0
    keep(
        page,
        f"console-{view.replace('/', '-')}-{'desktop' if width == DESKTOP else 'phone'}-{scheme}",
    )


def test_every_view_is_reached_by_keyboard_and_has_an_address(open_page: OpenPage) -> None:
    page = open_page("/console")
    page.locator("tbody tr").first.wait_for()
    for name in ("Accounts", "Blocked", "Refusals", "Partitions", "Catalogs", "Webhooks", "Keys"):
        page.get_by_role("link", name=name, exact=True).focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
        expect(page.get_by_role("link", name=name, exact=True)).to_have_attribute(
            "aria-current", "page"
        )
        assert page.evaluate("location.hash") == f"#/{name.lower()}"


def test_a_visitor_without_admin_is_asked_for_a_key_with_admin(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    page = open_page("/console", is_signed_in=False)
    expect(page.get_by_role("navigation")).to_be_hidden()
    keep(page, "console-sign-in-desktop-light")
    page.get_by_label("App key").fill(stage.world.key("read"))
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("main")).to_contain_text(
        "You are signed in with a key that lacks the scope admin."
    )
    page.get_by_label("App key").fill(stage.world.key("admin"))
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Accounts")


def test_a_search_is_a_part_of_the_address(open_page: OpenPage, stage: GatewayOnStage) -> None:
    searched: list[str] = []

    def answer(request: Request) -> object:
        searched.append(request.query_params.get("search", ""))
        return {"items": [], "next_cursor": None}

    stage.answers["GET /v1/accounts"] = answer
    page = open_page("/console#/accounts?search=4%2F8")
    expect(page.get_by_role("searchbox")).to_have_value("4/8")
    page.get_by_role("searchbox").fill("team/7")
    page.keyboard.press("Enter")
    expect(page.locator(".empty")).to_have_text("No account has this in its name.")
    assert page.evaluate("location.hash") == "#/accounts?search=team%2F7"
    assert searched[0] == "4/8"
    assert searched[-1] == "team/7"


def test_a_list_continues_at_its_cursor(open_page: OpenPage, stage: GatewayOnStage) -> None:
    items = stage.answers["GET /v1/accounts"]["items"]

    def answer(request: Request) -> object:
        is_first = "cursor" not in request.query_params
        return {
            "items": items[:1] if is_first else items[1:],
            "next_cursor": "one" if is_first else None,
        }

    stage.answers["GET /v1/accounts"] = answer
    page = open_page("/console")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("tbody tr")).to_have_count(2)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()


def test_an_account_shows_its_meter(open_page: OpenPage) -> None:
    page = open_page("/console")
    page.get_by_role("link", name="acct_4821").click()
    expect(page.locator("usage-meter .figure strong")).to_have_text("206")


def test_a_refusal_is_sent_again_alone_or_with_others(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    page = open_page("/console#/refusals")
    page.get_by_role("button", name="Send again", exact=True).first.click()
    expect(page.get_by_role("status").filter(has_text="3-1042: sent")).to_be_visible()
    for box in page.get_by_role("checkbox").all():
        box.check()
    page.get_by_role("button", name="Send the chosen again").click()
    expect(page.get_by_role("button", name="Send the chosen again")).to_be_hidden()
    assert stage.posted == [
        ("/v1/refusals/resend", {"entries": ["3-1042"]}),
        ("/v1/refusals/resend", {"entries": ["3-1042", "5-77"]}),
    ]


def test_catalogs_are_shown_side_by_side_with_differences_marked(open_page: OpenPage) -> None:
    page = open_page("/console#/catalogs")
    expect(page.locator("[data-change='changed']")).to_have_count(2)
    expect(page.locator("tbody tr")).to_have_count(2)
    expect(page.locator("tbody tr").nth(1)).to_contain_text("32 credits a generation")
    page.get_by_label("Also what is the same").check()
    expect(page.locator("tbody tr").filter(has_text="Plan Max")).to_be_visible()
    expect(page.locator("[data-change='changed']")).to_have_count(2)


def test_a_delivery_is_sent_again(open_page: OpenPage, stage: GatewayOnStage) -> None:
    page = open_page("/console#/webhooks")
    page.get_by_role("link", name="https://app.example/hooks/limits").click()
    page.get_by_role("row").filter(has_text="dead").get_by_role("button", name="Send again").click()
    until(page, lambda: bool(stage.posted))
    assert stage.posted == [("/v1/webhooks/wh_0a1b2c3d/deliveries/d2/resend", None)]


def test_a_key_is_made_shown_once_rotated_and_revoked(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    page = open_page("/console#/keys")
    page.get_by_label("A key for").fill("render service")
    page.get_by_role("button", name="Make a key").click()
    expect(page.get_by_role("alert").first).to_have_text("Choose what the key may do.")
    page.get_by_label("hold").check()
    page.get_by_role("button", name="Make a key").click()
    key = page.get_by_label("The new key").locator("input").input_value()
    assert stage.world.keys.caller(key, stage.world.now).scopes == {"hold"}
    assert complaints_of_axe(page) == []
    page.get_by_role("button", name="I have stored it").click()
    row = page.get_by_role("row").filter(has_text="render service")
    row.get_by_role("button", name="Rotate").click()
    rotated = page.get_by_role("dialog").locator("input").input_value()
    assert rotated != key
    page.get_by_role("button", name="I have stored it").click()
    expect(row).to_contain_text("rotating")
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(row).not_to_contain_text("revoked")
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row).to_contain_text("revoked")
    assert key not in page.content()


def test_an_empty_list_says_that_it_is_empty(open_page: OpenPage, stage: GatewayOnStage) -> None:
    stage.answers["GET /v1/blocked"] = {"items": [], "next_cursor": None}
    expect(open_page("/console#/blocked").locator(".empty")).to_have_text("No account is blocked.")


def test_a_failure_is_shown_as_a_sentence_with_a_retry(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    answers = operated.answers()
    stage.answers["GET /v1/lag"] = problem_response(
        "log_unavailable", "Kafka does not answer: ask again in a moment"
    )
    page = open_page("/console#/partitions", may_fail=True)
    expect(page.get_by_role("alert")).to_contain_text(
        "Kafka does not answer: ask again in a moment."
    )
    stage.answers = answers
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("tbody tr")).to_have_count(3)


def test_a_name_in_the_console_is_text_whatever_it_holds(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    hostile = "<img src=x onerror=window.ran=1>"
    stage.answers["GET /v1/accounts"]["items"][0]["account"] = hostile
    page = open_page("/console", may_fail=True)
    page.get_by_role("link", name=hostile).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(hostile)
    assert page.evaluate("window.ran") is None
