"""Whoever looks, and however: axe-core in both themes, the keyboard alone, narrow and wide, without motion."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from app.dashboard.generate import FOLDER
from tests.acceptance.pipeline import Pipeline
from tests.browser.conftest import Picture, card, drop
from tests.factories import file_with_errors

AXE = FOLDER / "node_modules" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
ERRORS = file_with_errors(300, 15, seed=71, start=71_000_000)
THEMES = pytest.mark.parametrize("theme", ["dark", "light"])


@pytest.fixture(scope="module")
def batch_id(stack: Pipeline) -> str:
    """A batch with errors."""
    return str(stack.ingest(ERRORS, "seen.csv")["batch_id"])


def assert_no_violation(page: Page) -> None:
    """Hold what is shown to axe-core's rules."""
    # As a debugger's own script: the page's policy lets no other in.
    page.evaluate(AXE.read_text(encoding="utf-8") + "; undefined")
    found = page.evaluate(
        "rules => axe.run(document, { runOnly: rules, resultTypes: ['violations'] })"
        ".then(result => result.violations.map(each =>"
        " `${each.id}: ${each.nodes.slice(0, 3).map(node => node.html + ' ' + node.failureSummary).join(' | ')}`))",
        RULES,
    )
    assert found == []


def station(page: Page, _: str) -> None:
    page.goto("/")
    page.get_by_role("button", name="Choose files").wait_for()
    drop(
        page,
        ("known.csv", ERRORS),
        ("wrong.pdf", b"x"),
        ("bad.csv", file_with_errors(40, 20, seed=72, start=72_000_000)),
    )
    card(page, "known.csv").get_by_text("already ingested").wait_for()
    card(page, "bad.csv").locator("[data-phase=error], .verdict, .name").first.wait_for()


def batches(page: Page, _: str) -> None:
    page.goto("/batches")
    page.get_by_role("table").wait_for()


def batch(page: Page, batch_id: str) -> None:
    page.goto(f"/batches/{batch_id}")
    page.get_by_role("button", name="Show all 15 errors").click()
    page.get_by_role("table", name="Refused rows").get_by_role("row").nth(2).click()
    page.get_by_role("region", name=re.compile("^Row ")).wait_for()


def judgments(page: Page, batch_id: str) -> None:
    page.goto(f"/judgments?batch_id={batch_id}")
    page.get_by_role("table").wait_for()


def ops(page: Page, _: str) -> None:
    page.goto("/ops")
    expect(page.locator(".uplot")).to_have_count(3)
    page.get_by_text("as a table").first.click()


def keys(page: Page, _: str) -> None:
    page.goto("/batches")
    page.get_by_role("table").wait_for()
    page.keyboard.press("?")
    page.get_by_role("dialog").wait_for()


def docs(page: Page, _: str) -> None:
    page.goto("/api/docs")
    page.get_by_role("heading", name="Codes").wait_for()


PAGES: dict[str, Callable[[Page, str], None]] = {
    "station": station,
    "batches": batches,
    "batch": batch,
    "judgments": judgments,
    "ops": ops,
    "keys": keys,
    "docs": docs,
}
EVERY_PAGE = pytest.mark.parametrize("name", list(PAGES))


@THEMES
@EVERY_PAGE
def test_axe_finds_no_violation(page: Page, batch_id: str, name: str, theme: str, picture: Picture) -> None:
    PAGES[name](page, batch_id)
    assert_no_violation(page)
    picture(page, f"page-{name}", full_page=True)


@THEMES
def test_axe_finds_no_violation_where_one_signs_in(visitor: Page, theme: str) -> None:
    visitor.goto("/")
    visitor.get_by_label("API key").wait_for()
    visitor.get_by_role("button", name="Sign in").click()
    assert_no_violation(visitor)


def test_axe_is_there_and_finds_what_is_wrong(page: Page) -> None:
    page.evaluate("() => document.querySelector('main').append(document.createElement('img'))")
    with pytest.raises(AssertionError, match="image-alt"):
        assert_no_violation(page)


@EVERY_PAGE
@pytest.mark.parametrize("width", [320, 1920])
def test_a_page_fits_its_window(page: Page, batch_id: str, name: str, width: int, picture: Picture) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    PAGES[name](page, batch_id)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    picture(page, f"page-{name}-{width}")


@EVERY_PAGE
def test_every_target_is_24_pixels_or_in_a_line_of_text(page: Page, batch_id: str, name: str) -> None:
    PAGES[name](page, batch_id)
    small = page.evaluate(
        """() => [...document.querySelectorAll('button, select, input, summary, a[href]')]
          .filter(each => each.checkVisibility() && !each.closest('.skip, p:not(.crumbs), [aria-hidden=true]') && each.tabIndex >= 0)
          .map(each => [each.outerHTML.slice(0, 120), each.getBoundingClientRect()])
          .filter(([, box]) => box.width < 24 || box.height < 24)
          .map(([html, box]) => `${html} ${box.width} x ${box.height}`)"""
    )
    assert small == []


def test_nothing_moves_by_itself(page: Page) -> None:
    moving = page.evaluate("() => document.getAnimations().length")
    assert moving == 0


def focused(page: Page) -> str:
    """The text of what has the focus; nothing where the focus is lost."""
    return str(
        page.evaluate(
            "() => document.activeElement === document.body ? ''"
            " : document.activeElement.innerText || document.activeElement.getAttribute('aria-label') || ''"
        )
    )


def tab_to(page: Page, text: str, most: int = 60) -> None:
    """Press Tab until the focus is on what has this text; every stop on the way must be seen."""
    for _ in range(most):
        page.keyboard.press("Tab")
        outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or page.evaluate("() => document.activeElement === document.body"), focused(page)
        if text in focused(page):
            return
    raise AssertionError(f"Tab does not lead to {text}")


def test_from_start_to_finish_with_the_keyboard_alone(visitor: Page, stack: Pipeline, picture: Picture) -> None:
    page = visitor
    # Listened to from the beginning: the browser is told to hand choosers over some time after one asks for them.
    page.on("filechooser", lambda _: None)
    page.goto("/")
    page.get_by_label("API key").wait_for()
    page.keyboard.press("Tab")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(stack.key)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Intake Station").wait_for()
    expect(page.locator("#main")).to_be_focused()
    tab_to(page, "Choose files")
    picture(page, "keyboard-focus")
    with page.expect_file_chooser() as waiting:
        page.keyboard.press("Enter")
    content = file_with_errors(400, 20, seed=73, start=73_000_000)
    waiting.value.set_files([{"name": "keys.csv", "mimeType": "text/csv", "buffer": content}])
    own = card(page, "keys.csv")
    expect(own).to_contain_text("Batch Complete with Warnings. 380 Ingested, 20 Errors.")
    tab_to(page, "Show all 20 errors")
    page.keyboard.press("Enter")
    tab_to_grid = page.get_by_role("region", name="All refused rows")
    tab_to_grid.get_by_role("row").nth(1).wait_for()
    page.keyboard.press("Shift+Tab")
    expect(tab_to_grid).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(own.get_by_role("region", name=re.compile("^Row "))).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("u")
    tab_to(page, "Show the first 5 only")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Remove keys.csv from this list").focus()
    page.keyboard.press("Enter")
    expect(own).to_have_count(0)
    assert page.evaluate("() => document.activeElement !== document.body")


def test_a_dialog_gives_the_focus_back(page: Page, batch_id: str) -> None:
    page.goto("/batches")
    link = page.locator("tbody [data-step]").first
    link.focus()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(link).to_be_focused()


def test_a_dialog_whose_opener_is_gone_leaves_the_focus_on_the_page(page: Page, stack: Pipeline) -> None:
    refused = stack.ingest(file_with_errors(40, 20, seed=74, start=74_000_000), "refused.csv")
    page.goto(f"/batches/{refused['batch_id']}")
    opener = page.get_by_role("button", name="Try the batch again")
    opener.click()
    dialog = page.get_by_role("dialog", name="Try the batch again")
    dialog.get_by_role("button", name="Leave it").click()
    expect(opener).to_be_focused()
    opener.click()
    dialog.get_by_label("Error budget, %").fill("60")
    dialog.get_by_role("button", name="Try again").click()
    expect(dialog).to_have_count(0)
    expect(page.locator("#main")).to_be_focused()


def is_in_view(page: Page, row: int) -> bool:
    """Whether the row of the table of all errors is seen whole, below the table's head."""
    return bool(
        page.evaluate(
            """row => {
              const scroller = document.querySelector('.grid-scroll');
              const box = document.querySelector(`.grid-body [aria-rowindex='${row}']`)?.getBoundingClientRect();
              const head = document.querySelector('.grid-head').getBoundingClientRect();
              const bottom = scroller.getBoundingClientRect().top + scroller.clientTop + scroller.clientHeight;
              return box !== undefined && box.top >= head.bottom - 1 && box.bottom <= bottom + 1;
            }""",
            row,
        )
    )


def test_a_row_that_is_chosen_with_the_keys_stays_in_view(page: Page, stack: Pipeline) -> None:
    batch = stack.ingest(
        file_with_errors(100, 100, seed=75, start=75_000_000), "rows.csv", error_threshold_percent="100"
    )
    page.goto(f"/batches/{batch['batch_id']}")
    page.get_by_role("button", name="Show all 100 errors").click()
    scroller = page.get_by_role("region", name="All refused rows")
    scroller.get_by_role("row").nth(5).wait_for()
    scroller.focus()
    for pressed, row in [("ArrowDown", 2 + step) for step in range(20)] + [
        ("ArrowUp", 20 - step) for step in range(19)
    ]:
        page.keyboard.press(pressed)
        expect(scroller.locator(".chosen")).to_have_attribute("aria-rowindex", str(row))
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert is_in_view(page, row), f"{pressed} to row {row}"


def test_the_focus_stays_where_a_card_or_a_list_changes_under_it(page: Page, batch_id: str) -> None:
    drop(page, ("known.csv", ERRORS), ("sent.pdf", file_with_errors(20, 1, seed=76, start=76_000_000)))
    for name, button in (("known.csv", "Ingest again"), ("sent.pdf", "Send it as it is")):
        own = card(page, name)
        own.get_by_role("button", name=button).focus()
        page.keyboard.press("Enter")
        expect(own).to_be_focused()
    page.goto("/judgments")
    rows, more = page.locator("tbody tr"), page.get_by_role("button", name="Show 50 more")
    more.focus()
    page.keyboard.press("Enter")
    expect(rows).to_have_count(100)
    expect(more).to_be_focused()
    field = page.get_by_role("searchbox", name="Case number")
    field.fill("nowhere")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No judgment is like that")).to_be_visible()
    expect(field).to_be_focused()
    page.goto("/batches?q=nowhere")
    page.get_by_role("link", name="Show all batches").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="seen.csv").first).to_be_visible()
    expect(page.locator("#main")).to_be_focused()
