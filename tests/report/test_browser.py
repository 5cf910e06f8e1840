"""The page in a real Chromium: it renders, asks for nothing, can be used by keyboard, and axe finds no fault."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.report.build import build_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium is installed (Debian: apt-get install chromium)", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
pytestmark = pytest.mark.slow

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
VIEWS = {
    "light": {"viewport": WIDE, "color_scheme": "light"},
    "dark": {"viewport": WIDE, "color_scheme": "dark"},
    "narrow": {"viewport": NARROW, "color_scheme": "light"},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def address(page: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(page, tmp_path_factory.mktemp("page"))


def written(text: str, folder: Path) -> str:
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path.as_uri()


def opened(browser: Any, address: str, **view: Any) -> tuple[Any, list[str]]:
    """Open the page in a window of its own; what it complains of, and what it asks for besides itself, is noted."""
    context = browser.new_context(**(view or VIEWS["light"]))
    tab = context.new_page()
    noted: list[str] = []
    tab.on("console", lambda message: noted.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: noted.append(f"error: {error}"))
    tab.on("request", lambda request: noted.append(f"request: {request.url}"))
    tab.goto(address)
    return tab, noted


def shown(tab: Any) -> int:
    return tab.locator("article:visible").count()


@pytest.mark.parametrize("view", VIEWS)
def test_it_renders_without_complaint_or_request_and_nothing_sticks_out(browser, address, view):
    tab, noted = opened(browser, address, **VIEWS[view])
    for summary in tab.locator("summary").all():
        summary.click()
    assert tab.locator("details:not([open])").count() == 0
    assert noted == [f"request: {address}"]
    assert tab.title() == "quickstart · posttrain report"  # the hostile sample tries to change it
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    # a drawing that lost its text or its size would not be seen
    sizes = tab.evaluate(
        "[...document.querySelectorAll('svg')].map(s => [s.clientHeight, s.textContent.trim().length])"
    )
    assert len(sizes) == 14 and all(height > 80 and letters > 20 for height, letters in sizes)


def test_the_table_of_rounds_fits_a_window_of_1280_pixels(browser, example_run, tmp_path):
    lengths = {"num_pairs": 1000, "mean_length_a": 1234.5, "mean_length_b": 1198.7}
    rounds = [
        entry | {key: entry[key] | lengths for key in ("win_rate_vs_previous", "win_rate_vs_base")}
        for entry in example_run["rounds"]
    ]
    rounds[1]["same_as"] = "round_1"
    page = build_report(example_run | {"rounds": rounds})
    tab, _ = opened(browser, written(page, tmp_path), viewport={"width": 1280 - 15, "height": 900})  # a scroll bar
    table = tab.locator("#rounds .scroll").first
    assert "kept round 1" in table.inner_text()
    assert table.evaluate("frame => frame.scrollWidth <= frame.clientWidth")


# All rules in light; what the others change.
RULES = {"light": [], "dark": ["color-contrast"], "narrow": ["scrollable-region-focusable", "target-size"]}


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious(browser, address, view):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed (extra dev)")
    tab, _ = opened(browser, address, **VIEWS[view])
    tab.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    # Selectors of every element that passed would take most of the time.
    options: dict[str, Any] = {"resultTypes": ["violations"], "selectors": False}
    if RULES[view]:
        options["runOnly"] = {"type": "rule", "values": RULES[view]}
    found = axe.Axe().run(tab, options=options).response
    passed = {rule["id"] for rule in found["passes"]}
    assert passed >= set(RULES[view]) if RULES[view] else len(passed) > 20  # it did look
    faults = [
        f"{fault['id']} ({fault['impact']}): {node['html'][:160]}"
        for fault in found["violations"]
        for node in fault["nodes"]
    ]
    assert faults == []


def test_dark_is_dark_and_paper_is_light(browser, address):
    tab, _ = opened(browser, address, **VIEWS["dark"])
    lightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert max(tab.evaluate(lightness)) < 64
    tab.emulate_media(media="print")
    assert min(tab.evaluate(lightness)) > 240
    assert not tab.locator("nav").is_visible()
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.locator("details:not([open])").count() == 0


def test_filters_and_search_work_by_keyboard(browser, address):
    # 60 training prompts: rounds and families go together, every third is of round 1 and family "reverse"; every
    # fourth is "wrong". Twelve held-out ones, three of each verdict but six wins.
    tab, _ = opened(browser, address)
    assert shown(tab) == 12
    assert tab.locator("output").inner_text() == "12 shown of 72 that fit, 72 in all"
    tab.locator("[data-filter=kind]").focus()
    tab.keyboard.type("tr")  # "training samples"
    assert "of 60 that fit" in tab.locator("output").inner_text()
    tab.keyboard.press("Tab")
    tab.keyboard.type("1")
    assert "of 20 that fit" in tab.locator("output").inner_text()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    tab.keyboard.type("wr")  # of 0, 3, 6 … 57 those that four divides: 0, 12, 24, 36, 48
    assert (shown(tab), tab.locator("output").inner_text()) == (5, "5 shown of 5 that fit, 72 in all")
    tab.keyboard.press("Tab")
    tab.keyboard.type("ITEM 48")
    assert shown(tab) == 1
    tab.keyboard.type(" nowhere")
    assert shown(tab) == 0 and tab.locator(".none").is_visible()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")  # Clear
    playwright.expect(tab.locator("output")).to_have_text("12 shown of 72 that fit, 72 in all")


def test_more_samples_come_and_the_keyboard_goes_on_there(browser, address):
    tab, _ = opened(browser, address)
    button = tab.get_by_role("button", name="Show more")
    button.focus()
    tab.keyboard.press("Enter")
    assert shown(tab) == 24
    focused = tab.evaluate("[...document.querySelectorAll('article:not([hidden])')].indexOf(document.activeElement)")
    assert focused == 12
    for _ in range(4):
        button.click()
    assert shown(tab) == 72 and not button.is_visible()


def test_verdicts_of_held_out_answers_can_be_picked(browser, address):
    tab, _ = opened(browser, address)
    tab.locator("[data-filter=verdict]").select_option("loss")
    assert shown(tab) == 3  # numbers 6, 7 and 8 of twelve
    assert set(tab.locator("article:visible .tag.bad").all_inner_texts()) == {"loss"}


def test_the_first_tab_stop_skips_to_the_results(browser, address):
    tab, _ = opened(browser, address)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the results"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"


def test_the_contents_say_where_the_reader_is(browser, address):
    tab, _ = opened(browser, address)
    tab.get_by_role("link", name="Best of K").click()
    playwright.expect(tab.locator("nav a[aria-current]")).to_have_text(["Best of K"])


def test_regions_stop_the_tab_key_only_where_they_scroll(browser, address):
    stops = "document.querySelectorAll('.scroll[tabindex]').length"
    counts = []
    for view in ("light", "narrow"):
        tab, _ = opened(browser, address, **VIEWS[view])
        tab.wait_for_timeout(100)  # the observer reports after the first layout
        counts.append(tab.evaluate(stops))
    assert counts[0] < counts[1]
    assert tab.evaluate(
        "[...document.querySelectorAll('.scroll:not([tabindex])')].every(e => e.scrollWidth <= e.clientWidth)"
    )


def test_it_can_be_read_without_its_script(browser, address):
    tab, _ = opened(browser, address, viewport=WIDE, java_script_enabled=False)
    assert tab.locator("article:visible").count() == 72
    assert not tab.locator("form").is_visible()


@pytest.mark.parametrize(
    "run", [{}, {"run": "new", "state": "running", "stages": [{"name": "base", "status": "running"}]}]
)
def test_a_run_that_has_hardly_begun_renders_too(browser, run, tmp_path):
    tab, noted = opened(browser, written(build_report(run), tmp_path), **VIEWS["narrow"])
    assert [line for line in noted if not line.startswith("request: file:")] == []
    assert re.search(r"not there yet", tab.locator("main").inner_text())
    assert tab.evaluate("document.documentElement.scrollWidth <= 390")
