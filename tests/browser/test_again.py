"""What is used a second time does its work again, and nothing of before is kept for longer than it is true."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.acceptance.pipeline import Pipeline
from tests.browser.conftest import card, drop, sign_in
from tests.factories import clean_file, csv_bytes, file_with_errors, judgment_cells

UNTAKEN = "The files were not taken"


def rejected(seed: int) -> bytes:
    """A file above the usual budget, half of whose rows are refused."""
    return file_with_errors(40, 20, seed=seed, start=seed * 1_000_000)


def test_a_file_that_is_chosen_a_second_time_is_asked_about(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "twice.csv"
    file.write_bytes(clean_file(20, seed=101, start=101_000_000))
    drop(page, file)
    own = card(page, "twice.csv")
    expect(own).to_contain_text("Batch Complete. 20 Rows Ingested.")
    drop(page, file)
    expect(own).to_have_count(2)
    expect(own.first).to_contain_text("already ingested on")
    for _ in range(2):
        own.first.get_by_role("button", name=re.compile("^(Cancel|Remove) ")).click()
    expect(own).to_have_count(0)
    drop(page, file)
    expect(own).to_contain_text("already ingested on")


def test_a_file_that_was_corrected_on_the_disk_is_chosen_again_with_the_key(page: Page, tmp_path: Path) -> None:
    page.on("filechooser", lambda _: None)
    page.reload()
    page.get_by_role("button", name="Choose files").wait_for()
    file = tmp_path / "mended.csv"
    file.write_bytes(b"")
    own = card(page, "mended.csv")
    for content, said in (
        (b"", "The file is empty"),
        (clean_file(20, seed=102, start=102_000_000), "Batch Complete. 20 Rows Ingested."),
    ):
        file.write_bytes(content)
        with page.expect_file_chooser() as waiting:
            page.keyboard.press("u")
        waiting.value.set_files(file)
        expect(own.first).to_contain_text(said)
    expect(own).to_have_count(2)


def test_a_file_that_was_not_taken_is_taken_under_the_right_budget_and_that_is_not_said_any_more(
    page: Page, tmp_path: Path
) -> None:
    file = tmp_path / "untaken.csv"
    file.write_bytes(clean_file(20, seed=103, start=103_000_000))
    budget = page.get_by_label("Error budget, %")
    budget.fill("ten")
    drop(page, file)
    expect(page.locator(".drop")).to_contain_text(UNTAKEN)
    budget.fill("10")
    budget.fill("")
    expect(page.locator(".drop")).not_to_contain_text(UNTAKEN)
    budget.fill("20")
    drop(page, file)
    expect(card(page, "untaken.csv")).to_contain_text("Batch Complete. 20 Rows Ingested.")


def test_a_question_about_a_known_file_tells_how_its_batch_stands_now(page: Page, stack: Pipeline) -> None:
    content = clean_file(20, seed=104, start=104_000_000)
    stack.ingest(content, "standing.csv")

    def unfinished(route: Route) -> None:
        found = route.fetch()
        answer = found.json()
        answer["items"][0] |= {"status": "validating", "state_since": "2024-01-31T00:00:00Z"}
        route.fulfill(response=found, json=answer)

    page.route("**/api/v1/intake/batches?file_hash=*", unfinished)
    drop(page, ("known.csv", content))
    own = card(page, "known.csv")
    expect(own).to_contain_text("already ingested on")
    expect(own.get_by_role("group")).to_contain_text("completed")


def test_a_card_follows_its_batch_that_was_tried_again_elsewhere(page: Page, stack: Pipeline) -> None:
    drop(page, ("elsewhere-again.csv", rejected(105)))
    own = card(page, "elsewhere-again.csv")
    expect(own).to_contain_text("Batch Rejected.")
    address = own.get_by_role("link", name="Open the batch").get_attribute("href")
    batch_id = str(address).rpartition("/")[2]
    path = f"/api/v1/intake/batches/{batch_id}/retry"
    stack.http.post(path, json={"error_threshold_percent": 60}).raise_for_status()
    stack.wait(batch_id)
    page.keyboard.press("r")
    expect(own).to_contain_text("Batch Complete with Warnings. 20 Ingested, 20 Errors.")


def test_a_case_number_is_looked_for_again(page: Page, stack: Pipeline) -> None:
    page.goto("/batches")
    page.get_by_role("link", name="Judgments").click()
    page.get_by_role("searchbox", name="Case number").fill("AGAIN-1")
    find = page.get_by_role("button", name="Find")
    find.click()
    expect(page.get_by_text("No judgment is like that")).to_be_visible()
    stack.ingest(csv_bytes([judgment_cells(case_number="AGAIN-1")]), "found-later.csv")
    find.click()
    expect(page.get_by_role("row").filter(has_text="found-later.csv")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("searchbox", name="Case number")).to_have_value("")


def test_a_search_and_a_link_to_the_page_that_is_shown_look_again(page: Page, stack: Pipeline) -> None:
    page.goto("/batches")
    page.get_by_role("searchbox", name="Search").fill("looked-for-again")
    expect(page.get_by_text("No batch is like that.")).to_be_visible()
    stack.ingest(clean_file(20, seed=106, start=106_000_000), "looked-for-again.csv")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="looked-for-again.csv")).to_be_visible()
    link = page.get_by_role("link", name="Batches", exact=True)
    link.click()
    expect(page).to_have_url(re.compile("/batches$"))
    page.get_by_text("shown, newest first").wait_for()
    stack.ingest(clean_file(20, seed=107, start=107_000_000), "came-later.csv")
    link.click()
    expect(page.get_by_role("link", name="came-later.csv")).to_be_visible()


def test_a_link_to_a_part_of_the_page_leads_there_again(page: Page, stack: Pipeline) -> None:
    kept = [judgment_cells(case_number=f"THERE-{number}") for number in range(30)]
    stack.ingest(csv_bytes(kept), "there.csv")
    differing = [{**row, "judgment_amount": "9.99"} for row in kept]
    batch = stack.ingest(csv_bytes(differing), "there-differs.csv")
    page.set_viewport_size({"width": 1280, "height": 400})
    page.goto(f"/batches/{batch['batch_id']}")
    heading = page.get_by_role("heading", name="Duplicates that differ")
    for _ in range(2):
        page.evaluate("window.scrollTo(0, 0)")
        expect(heading).not_to_be_in_viewport()
        page.get_by_role("link", name="differ from what stands").click()
        expect(heading).to_be_in_viewport()


def test_what_was_chosen_on_the_page_of_one_batch_is_not_kept_on_anothers(page: Page, stack: Pipeline) -> None:
    content = rejected(108)
    first = stack.ingest(content, "of-one.csv")
    again = stack.ingest(content, "of-another.csv", force="true")
    page.goto(f"/batches/{again['batch_id']}")
    page.get_by_role("link", name="the first batch made of them").click()
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_have_text(first["filename"])
    code = page.get_by_label("Code", exact=True)
    code.select_option("PARSE_ERROR")
    page.go_back()
    expect(heading).to_have_text(again["filename"])
    expect(code).to_have_value("")
    expect(page.locator(".first-errors li")).to_have_count(5)


def test_a_dialog_that_is_opened_again_holds_nothing_of_before(page: Page, stack: Pipeline) -> None:
    batch = stack.ingest(rejected(109), "opened-again.csv")
    page.goto(f"/batches/{batch['batch_id']}")
    opener, dialog = page.get_by_role("button", name="Try the batch again"), page.get_by_role("dialog")
    opener.click()
    dialog.get_by_label("Error budget, %").fill("much")
    dialog.get_by_role("button", name="Try again").click()
    expect(dialog.get_by_role("alert")).to_contain_text("must be a whole number")
    dialog.get_by_role("button", name="Leave it").click()
    opener.click()
    expect(dialog.get_by_label("Error budget, %")).to_have_value("10")
    expect(dialog.locator(".refusal")).to_have_text("")


FORBIDDEN = """
  for (const name of ["localStorage", "sessionStorage"])
    Object.defineProperty(window, name, { get() { throw new DOMException("forbidden", "SecurityError"); } });
"""


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))


def switch_keys(page: Page, *, on: bool) -> None:
    page.get_by_role("button", name="? Keys").click()
    page.get_by_label("Use these keys").set_checked(on)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_theme_and_the_keys_are_switched_also_where_the_browser_keeps_nothing(
    context: BrowserContext, stack: Pipeline
) -> None:
    context.add_init_script(FORBIDDEN)
    page = context.new_page()
    page.goto("/")
    sign_in(page, stack.key)
    dark = background(page)
    for _ in range(2):
        page.get_by_label("Theme").select_option("light")
        assert background(page) != dark
        page.get_by_label("Theme").select_option("dark")
        assert background(page) == dark
        switch_keys(page, on=False)
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_have_count(0)
        switch_keys(page, on=True)
        page.keyboard.press("?")
        page.get_by_role("dialog").wait_for()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_theme_and_the_keys_are_those_of_every_page_of_the_browser(page: Page) -> None:
    other = page.context.new_page()
    other.goto("/")
    other.get_by_role("button", name="Choose files").wait_for()
    dark = background(page)
    other.get_by_label("Theme").select_option("light")
    switch_keys(other, on=False)
    expect(page.get_by_label("Theme")).to_have_value("light")
    assert background(page) == background(other) != dark
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_nothing_of_whoever_signs_out_is_left_for_the_next_one(page: Page, stack: Pipeline) -> None:
    drop(page, ("theirs.csv", clean_file(20, seed=110, start=110_000_000)))
    expect(card(page, "theirs.csv")).to_contain_text("Batch Complete.")
    page.get_by_role("button", name="Sign out").click()
    made = stack.command("keys", "create", "the next one", "--json")
    assert made.returncode == 0, made.stderr
    sign_in(page, json.loads(made.stdout)["key"])
    page.get_by_role("heading", name="Intake Station").wait_for()
    expect(page.get_by_text("Nothing here yet.")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="theirs.csv")).to_have_count(0)
    page.reload()
    expect(page.get_by_text("Nothing here yet.")).to_be_visible()


def test_a_second_link_is_redeemed_where_the_first_one_was_refused(visitor: Page, stack: Pipeline) -> None:
    links = [stack.command("sign-in").stdout.strip() for _ in range(2)]
    visitor.goto(links[0])
    visitor.get_by_role("heading", name="Intake Station").wait_for()
    visitor.context.clear_cookies()
    visitor.goto("/batches")
    visitor.goto(links[0])
    refusal = visitor.get_by_role("alert").filter(has_text="The link was used before")
    expect(refusal).to_be_visible()
    visitor.goto(links[1])
    expect(visitor.get_by_role("heading", name="Intake Station")).to_be_visible()
    assert "token" not in visitor.url


def test_a_page_tells_who_has_signed_in_on_another_page(page: Page, stack: Pipeline) -> None:
    made = stack.command("keys", "create", "somebody else", "--json")
    assert made.returncode == 0, made.stderr
    other = page.context.new_page()
    other.goto("/")
    other.get_by_role("button", name="Sign out").click()
    sign_in(other, json.loads(made.stdout)["key"])
    drop(page, ("somebodys.csv", clean_file(20, seed=111, start=111_000_000)))
    expect(card(page, "somebodys.csv")).to_contain_text("Batch Complete.")
    sign_out = page.get_by_role("button", name="Sign out")
    expect(sign_out).to_have_attribute("title", "Signed in as somebody else")


def test_the_source_stays_chosen_while_another_page_is_looked_at(page: Page) -> None:
    page.get_by_label("Source").select_option("jbi")
    page.get_by_role("link", name="Batches", exact=True).click()
    page.get_by_role("heading", name="Batches").wait_for()
    page.get_by_role("link", name="Station", exact=True).click()
    expect(page.get_by_label("Source")).to_have_value("jbi")


def test_a_sign_in_link_that_was_cut_off_is_refused_in_words(visitor: Page) -> None:
    visitor.goto("/sign-in#token=abc%")
    expect(visitor.get_by_role("alert")).to_contain_text("The link was used before, or is too old")
    expect(visitor.get_by_label("API key")).to_be_visible()
