"""The usage meter in a real browser, against a gateway whose answers the test sets."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Request, expect
from starlette.responses import HTMLResponse

from tests.browser import made_up
from tests.browser.conftest import (
    DESKTOP,
    PHONE,
    SCREENSHOTS,
    OpenPage,
    complaints_of_axe,
    keep,
    overflow,
    until,
)
from tests.browser.gateway_on_stage import GatewayOnStage, Shown, on_stage

PAGE = "/accounts/acct_4821/meter"
SCRIPT_BYTES_MAX = 36_000
SHIFT_MAX = 0.01

STATES: dict[str, Callable[[], Shown]] = {
    "busy": lambda: Shown(made_up.busy()),
    "near": lambda: Shown(made_up.using(made_up.busy(), "431.5", held="14")),
    "blocked": lambda: Shown(made_up.using(made_up.busy(), "523")),
    "suspended": lambda: Shown(made_up.suspended(made_up.busy())),
    "free": lambda: Shown(made_up.on_free() | {"account": "acct_4821"}, made_up.charges(4), []),
    "untouched": lambda: Shown(made_up.untouched(), [], []),
}


def test_the_meter_shows_what_is_used_reserved_and_available(open_page: OpenPage) -> None:
    page = open_page(PAGE)
    meter = _ready(page)
    expect(meter.locator(".figure strong")).to_have_text("206")
    for name, credits in {"used": "300", "held": "14", "left": "206"}.items():
        expect(meter.locator(f".legend .{name} dd")).to_have_text(credits)
    bar = meter.get_by_role("meter", name="Credits used")
    expect(bar).to_have_attribute("aria-valuenow", "300")
    expect(bar).to_have_attribute("aria-valuemax", "520")
    expect(bar).to_have_attribute(
        "aria-valuetext", "300 of 520 credits used, 14 reserved, 206 available"
    )
    until(
        page,
        lambda: (
            page.evaluate("document.querySelector('usage-meter').shadowRoot.getAnimations().length")
            == 0
        ),
    )
    whole = bar.evaluate("bar => bar.clientWidth")
    for part, share in {".used": 300 / 520, ".held": 14 / 520}.items():
        assert abs(bar.locator(part).evaluate("part => part.offsetWidth") - whole * share) <= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("state", STATES)
def test_every_state_is_accessible_and_fits(
    open_page: OpenPage, stage: GatewayOnStage, state: str, width: int, scheme: str
) -> None:
    stage.accounts["acct_4821"] = STATES[state]()
    page = open_page(PAGE, width=width, scheme=scheme, is_calm=True)
    meter = _ready(page)
    for details in meter.locator(".features details").all():
        details.locator("summary").click()
    assert complaints_of_axe(page) == []
    assert overflow(page) <= 0
    keep(page, f"meter-{state}-{'desktop' if width == DESKTOP else 'phone'}-{scheme}")


@pytest.mark.parametrize("width", [320, 560, 780])
def test_nothing_is_cut_off_at_any_width(
    open_page: OpenPage, stage: GatewayOnStage, width: int
) -> None:
    stage.accounts["acct_4821"] = STATES["blocked"]()
    page = open_page(PAGE, width=width)
    _ready(page)
    assert overflow(page) <= 0


def test_a_blocked_meter_says_why_and_which_upgrade_clears_it(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    stage.accounts["acct_4821"] = STATES["blocked"]()
    notice = _ready(open_page(PAGE)).locator(".notice")
    expect(notice).to_contain_text("All credits are used")
    expect(notice).to_contain_text("Credits renew on December 3.")
    expect(notice).to_contain_text("Scale brings 1,400 credits for $69.99 a month.")
    expect(notice.get_by_role("button", name="Upgrade to Scale")).to_be_visible()


def test_use_beyond_the_allotment_is_shown_and_nothing_is_available(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    stage.accounts["acct_4821"] = STATES["blocked"]()
    meter = _ready(open_page(PAGE))
    expect(meter.locator(".figure strong")).to_have_text("0")
    expect(meter.locator(".figure")).to_contain_text("3 over")


def test_a_suspended_meter_says_why_and_offers_nothing(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    stage.accounts["acct_4821"] = STATES["suspended"]()
    notice = _ready(open_page(PAGE)).locator(".notice")
    expect(notice).to_contain_text("The account is suspended")
    expect(notice).to_contain_text("A payment has failed.")
    expect(notice.get_by_role("button")).to_have_count(0)


def test_free_has_no_renewal_and_no_past(open_page: OpenPage, stage: GatewayOnStage) -> None:
    stage.accounts["acct_4821"] = STATES["free"]()
    meter = _ready(open_page(PAGE))
    expect(meter.locator(".period")).to_have_text("Given once, not renewed")
    expect(meter.get_by_role("region", name="Renewal")).to_contain_text(
        "Free’s 200 credits are given once."
    )
    expect(meter.get_by_role("region", name="Past periods")).to_contain_text(
        "No period has ended yet"
    )


def test_the_pace_is_written_as_a_sentence(open_page: OpenPage, stage: GatewayOnStage) -> None:
    expect(_ready(open_page(PAGE)).locator(".notice")).to_contain_text(
        "About 111 credits left on December 3 at this pace"
    )
    stage.accounts["acct_4821"].meter["pace"] |= {"used_up_at": "2026-11-29T23:30:00Z"}
    stage.accounts["acct_4821"].meter["time_zone"] = "Asia/Tokyo"
    expect(_ready(open_page(PAGE)).locator(".notice")).to_contain_text(
        "At this pace used up on November 30"
    )


def test_the_meter_moves_with_its_stream(open_page: OpenPage, stage: GatewayOnStage) -> None:
    page = open_page(PAGE)
    meter = _ready(page)
    stage.move("acct_4821", made_up.using(made_up.busy(), "340"))
    expect(meter.locator(".figure strong")).to_have_text("180")
    expect(meter.locator(".legend .used dd")).to_have_text("340")
    expect(meter.get_by_role("meter")).to_have_attribute("aria-valuenow", "340")


def test_a_change_on_the_stream_fetches_the_history_again(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    meter = _ready(open_page(PAGE))
    stage.accounts["acct_4821"].charges = made_up.charges(1, newest=1_043) + made_up.charges()
    stage.move("acct_4821", made_up.using(made_up.busy(), "332"))
    expect(meter.locator(".charge")).to_have_count(9)


def test_thresholds_and_blocks_are_announced_and_ticks_are_not(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    meter = _ready(open_page(PAGE))
    said = meter.get_by_role("status")
    used = meter.locator(".legend .used dd")
    stage.move("acct_4821", made_up.using(made_up.busy(), "340"))
    expect(used).to_have_text("340")
    expect(said).to_have_text("")
    stage.move("acct_4821", made_up.using(made_up.busy(), "420"))
    expect(said).to_have_text("80% of the credits are used.")
    stage.move("acct_4821", made_up.using(made_up.busy(), "520"))
    expect(said).to_have_text("The account is blocked: all credits are used.")
    stage.move("acct_4821", made_up.using(made_up.busy(), "100"))
    expect(said).to_have_text("The account is free again: 420 credits are available.")


def test_figures_change_at_once_under_reduced_motion(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    page = open_page(PAGE, is_calm=True)
    meter = _ready(page)
    page.evaluate(_RECORD_FIGURES)
    stage.move("acct_4821", made_up.using(made_up.busy(), "340"))
    expect(meter.locator(".figure strong")).to_have_text("180")
    assert page.evaluate("seen") == ["180"]
    assert (
        page.evaluate("document.querySelector('usage-meter').shadowRoot.getAnimations().length")
        == 0
    )


def test_figures_count_to_their_new_value_otherwise(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    page = open_page(PAGE)
    meter = _ready(page)
    page.evaluate(_RECORD_FIGURES)
    stage.move("acct_4821", made_up.using(made_up.busy(), "340"))
    expect(meter.locator(".figure strong")).to_have_text("180")
    assert len(page.evaluate("seen")) > 2


def test_an_upgrade_dispatches_an_event_that_can_cancel_its_link(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    stage.accounts["acct_4821"] = STATES["blocked"]()
    page = open_page(PAGE)
    meter = _ready(page)
    page.evaluate("""() => {
        window.taken = [];
        const meter = document.querySelector("usage-meter");
        meter.setAttribute("upgrade-url", "#to/{plan}/of/{account}");
        meter.addEventListener("usage-meter:upgrade", (event) => {
            taken.push(event.detail);
            if (taken.length === 1) event.preventDefault();
        });
    }""")
    page.evaluate("document.getElementById('offer').showModal = () => undefined")
    link = meter.get_by_role("link", name="Upgrade to Scale")
    link.click()
    assert page.evaluate("taken[0]") == {
        "account": "acct_4821",
        "plan": "scale",
        "name": "Scale",
        "price_cents": 6999,
    }
    assert page.evaluate("location.hash") == ""
    link.click()
    assert page.evaluate("location.hash") == "#to/scale/of/acct_4821"


def test_an_ended_token_is_replaced_and_no_token_is_in_an_address(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    page = open_page(PAGE, may_fail=True)
    meter = _ready(page)
    first = page.evaluate("document.querySelector('usage-meter').token")
    stage.ended.add(first)
    stage.world.pass_time(timedelta(seconds=1))
    stage.hang_up()
    stage.accounts["acct_4821"].meter = made_up.using(made_up.busy(), "340")
    expect(meter.locator(".figure strong")).to_have_text("180")
    second = page.evaluate("document.querySelector('usage-meter').token")
    assert second != first
    assert not any(secret in asked for secret in (first, second) for asked in stage.asked)


def test_a_broken_stream_resumes_after_the_last_event(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    page = open_page(PAGE)
    meter = _ready(page)
    stage.say("acct_4821", "limit.threshold", {"specversion": "1.0"}, id="0-1042-0")
    stage.move("acct_4821", made_up.using(made_up.busy(), "340"))
    expect(meter.locator(".figure strong")).to_have_text("180")
    stage.hang_up()
    until(page, lambda: bool(stage.resumed))
    assert stage.resumed[0] == "0-1042-0"


def test_a_stream_reads_the_same_however_it_is_cut(open_page: OpenPage) -> None:
    """Every kind of line is read alike, however the stream's bytes are cut.

    There are three kinds of line ends, a letter of several bytes, an id alone, comments, retry and
    empty events. The id alone was dropped once. A connection that broke before its first event
    then lost the limit events in between.
    """
    sent = (
        ': hello\r\nid: 3-none\r\nretry: 10\r\n\r\nid: 3-1\r\nevent: meter\ndata: {"a":\rdata: "é '
        '– €"}\n\n\nevent: empty\n\ndata:x\r\r'
    )
    read = open_page("/console", is_signed_in=False).evaluate(
        """async (sent) => {
            const { eventsOf } = await import("/usage-meter-stream.js");
            const bytes = new TextEncoder().encode(sent);
            const cut = (size) => new ReadableStream({
                start(controller) {
                    for (let at = 0; at < bytes.length; at += size) {
                        controller.enqueue(bytes.slice(at, at + size));
                    }
                    controller.enqueue(new TextEncoder().encode(": end\\n"));
                    controller.close();
                },
            });
            const found = new Set();
            for (let size = 1; size <= bytes.length; size += 1) {
                const events = [];
                const { signal } = new AbortController();
                for await (const event of eventsOf(cut(size), signal)) {
                    if (event) events.push(event);
                }
                found.add(JSON.stringify(events));
            }
            return [...found].map((events) => JSON.parse(events));
        }""",
        sent,
    )
    beginning = {"type": "message", "data": "", "id": "3-none"}
    assert read == [
        [
            beginning,
            {"type": "meter", "data": '{"a":\n"é – €"}', "id": "3-1"},
            {"type": "message", "data": "x"},
        ]
    ]


def test_a_lost_connection_shows_the_age_of_the_figures_and_recovers(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    page = open_page(PAGE, may_fail=True)
    meter = _ready(page)
    stage.is_away = True
    stage.hang_up()
    expect(meter.locator(".status")).to_have_text(re.compile(r"Connection lost · As of 10:00"))
    keep(page, "meter-offline-desktop-light")
    stage.is_away = False
    stage.accounts["acct_4821"].meter = made_up.using(made_up.busy(), "340")
    expect(meter.locator(".status")).to_have_text("Live")
    expect(meter.locator(".figure strong")).to_have_text("180")


def test_a_gateway_that_cannot_answer_yet_is_asked_again(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    stage.is_away = True
    page = open_page(PAGE, may_fail=True)
    meter = page.locator("usage-meter")
    expect(meter.locator(".notice")).to_contain_text("The meter cannot be reached")
    stage.is_away = False
    _ready(page)
    expect(meter.locator(".figure strong")).to_have_text("206")


def test_figures_that_may_be_old_show_their_time(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    stage.accounts["acct_4821"].meter |= {
        "as_of": "2026-11-25T09:42:00Z",
        "history_as_of": "2026-11-25T09:30:00Z",
    }
    page = open_page(PAGE)
    meter = _ready(page)
    expect(meter.locator(".status")).to_have_text(re.compile("As of 9:42"))
    expect(meter.get_by_role("region", name="Day by day")).to_contain_text("Up to Nov 25, 9:30")


def test_a_refusal_is_shown_in_the_gateways_words(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    page = open_page("/accounts/acct_of_nobody/meter", may_fail=True)
    notice = page.locator("usage-meter .notice")
    expect(notice).to_contain_text("The meter cannot be shown")
    expect(notice).to_contain_text("an account token works on the paths of its own account alone")
    assert complaints_of_axe(page) == []


def test_a_german_meter_has_german_words_numbers_and_dates(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    stage.accounts["acct_4821"] = STATES["near"]()
    page = open_page(PAGE, locale="de-DE")
    page.locator("usage-meter").wait_for(state="attached")
    page.evaluate(
        "document.documentElement.lang = 'de'; "
        "document.querySelector('usage-meter').setAttribute('lang', 'de')"
    )
    meter = _ready(page)
    expect(meter.locator(".figure strong")).to_have_text("74,5")
    expect(meter.locator(".period")).to_contain_text("erneuert sich in 8 Tagen")
    expect(meter.locator(".notice")).to_contain_text(
        "Scale bringt 1.400 Credits für 69,99 $ im Monat."
    )
    expect(meter.locator(".marks i")).to_have_attribute("data-name", "80\u00a0%")
    expect(meter.locator(".charge").first).to_contain_text(
        "1 Generierung zu je 32 Credits: 32 Credits."
    )
    assert _words_in_two_languages(page) == []
    assert complaints_of_axe(page) == []
    keep(page, "meter-near-desktop-light-german")


def test_a_page_can_add_a_language(open_page: OpenPage) -> None:
    page = open_page(PAGE)
    meter = _ready(page)
    page.evaluate("""async () => {
        const { UsageMeter } = await import("/usage-meter.js");
        const uses = { one: "{n} utilisation", other: "{n} utilisations" };
        UsageMeter.addTexts("fr", { title: "Crédits IA", uses });
        document.querySelector("usage-meter").setAttribute("lang", "fr");
    }""")
    expect(meter.get_by_role("heading", name="Crédits IA")).to_be_visible()
    expect(meter.get_by_role("heading", name="Day by day")).to_be_visible()


def test_a_name_in_the_meter_is_text_whatever_it_holds(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    hostile = '<img src=x onerror="window.ran=1"><script>window.ran=1</script>{used}'
    meter = made_up.using(made_up.busy(), "523")
    meter["plan"] = meter["plan"] | {"name": hostile}
    meter["blocked"]["upgrade"] = made_up.SCALE | {
        "name": hostile,
        "plan": "javascript:window.ran=1",
    }
    meter["features"] = [
        feature | {"name": hostile, "id": hostile} for feature in meter["features"][:1]
    ]
    charges = [
        charge | {"feature_name": hostile, "explanation": hostile, "entry": hostile}
        for charge in made_up.charges(1)
    ]
    periods = [period | {"plan_name": hostile} for period in made_up.periods()[:1]]
    stage.accounts["<b>&"] = Shown(meter | {"account": "<b>&"}, charges, periods)
    page = open_page("/accounts/%3Cb%3E%26/meter")
    shown = _ready(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("<b>&")
    expect(shown.locator(".plan")).to_have_text(hostile)
    expect(shown.locator(".features .name")).to_have_text(hostile)
    expect(shown.locator(".charge p")).to_have_text(hostile)
    expect(shown.locator("img, script")).to_have_count(0)
    assert page.evaluate("window.ran") is None


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("state", STATES)
def test_nothing_jumps_while_it_loads(
    open_page: OpenPage, stage: GatewayOnStage, state: str, width: int
) -> None:
    stage.accounts["acct_4821"] = STATES[state]()
    stage.may_answer.clear()
    page = open_page(PAGE, width=width)
    meter = page.locator("usage-meter")
    meter.get_by_role("heading", name="Day by day").wait_for()
    page.evaluate("""() => {
        window.shift = 0;
        const seen = (list) => {
            for (const entry of list.getEntries()) window.shift += entry.value;
        };
        window.shifts = new PerformanceObserver(seen);
        window.shifts.observe({ type: "layout-shift", buffered: true });
    }""")
    if state == "busy":
        _two_frames(page)
        before = page.evaluate("window.shift")
        keep(page, f"meter-loading-{'desktop' if width == DESKTOP else 'phone'}-light")
        assert complaints_of_axe(page) == []
        # A picture of the whole page resizes the viewport, which can count as a shift.
        _two_frames(page)
        page.evaluate("(before) => { window.shifts.takeRecords(); window.shift = before; }", before)
    waiting = _tops(page)
    stage.may_answer.set()
    _ready(page)
    _two_frames(page)
    assert page.evaluate("shift") < SHIFT_MAX
    if width == DESKTOP:
        moved = {
            name: (top, _tops(page)[name])
            for name, top in waiting.items()
            if abs(_tops(page)[name] - top) > 1
        }
        assert moved == {}


def _two_frames(page: Page) -> None:
    """Wait until the browser has painted what it knows."""
    page.evaluate(
        "() => new Promise((resolve) => requestAnimationFrame(() => "
        "requestAnimationFrame(resolve)))"
    )


def test_the_meter_can_be_used_by_keyboard(open_page: OpenPage, stage: GatewayOnStage) -> None:
    stage.accounts["acct_4821"] = STATES["near"]()
    page = open_page(PAGE)
    meter = _ready(page)
    page.keyboard.press("Tab")
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(_FOCUSED))
        assert page.evaluate(_FOCUS_IS_SEEN), f"nothing shows that {reached[-1]} has the focus"
    assert reached[:3] == [
        "Sign out",
        "Upgrade to Scale",
        "November 25: 11 credits, GenAI Video 5.72, AI Edit 2.42, GenAI Image 1.76, Chat-Based "
        "Editing (user message) 1.1",
    ]
    assert [name for name in reached[3:] if name.startswith(("GenAI", "AI Edit", "Show"))][:2] == [
        "Show as a table",
        "GenAI Video156",
    ]
    meter.locator(".chart [tabindex='0']").focus()
    page.keyboard.press("ArrowLeft")
    expect(meter.locator(".readout")).to_contain_text("November 24: 33 credits")
    page.keyboard.press("Home")
    expect(meter.locator(".readout")).to_contain_text("November 3: 6 credits")
    meter.locator(".features summary").first.focus()
    page.keyboard.press("Enter")
    expect(meter.locator(".models").first).to_contain_text("Veo 3 3 generations · 3 uses")


def test_the_days_can_be_read_as_a_table(open_page: OpenPage) -> None:
    meter = _ready(open_page(PAGE))
    meter.get_by_text("Show as a table").click()
    rows = meter.get_by_role("row")
    expect(rows).to_have_count(1 + len(made_up.busy()["days"]))
    expect(rows.nth(1)).to_contain_text("November 25")


def test_an_update_keeps_open_details_open_and_the_focus_in_place(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    page = open_page(PAGE)
    meter = _ready(page)
    first = meter.locator(".features details").first
    first.locator("summary").click()
    first.locator("summary").focus()
    moved = made_up.using(made_up.busy(), "340")
    moved["features"] = [
        feature | {"credits": str(Decimal(feature["credits"]) + 10)}
        for feature in moved["features"]
    ]
    stage.move("acct_4821", moved)
    expect(first.locator(".amount")).to_have_text("166")
    expect(first).to_have_attribute("open", "")
    assert page.evaluate(_FOCUSED).startswith("GenAI Video")


def test_more_charges_are_shown_on_demand_each_with_its_reason(open_page: OpenPage) -> None:
    page = open_page(PAGE)
    meter = _ready(page)
    expect(meter.locator(".charge")).to_have_count(8)
    meter.get_by_role("button", name="Show more").click()
    expect(meter.locator(".charge")).to_have_count(16)
    assert all(meter.locator(".charge p").all_text_contents())
    assert page.evaluate(_FOCUSED).startswith("Nov 24")


def test_a_compact_meter_is_the_bar_alone_and_asks_for_no_more(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    page = open_page(PAGE)
    _ready(page)
    stage.asked.clear()
    page.evaluate("document.querySelector('usage-meter').setAttribute('compact', '')")
    meter = page.locator("usage-meter")
    expect(meter.get_by_role("heading", name="Day by day")).to_be_hidden()
    expect(meter.locator(".figure strong")).to_have_text("206")
    expect(meter.locator(".status")).to_have_text("Live")
    assert not [asked for asked in stage.asked if "charges" in asked or "periods" in asked]
    meter.screenshot(path=SCREENSHOTS / "meter-compact.png")


def test_the_pages_theme_overrides_the_systems(open_page: OpenPage) -> None:
    page = open_page(PAGE, scheme="dark")
    _ready(page)
    ground = (
        "getComputedStyle(document.querySelector('usage-meter').shadowRoot.querySelector('.card'))"
        ".backgroundColor"
    )
    assert page.evaluate(ground) == "rgb(22, 24, 29)"
    page.evaluate("document.querySelector('usage-meter').setAttribute('theme', 'light')")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"


def test_an_embedding_page_can_set_the_colours(open_page: OpenPage) -> None:
    page = open_page(PAGE)
    _ready(page)
    page.evaluate(
        "document.querySelector('usage-meter').style.setProperty('--usage-meter-accent', 'rgb(0, "
        "100, 80)')"
    )
    ground = (
        "getComputedStyle(document.querySelector('usage-meter').shadowRoot.querySelector('.bar "
        ".used')).backgroundColor"
    )
    until(page, lambda: page.evaluate(ground) == "rgb(0, 100, 80)")


def test_on_paper_no_button_is_shown_and_every_detail_is_open(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    stage.accounts["acct_4821"] = STATES["near"]()
    page = open_page(PAGE, scheme="dark", width=800)
    meter = _ready(page)
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    expect(meter.get_by_role("button")).to_have_count(0)
    expect(meter.locator(".models").first).to_be_visible()
    assert (
        page.evaluate("getComputedStyle(document.querySelector('usage-meter')).colorScheme")
        == "light"
    )
    keep(page, "meter-near-print")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    expect(meter.locator(".models").first).to_be_hidden()


def test_the_page_needs_less_than_36_kb_of_script_as_sent(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    page = open_page("")
    requests: list[Request] = []
    page.on("requestfinished", lambda request: requests.append(request))
    page.goto(stage.url + PAGE)
    _ready(page)
    sizes = {
        request.url: request.sizes()["responseBodySize"]
        for request in requests
        if request.url.endswith(".js")
    }
    assert any(url.endswith("/usage-meter.js") for url in sizes)
    assert all(size > 0 for size in sizes.values()), sizes
    assert sum(sizes.values()) < SCRIPT_BYTES_MAX, sizes


def test_another_sites_page_can_embed_it_under_a_policy_of_its_own(
    open_page: OpenPage, stage: GatewayOnStage, tmp_path: Path
) -> None:
    page = open_page("")
    script = f'<script type="module" src="{stage.url}/usage-meter.js"></script>'
    html = f'<!doctype html><link rel="icon" href="data:,">{script}<usage-meter></usage-meter>'
    policy = (
        f"default-src 'none'; img-src data:; script-src {stage.url}; connect-src {stage.url}; "
        "style-src 'none'"
    )
    with on_stage(tmp_path / "another") as another:
        another.answers["GET /embedding"] = HTMLResponse(
            html, headers={"Content-Security-Policy": policy}
        )
        page.goto(f"{another.url}/embedding")
        padding = (
            "getComputedStyle(document.querySelector('usage-meter').shadowRoot"
            "?.querySelector('.card') ?? document.body).padding"
        )
        until(page, lambda: page.evaluate(padding) == "24px")
    assert page.evaluate("document.querySelector('usage-meter').src") == stage.url


def test_without_its_looks_the_meter_is_plain_but_there(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    page = open_page("", may_fail=True)
    page.route("**/usage-meter.css", lambda route: route.fulfill(status=503))
    page.request.post(f"{stage.url}/session", data={"key": stage.world.key("read")})
    page.goto(stage.url + PAGE)
    expect(page.locator("usage-meter .figure")).to_be_visible()
    expect(page.locator("usage-meter .figure")).to_contain_text("206")


def test_properties_set_before_the_component_loads_apply(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    page = open_page("/console", is_signed_in=False)
    token = stage.world.keys.new_account_token(
        stage.world.keys.caller(stage.world.key("read"), stage.world.now),
        "acct_4821",
        {"read"},
        timedelta(minutes=5),
        stage.world.now,
    )
    page.evaluate(
        """async (token) => {
            const early = document.createElement("usage-meter");
            early.token = token;
            early.texts = { title: "Our credits" };
            early.setAttribute("account", "acct_4821");
            document.body.append(early);
            await import("/usage-meter.js");
        }""",
        token,
    )
    meter = _ready(page)
    expect(meter.get_by_role("heading", name="Our credits")).to_be_visible()


def test_a_visitor_signs_in_sees_the_meter_and_signs_out(
    open_page: OpenPage, stage: GatewayOnStage
) -> None:
    page = open_page(PAGE, is_signed_in=False, may_fail=True)
    page.get_by_label("App key").fill("ulk_0a1b2c3d_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("This is no key")
    assert complaints_of_axe(page) == []
    page.get_by_label("App key").fill(stage.world.key("read"))
    page.get_by_role("button", name="Sign in").click()
    _ready(page)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("App key")).to_be_visible()


_RECORD_FIGURES = """() => {
    window.seen = [];
    const figure = document.querySelector("usage-meter").shadowRoot.querySelector(".figure strong");
    const see = () => { if (seen.at(-1) !== figure.textContent) seen.push(figure.textContent); };
    new MutationObserver(see).observe(figure, { childList: true });
}"""
_ACTIVE = (
    "let active = document.activeElement; while (active.shadowRoot?.activeElement) active = "
    "active.shadowRoot.activeElement;"
)
_FOCUSED = (
    f"() => {{ {_ACTIVE} return active.getAttribute('aria-label') ?? active.textContent.trim(); }}"
)
_FOCUS_IS_SEEN = f"""() => {{
    {_ACTIVE}
    const column = active.querySelector(":scope > .column");
    if (active === document.body) return true;
    if (getComputedStyle(active).outlineStyle !== "none") return true;
    return column && getComputedStyle(column).strokeWidth === "2px";
}}"""


def _ready(page: Page) -> Locator:
    """The meter, once its figures and its history are shown and its stream is open."""
    meter = page.locator("usage-meter")
    meter.locator(".root:not([data-state='loading'])").wait_for()
    meter.locator(".charge time, .charges .empty").first.wait_for()
    expect(meter.locator(".status")).to_have_text(re.compile("Live|As of|Stand"))
    return meter


def _tops(page: Page) -> dict[str, float]:
    """Where each part of the meter begins, by its heading."""
    found: dict[str, float] = page.evaluate("""() => {
        const { shadowRoot } = document.querySelector("usage-meter");
        const topOf = (part) => [
            part.getAttribute("aria-labelledby"),
            part.getBoundingClientRect().top,
        ];
        return Object.fromEntries([...shadowRoot.querySelectorAll("section")].map(topOf));
    }""")
    return found


def _words_in_two_languages(page: Page) -> list[str]:
    """English texts that are shown where the language is another."""
    english = (
        "Show more",
        "Used",
        "Reserved",
        "Available",
        "Day by day",
        "Past periods",
        "Recent activity",
        "Renewal",
    )
    shown: str = page.evaluate(
        "document.querySelector('usage-meter').shadowRoot.querySelector('.root').textContent"
    )
    return [word for word in english if re.search(rf"(?<!\w){word}(?!\w)", shown)]
