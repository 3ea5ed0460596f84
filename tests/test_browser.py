"""The page in a real browser: every control, no error, no request, no accessibility problem, hostile text inert.

Playwright drives the machine's own Chromium; without one of the two, or without axe, these tests are skipped.
`apt-get install chromium` and `pip install -e '.[browser]'` bring them.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ltm_eval.report.page import build, render
from ltm_eval.results.files import find_runs
from tests.hostile import GROUPS
from tests.rich_runs import write_rich

if TYPE_CHECKING:
    from collections.abc import Iterator

if "REQUIRE_BROWSER" in os.environ:  # where it was installed on purpose, a skip would hide that it does not work
    import axe_playwright_python
    import playwright.sync_api as api
else:
    api = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[browser]'")
    axe_playwright_python = pytest.importorskip("axe_playwright_python", reason="pip install -e '.[browser]'")

DESKTOP = 1280
"""Width from which every table is seen whole."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SIZES = ((1280, 900), (390, 844))
THEMES = ("light", "dark")
PLACES = 20
"""Least number of different places of the page that hold a stranger's text."""
STRUCTURE = """() => Array.from(document.querySelectorAll("*"))
    .filter((one) => !one.closest("svg") || one.tagName === "svg")
    .map((one) => [one.tagName, ...one.getAttributeNames().filter((name) => name !== "open").sort()].join(" "))"""
DRAWN = """() => Array.from(new Set(Array.from(document.querySelectorAll("svg *"))
    .map((one) => [one.tagName, ...one.getAttributeNames().sort()].join(" ")))).sort()"""
HOLDERS = """(word) => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = new Set();
    while (walker.nextNode()) {
        const text = walker.currentNode;
        if (!text.data.includes(word) || text.parentElement.closest("script")) { continue; }
        const path = [];
        for (let one = text.parentElement; one && one.tagName !== "BODY"; one = one.parentElement) {
            const place = one.id && one.tagName === "SECTION" ? "#" + one.id : "";
            const cell = one.cellIndex === undefined ? "" : one.cellIndex;
            path.push(one.tagName + place + "." + one.className + cell);
        }
        found.add(path.join(" < "));
    }
    return Array.from(found);
}"""


OPEN = "document.querySelectorAll('details:not(.sample)').forEach((one) => { one.open = true; })"


class Watched:
    """A page of the browser, and everything it must not do."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.wrong: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("popup", lambda _: self.wrong.append("popup"))
        page.goto(path.as_uri())

    def assert_quiet(self) -> None:
        assert self.wrong == []
        assert [url for url in self.asked if not url.startswith("file://")] == []
        assert len(self.asked) == 1


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        assert "REQUIRE_BROWSER" not in os.environ
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    api.expect.set_options(timeout=60_000)
    with api.sync_playwright() as playwright:
        # Within containers there is no sandbox to be had; the pages are our own.
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


def written(folder: Path, word: str = "pears") -> Path:
    write_rich(folder / "runs", word=word)
    path = folder / "report.html"
    path.write_text(render(build(find_runs([folder / "runs"]))), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("harmless"))


@pytest.fixture
def watched(browser: Any, path: Path) -> Iterator[Watched]:
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, permissions=["clipboard-read", "clipboard-write"]
    )
    context.set_default_timeout(60_000)
    yield (found := Watched(context.new_page(), path))
    found.assert_quiet()
    context.close()


# Controls


def test_every_control_can_be_worked_without_an_error(watched: Watched) -> None:
    """All buttons, folded parts and fields of the page, one after the other."""
    page = watched.page
    page.evaluate(OPEN)
    for kind in ("summary", "button", "input[type=search]", "nav a"):
        assert page.locator(kind).count() > 0
    worked = page.evaluate("""() => {
        let count = 0;
        document.querySelectorAll("summary, button, nav a").forEach((one) => { one.click(); count += 1; });
        document.querySelectorAll("input[type=search]").forEach((one) => {
            for (const text of ["pears", "nothing of the kind", ""]) {
                one.value = text;
                one.dispatchEvent(new Event("input", { bubbles: true }));
            }
        });
        return count;
    }""")
    assert worked > 50


def test_the_theme_is_switched_and_follows_the_system(watched: Watched) -> None:
    page = watched.page

    def paper() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = paper()
    page.get_by_role("button", name="Dark theme").click()
    dark = paper()
    assert dark != light
    page.get_by_role("button", name="Light theme").click()
    assert paper() == light
    page.evaluate("delete document.documentElement.dataset.theme")
    page.emulate_media(color_scheme="dark")
    assert paper() == dark


def test_the_summary_is_sorted_up_down_and_back_by_keyboard(watched: Watched) -> None:
    page = watched.page
    column = "Array.from(document.querySelectorAll('.summary tbody tr')).map((row) => row.children[1].dataset.value)"
    before = page.evaluate(column)
    page.evaluate(OPEN)
    button = page.locator(".summary thead button").nth(1)
    button.focus()
    orders = []
    for _ in range(3):
        page.keyboard.press("Enter")
        orders.append([value for value in page.evaluate(column) if value])
    numbers = [float(value) for value in before if value]
    assert [float(value) for value in orders[0]] == sorted(numbers)
    assert [float(value) for value in orders[1]] == sorted(numbers, reverse=True)
    assert orders[2] == [value for value in before if value]
    assert len(numbers) > 5


@pytest.mark.parametrize("form", ["Markdown", "LaTeX", "CSV"])
def test_the_summary_is_copied(watched: Watched, form: str) -> None:
    page = watched.page
    page.evaluate(OPEN)
    part = page.locator(".copy").filter(has=page.get_by_role("heading", name=form))
    part.get_by_role("button").click()
    api.expect(part.get_by_role("button")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == part.locator("pre").text_content()
    assert {"Markdown": "| Task | Metric |", "LaTeX": r"\begin{tabular}{ll", "CSV": "task,metric,"}[form] in copied


def shown(page: Any, task: int = 1) -> list[str]:
    documents = page.locator(f"#task-{task} .samples:not(.worst) > .sample:visible .id")
    return [str(text) for text in documents.all_text_contents()]


def test_documents_are_filtered_and_searched(watched: Watched) -> None:
    """The LTM is right on every second question, the baseline on every third."""
    page = watched.page
    page.evaluate(OPEN)
    asked = "#task-1"
    tools = page.locator(f"{asked} .tools")
    assert shown(page) == [str(index) for index in range(8)]
    tools.get_by_role("button", name="First model right, another wrong").click()
    assert shown(page) == ["2", "4"]
    api.expect(tools.locator("output")).to_have_text("2 of 2 found shown")
    tools.get_by_role("button", name="First model wrong, another right").click()
    assert shown(page) == ["3"]
    tools.get_by_role("button", name="All wrong").click()
    assert shown(page) == ["1", "5", "7"]
    tools.get_by_role("searchbox").fill("HAS 5 pears")
    assert shown(page) == ["5"]
    tools.get_by_role("button", name="All", exact=True).click()
    tools.get_by_role("searchbox").fill("")
    assert len(shown(page)) == 8
    tools.get_by_role("button", name="Open all").click()
    assert page.locator(f"{asked} .sample[open]").count() == 8
    tools.get_by_role("button", name="Close all").click()
    assert page.locator(f"{asked} .sample[open]").count() == 0


def test_scored_documents_are_put_in_order_of_their_difference(watched: Watched) -> None:
    page = watched.page
    gaps = "Array.from(document.querySelectorAll('#task-2 [data-gap]')).map((one) => Math.abs(Number(one.dataset.gap)))"
    before = page.evaluate(gaps)
    page.evaluate(OPEN)
    order = page.locator("#task-2").get_by_role("button", name="Largest difference first")
    order.click()
    assert page.evaluate(gaps) == sorted(before, reverse=True) != before
    order.click()
    assert page.evaluate(gaps) == before


def test_marked_tokens_tell_their_cost_with_and_without_colour(watched: Watched) -> None:
    """Each level has a ground of its own in both themes, and a line whose kind and width tell the same."""
    page = watched.page
    looks = """() => Array.from(document.querySelectorAll(".key mark")).map((one) => {
        const style = getComputedStyle(one);
        return [one.className, style.backgroundColor, style.borderBottomStyle, style.borderBottomWidth];
    })"""
    page.emulate_media(color_scheme="light")
    light = page.evaluate(looks)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(looks)
    kinds = {tuple(one[:2]) for one in light}
    assert {one[0] for one in light} == {f"{side}{level}" for side in "lmn" for level in (1, 2, 3)}
    assert len({one[1] for one in light}) == len(kinds) == 9
    assert not {one[1] for one in light} & {one[1] for one in dark}
    for shown in (light, dark):
        lines = {one[0]: (one[2], one[3]) for one in shown}
        assert lines["l2"] == ("dotted", "2px") and lines["m3"] == ("solid", "3px") and lines["n1"] == ("solid", "1px")
    page.evaluate(OPEN)
    page.locator("#task-2-doc-0 > summary").click()
    text = page.locator("#task-2-doc-0 pre.tokens")
    assert text.text_content() == "Text 0 of pears."
    assert text.locator("mark").evaluate_all("all => all.map((one) => [one.textContent, one.title])") == [
        ["Text 0", "−2.5"],
        [" pears.", "+4.0"],
    ]
    api.expect(page.locator("#task-2-doc-0 .largest tbody tr").first).to_contain_text("“ pears.”7.003.00+4.0")
    assert page.locator("#task-2-doc-7 mark").count() == 0


def test_a_permalink_opens_its_document(browser: Any, path: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{path.as_uri()}#task-1-doc-5")
    assert page.locator("#task-1-doc-5").get_attribute("open") is not None
    assert page.evaluate("document.getElementById('task-1-doc-5').getBoundingClientRect().top") < 900
    page.evaluate("location.hash = '#source-1'")
    api.expect(page.locator("#sources")).to_have_attribute("open", "")
    page.close()


def test_paper_shows_what_is_folded(watched: Watched) -> None:
    page = watched.page
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details.fold:not([open]):not(.sample *)").count() == 0
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details.fold:not([open])").count() > 3
    assert page.pdf().startswith(b"%PDF")


# Whatever the reader has


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_no_accessibility_problem_and_no_sideways_scrolling(
    browser: Any, path: Path, theme: str, width: int, height: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme, bypass_csp=True)
    page = context.new_page()
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width >= DESKTOP:
        wider = "(one) => one.scrollWidth > one.clientWidth + 1"
        regions = f"Array.from(document.querySelectorAll('.scroll')).filter({wider})"
        assert page.evaluate(f"{regions}.map((one) => one.getAttribute('aria-label'))") == []
    page.evaluate((Path(str(axe_playwright_python.__file__)).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    serious = [
        (one["id"], one["help"], [node["html"][:120] for node in one["nodes"]][:3])
        for one in found["violations"]
        if one["impact"] in {"serious", "critical"}
    ]
    assert serious == []
    assert len(found["passes"]) > 20
    context.close()


def test_the_page_is_complete_without_script(browser: Any, path: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 900})
    watched = Watched(context.new_page(), path)
    page = watched.page
    text = page.content().replace("&nbsp;", " ")
    for words in ("≤", ">50.0 %<", "Published, not re-run", "Time and memory"):
        assert words in text
    assert page.locator("#theme:visible, .tools:visible, button:visible").count() == 0
    for summary in ("#task-1", "#samples-1"):
        page.locator(f"details:has(> {summary}) > summary").click()
    page.locator("#task-1-doc-3 > summary").click()
    api.expect(page.locator("#task-1-doc-3 .extracted").first).to_be_visible()
    api.expect(page.locator("#task-1-doc-3 mark").first).to_be_visible()
    assert page.locator(".findings svg:visible").count() >= 4
    watched.assert_quiet()
    context.close()


# Hostile text


def structure(browser: Any, path: Path) -> tuple[list[str], list[str]]:
    context = browser.new_context()
    watched = Watched(context.new_page(), path)
    watched.page.evaluate("document.querySelectorAll('summary, button').forEach((one) => one.click())")
    found = watched.page.evaluate(STRUCTURE), watched.page.evaluate(DRAWN)
    watched.assert_quiet()
    context.close()
    return found


@pytest.fixture(scope="module")
def harmless(browser: Any, path: Path) -> tuple[list[str], list[str]]:
    return structure(browser, path)


def test_a_strangers_text_stands_in_many_places(browser: Any, path: Path) -> None:
    page = browser.new_page()
    page.goto(path.as_uri())
    assert len(page.evaluate(HOLDERS, "pears")) >= PLACES
    page.close()


@pytest.mark.parametrize("group", range(len(GROUPS)))
def test_hostile_text_is_inert_in_every_place(
    browser: Any, harmless: tuple[list[str], list[str]], tmp_path: Path, group: int
) -> None:
    """What the browser makes of the page is what it makes of the page of a harmless word."""
    elements, drawn = structure(browser, written(tmp_path, " ".join(GROUPS[group])))
    assert elements == harmless[0]
    assert drawn == harmless[1]


def test_hostile_text_is_inert_without_script_too(browser: Any, path: Path, tmp_path: Path) -> None:
    """Without the page's script nothing of a `noscript` or `template` may come alive either."""
    context = browser.new_context(java_script_enabled=False)
    counts = []
    for one in (path, written(tmp_path, " ".join(GROUPS[1]))):
        watched = Watched(context.new_page(), one)
        counts.append([watched.page.locator(tag).count() for tag in ("*:not(svg *)", "script", "img", "style", "a")])
        watched.assert_quiet()
    assert counts[0] == counts[1]
    context.close()


def test_the_groups_hold_fifty_strings() -> None:
    assert sum(map(len, GROUPS)) >= 50
    assert json.loads(json.dumps([list(group) for group in GROUPS])) == [list(group) for group in GROUPS]
