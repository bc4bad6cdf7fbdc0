"""The Intake Station, from the drop to the verdict, as a person uses it."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from app.errors import CATALOGUE
from tests.acceptance.pipeline import Pipeline
from tests.browser.conftest import MOST_BYTES, Picture, card, drop, sign_in
from tests.factories import FILE_HEADERS, clean_file, csv_bytes, file_with_errors

UPLOAD = "**/api/v1/intake/upload"
_starts = itertools.count(10_000_000, 1_000_000)


def fresh(rows: int, invalid: int = 0) -> bytes:
    """A file whose case numbers no other file has."""
    start = next(_starts)
    return file_with_errors(rows, invalid, seed=start, start=start) if invalid else clean_file(rows, start, start)


def test_a_clean_file_is_complete(page: Page, picture: Picture) -> None:
    picture(page, "station-idle")
    drop(page, ("clean.csv", fresh(5000)))
    own = card(page, "clean.csv")
    expect(own).to_contain_text("Batch Complete. 5,000 Rows Ingested.")
    expect(own).to_have_attribute("data-phase", "success")
    for figure in ("Parse Time", "DB Time", "Throughput"):
        expect(own.get_by_text(figure, exact=True)).to_be_visible()
    expect(own).to_contain_text(re.compile(r"[\d,]+ rows/s"))
    expect(page.get_by_role("status").filter(has_text="clean.csv: Batch Complete.")).to_have_count(1)
    picture(page, "station-success")


def test_a_file_with_errors_is_complete_with_warnings_and_lists_them(page: Page, picture: Picture) -> None:
    drop(page, ("partial.csv", fresh(5000, 50)))
    own = card(page, "partial.csv")
    expect(own).to_contain_text("Batch Complete with Warnings. 4,950 Ingested, 50 Errors.")
    expect(own).to_have_attribute("data-phase", "partial")
    first = own.locator(".first-errors li")
    expect(first).to_have_count(5)
    expect(first.filter(has_text="INVALID_AMOUNT").locator("mark")).to_have_text("12.")
    picture(page, "station-partial")
    own.get_by_role("button", name="Show all 50 errors").click()
    table = own.get_by_role("table", name="Refused rows")
    expect(table).to_have_attribute("aria-rowcount", "51")
    expect(table.get_by_role("columnheader")).to_have_text(["Row", "Line", "Code", "What is wrong", *FILE_HEADERS])
    amount = table.get_by_role("row").filter(has_text="INVALID_AMOUNT").first
    expect(amount.locator(".bad")).to_have_text(re.compile(r"at fault: 12\.$"))
    amount.click()
    expect(own.get_by_role("region", name=re.compile("^Row "))).to_contain_text("expected an amount in US dollars")
    picture(page, "station-errors")


def test_cells_under_padded_repeated_and_empty_headers_are_shown_and_marked(page: Page) -> None:
    rows = "\n".join(
        f"PAD-{number},Ada Marlow,12.,first-{number},second-{number},third-{number}" for number in range(6)
    )
    content = f" Case Number ,Defendant, Amount ,Note,Note,\n{rows}\n".encode()
    drop(page, ("headers.csv", content))
    own = card(page, "headers.csv")
    own.get_by_role("button", name="Show all 6 errors").click()
    table = own.get_by_role("table", name="Refused rows")
    names = ["Case Number", "Defendant", "Amount", "Note", "Note (2)", "column 6"]
    expect(table.get_by_role("columnheader")).to_have_text(["Row", "Line", "Code", "What is wrong", *names])
    row = table.get_by_role("row").nth(1)
    expect(row.get_by_role("cell").nth(4)).to_have_text("PAD-0")
    expect(row.locator(".bad")).to_have_text(re.compile(r"at fault: 12\.$"))
    for cell, text in ((7, "first-0"), (8, "second-0"), (9, "third-0")):
        expect(row.get_by_role("cell").nth(cell)).to_have_text(text)


def test_a_vendors_own_column_with_the_name_of_a_whole_record_is_a_column(page: Page) -> None:
    rows = [[f"RAW-{number}", "Ada Marlow", "12.", f"theirs-{number}"] for number in range(6)]
    rows.insert(1, ["RAW-X", "Ada Marlow", "250.00", "theirs-x", "one too many"])
    page.get_by_label("Error budget, %").fill("100")
    drop(page, ("raw.csv", csv_bytes(rows, headers=["Case Number", "Defendant", "Amount", "_raw"])))
    own = card(page, "raw.csv")
    whole = "RAW-X,Ada Marlow,250.00,theirs-x,one too many"
    marks = own.locator(".first-errors li mark")
    expect(marks).to_have_text(["12.", whole, "12.", "12.", "12."])
    own.get_by_role("button", name="Show all 7 errors").click()
    table = own.get_by_role("table", name="Refused rows")
    detail = own.get_by_role("region", name=re.compile("^Row "))
    table.get_by_role("row").nth(1).click()
    expect(table.get_by_role("row").nth(1).get_by_role("cell").nth(7)).to_have_text("theirs-0")
    expect(detail.get_by_role("term")).to_have_text(["Case Number", "Defendant", re.compile("Amount"), "_raw"])
    expect(table.get_by_role("row").nth(2).get_by_role("cell").last).to_contain_text(whole)
    table.get_by_role("row").nth(2).click()
    expect(detail.get_by_role("term")).to_have_text(["The record as it came"])
    expect(detail.get_by_role("definition")).to_have_text([whole])


def test_errors_are_filtered_by_code_and_keep_their_spreadsheet_rows(page: Page, stack: Pipeline) -> None:
    content = fresh(1000, 21)
    drop(page, ("codes.csv", content))
    own = card(page, "codes.csv")
    own.get_by_label("Code", exact=True).select_option("PARSE_ERROR")
    first = own.locator(".first-errors li")
    expect(first).to_have_count(3)
    rows = [int(text.removeprefix("row ").replace(",", "")) for text in own.locator(".row-number").all_inner_texts()]
    lines = content.decode().splitlines()
    assert [lines[row - 1].count(",") for row in rows] == [3, 3, 3]


def test_every_error_is_downloaded_as_the_vendors_own_csv(page: Page) -> None:
    drop(page, ("download.csv", fresh(1000, 50)))
    own = card(page, "download.csv")
    with page.expect_download() as waiting:
        own.get_by_role("link", name="Download All CSV").click()
    text = Path(waiting.value.path()).read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 50
    assert set(FILE_HEADERS) <= rows[0].keys()
    assert "download" in waiting.value.suggested_filename


def test_a_file_above_its_budget_is_rejected_and_can_be_tried_again(page: Page, picture: Picture) -> None:
    drop(page, ("rejected.csv", fresh(1000, 150)))
    own = card(page, "rejected.csv")
    expect(own).to_contain_text("Batch Rejected. Error Rate 15.0% > 10% Budget.")
    expect(own).to_have_attribute("data-phase", "error")
    expect(page.get_by_role("alert").filter(has_text="rejected.csv: Batch Rejected.")).to_have_count(1)
    picture(page, "station-error")
    own.get_by_role("button", name="Try the batch again").click()
    dialog = page.get_by_role("dialog", name="Try the batch again")
    dialog.get_by_label("Error budget, %").fill("20")
    dialog.get_by_role("button", name="Try again").click()
    expect(own).to_contain_text("Batch Complete with Warnings. 850 Ingested, 150 Errors.")


def test_several_files_at_once_each_have_their_own_verdict(page: Page) -> None:
    names = [f"many-{number}.csv" for number in range(6)]
    drop(page, *((name, fresh(200)) for name in names))
    for name in names:
        expect(card(page, name)).to_contain_text("Batch Complete. 200 Rows Ingested.")


def test_files_are_taken_by_dropping_them_too(page: Page) -> None:
    text = fresh(10).decode()
    transfer = page.evaluate_handle(
        "text => { const all = new DataTransfer(); all.items.add(new File([text], 'dropped.csv')); return all; }", text
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event(".drop", event, {"dataTransfer": transfer})
    expect(card(page, "dropped.csv")).to_contain_text("Batch Complete. 10 Rows Ingested.")


def test_a_known_file_is_asked_about_before_a_byte_is_sent(page: Page, stack: Pipeline, picture: Picture) -> None:
    content = fresh(300)
    known = stack.ingest(content, "first.csv")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    drop(page, ("again.csv", content))
    own = card(page, "again.csv")
    expect(own).to_contain_text("already ingested on")
    expect(own).to_contain_text("first.csv")
    expect(own.get_by_role("link", name="View it")).to_have_attribute("href", f"/batches/{known['batch_id']}")
    picture(page, "station-known")
    assert sent == []
    own.get_by_role("button", name="Ingest again").click()
    expect(own).to_contain_text("Batch Complete. 0 Rows Ingested.")
    expect(own).to_contain_text("300 rows with a case number that stands already")
    drop(page, ("once-more.csv", content))
    first = card(page, "once-more.csv").get_by_role("link", name="View it")
    expect(first).to_have_attribute("href", f"/batches/{known['batch_id']}")


def test_the_same_bytes_dropped_twice_at_once_are_ingested_once_and_asked_about(page: Page, picture: Picture) -> None:
    nothing = json.dumps({"items": [], "next_cursor": None})
    page.route("**/api/v1/intake/batches?file_hash=*", lambda route: route.fulfill(body=nothing))
    content = fresh(60)
    drop(page, ("once.csv", content), ("twice.csv", content))
    first, second = card(page, "once.csv"), card(page, "twice.csv")
    expect(page.get_by_role("group", name=re.compile("is known"))).to_contain_text(
        "They were not stored a second time."
    )
    picture(page, "station-known-late")
    asked, ingested = (first, second) if first.get_by_role("group").count() else (second, first)
    expect(ingested).to_contain_text("Batch Complete. 60 Rows Ingested.")
    asked.get_by_role("button", name="Ingest again").click()
    expect(asked).to_contain_text("60 rows with a case number that stands already")


def test_an_upload_tells_how_much_was_sent_and_can_be_cancelled(page: Page, stack: Pipeline, picture: Picture) -> None:
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 400_000},
    )
    content = fresh(30_000)
    drop(page, ("slow.csv", content))
    own = card(page, "slow.csv")
    expect(own).to_have_attribute("data-phase", "uploading")
    bar = own.get_by_role("progressbar", name="Uploaded")
    expect(own).to_contain_text(re.compile(r"\d MB of 3\.0 MB sent|[1-9]\d*\.\d [kM]B of"), timeout=10_000)
    shares = []
    for _ in range(4):
        shares.append(bar.evaluate("each => each.value / each.max"))
        time.sleep(0.4)
    assert shares == sorted(shares)
    assert 0 < shares[-1] < 1
    picture(page, "station-uploading")
    own.get_by_role("button", name="Cancel slow.csv").click()
    expect(own).to_have_count(0)
    assert stack.rows("SELECT count(*) FROM intake.batches WHERE filename = 'slow.csv'") == [(0,)]


def test_what_is_processed_is_told_in_rows_and_can_be_cancelled(page: Page, stack: Pipeline, picture: Picture) -> None:
    drop(page, ("long.csv", fresh(400_000)))
    own = card(page, "long.csv")
    expect(own).to_have_attribute("data-phase", "processing", timeout=30_000)
    expect(own).to_contain_text("rows processed")
    expect(own).to_contain_text("elapsed")
    expect(own).not_to_contain_text("%")
    picture(page, "station-processing")
    own.get_by_role("button", name="Cancel long.csv").click()
    expect(own).to_contain_text(re.compile("Batch Cancelled. Nothing was loaded.|Batch Complete"))


def test_the_batches_are_looked_at_every_two_seconds_and_not_while_the_tab_is_hidden(page: Page) -> None:
    body = {"value": ""}

    def unfinished(route: Route) -> None:
        found = route.fetch()
        batch = {**found.json(), "status": "validating"}
        body["value"] = json.dumps(batch)
        looks.append(time.monotonic())
        route.fulfill(response=found, json=batch)

    looks: list[float] = []
    page.route(re.compile(r"/api/v1/intake/batches/[0-9a-f-]{36}$"), unfinished)
    drop(page, ("polled.csv", fresh(20)))
    expect(card(page, "polled.csv")).to_have_attribute("data-phase", "processing")
    page.wait_for_timeout(6500)
    gaps = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert len(gaps) >= 2
    assert all(1.5 < gap < 3.5 for gap in gaps), gaps
    page.evaluate(
        "() => { Object.defineProperty(document, 'visibilityState', {value: 'hidden', configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange')); }"
    )
    page.wait_for_timeout(500)
    before = len(looks)
    page.wait_for_timeout(5000)
    assert len(looks) == before
    page.unroute_all(behavior="wait")
    page.evaluate(
        "() => { Object.defineProperty(document, 'visibilityState', {value: 'visible', configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange')); }"
    )
    expect(card(page, "polled.csv")).to_contain_text("Batch Complete. 20 Rows Ingested.", timeout=4000)


# What bad input gets.


def refused(page: Page, name: str, kind: str) -> str:
    """The sentence with which the file is refused; its button to try again is there."""
    own = card(page, name)
    own.locator(f"[data-refused='{kind}']").wait_for()
    expect(own).to_have_attribute("data-phase", "error")
    expect(own.locator("[data-refused] button")).to_be_visible()
    expect(page.get_by_role("alert").filter(has_text=name)).to_have_count(1)
    return str(own.locator(".refusal").inner_text())


def test_a_wrong_type_is_said_and_may_be_overruled(page: Page, picture: Picture) -> None:
    drop(page, ("notes.pdf", b"%PDF-1.7 not a table"))
    assert refused(page, "notes.pdf", "type") == "This is not named like a CSV file (.csv, .tsv or .txt)."
    picture(page, "refused-type")
    card(page, "notes.pdf").get_by_role("button", name="Send it as it is").click()
    expect(card(page, "notes.pdf")).to_contain_text("Batch Rejected.")


def test_each_of_several_refused_files_is_announced_and_again_when_it_is_dropped_again(page: Page) -> None:
    said = page.locator(".unseen [role=alert] p")
    drop(page, ("one.pdf", b"x"), ("two.pdf", b"x"), ("three.pdf", b"x"))
    expect(said).to_have_text([re.compile(f"^{name}.pdf: ") for name in ("one", "two", "three")])
    drop(page, ("one.pdf", b"x"))
    expect(said.filter(has_text="one.pdf: ")).to_have_count(2)


def test_files_dropped_under_a_wrong_budget_are_not_taken_and_that_is_said(page: Page) -> None:
    page.get_by_label("Error budget, %").fill("ten")
    drop(page, ("untaken.csv", fresh(10)))
    sentence = "The files were not taken: the error budget must be a whole number from 0 to 100."
    expect(page.locator(".drop")).to_contain_text(sentence)
    expect(page.get_by_role("alert").filter(has_text=sentence)).to_have_count(1)
    expect(card(page, "untaken.csv")).to_have_count(0)
    page.get_by_label("Error budget, %").fill("10")
    expect(page.locator(".drop")).not_to_contain_text(sentence)


def test_an_empty_file_is_said(page: Page, picture: Picture) -> None:
    drop(page, ("empty.csv", b""))
    assert refused(page, "empty.csv", "empty") == "The file is empty: it has 0 bytes."
    picture(page, "refused-empty")


def test_a_file_that_is_too_large_is_said_before_it_is_sent(page: Page, tmp_path: Path, picture: Picture) -> None:
    large = tmp_path / "large.csv"
    with large.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    drop(page, large)
    said = "The file is too large: 60,000,001 bytes is more than the 60,000,000 bytes that the server takes."
    assert refused(page, "large.csv", "too-large") == said
    picture(page, "refused-too-large")


def test_a_file_that_was_changed_after_it_was_chosen_is_said(page: Page, tmp_path: Path) -> None:
    changed = tmp_path / "changed.csv"
    changed.write_bytes(fresh(10))
    page.route("**/api/v1/intake/batches?file_hash=*", lambda route: route.abort())
    drop(page, changed)
    refused(page, "changed.csv", "server-gone")
    page.unroute_all()
    changed.unlink()
    card(page, "changed.csv").get_by_role("button", name="Try again").click()
    assert refused(page, "changed.csv", "unreadable").startswith("The file cannot be read any more")


def test_a_network_that_is_gone_is_said_and_the_file_is_sent_when_it_is_back(page: Page, picture: Picture) -> None:
    page.context.set_offline(True)
    drop(page, ("offline.csv", fresh(40)))
    assert refused(page, "offline.csv", "network-gone") == "The network is gone."
    picture(page, "refused-network-gone")
    page.context.set_offline(False)
    card(page, "offline.csv").get_by_role("button", name="Try again").click()
    expect(card(page, "offline.csv")).to_contain_text("Batch Complete. 40 Rows Ingested.")


def test_a_session_that_has_ended_is_said_and_the_file_is_sent_after_signing_in(
    page: Page, stack: Pipeline, picture: Picture
) -> None:
    page.context.clear_cookies()
    drop(page, ("expired.csv", fresh(30)))
    dialog = page.get_by_role("dialog", name="Your session has ended")
    dialog.wait_for()
    picture(page, "refused-session")
    sign_in(page, stack.key)
    expect(dialog).to_have_count(0)
    assert refused(page, "expired.csv", "session") == "Your session has ended."
    card(page, "expired.csv").get_by_role("button", name="Try again").click()
    expect(card(page, "expired.csv")).to_contain_text("Batch Complete. 30 Rows Ingested.")


def test_an_answer_that_is_not_the_servers_is_said(page: Page) -> None:
    page.route(UPLOAD, lambda route: route.fulfill(body="<p>Sign in to the network</p>", content_type="text/html"))
    drop(page, ("portal.csv", fresh(10)))
    assert refused(page, "portal.csv", "http-200").startswith("The answer was not the server's own")


@pytest.mark.parametrize(
    ("code", "kind", "sentence"),
    [
        ("TOO_MANY_ATTEMPTS", "429", "The server takes no more calls from this address for now."),
        ("BUSY", "503", "The server is busy: it is taking as many files as it can."),
        ("DATABASE_UNAVAILABLE", "503", "The server cannot reach its database just now."),
        ("STORAGE_FULL", "507", "The server's disk is full."),
    ],
)
def test_a_server_that_takes_no_file_now_is_said_and_waited_for(
    page: Page, picture: Picture, code: str, kind: str, sentence: str
) -> None:
    entry = CATALOGUE[code]
    problem = {"code": code, "title": entry.sentence, "status": entry.http_status, "detail": entry.remedy, "type": "x"}

    def refuse(route: Route) -> None:
        route.fulfill(
            status=entry.http_status or 500,
            headers={"Retry-After": "2"},
            content_type="application/problem+json",
            body=json.dumps(problem),
        )

    page.route(UPLOAD, refuse)
    name = f"{code.lower()}.csv"
    drop(page, (name, fresh(25)))
    assert refused(page, name, kind) == sentence
    again = card(page, name).get_by_role("button", name="Try again")
    if kind in ("429", "503"):
        expect(again).to_be_disabled()
    picture(page, f"refused-{code.lower().replace('_', '-')}")
    page.unroute_all()
    expect(again).to_be_enabled(timeout=4000)
    again.click()
    expect(card(page, name)).to_contain_text("Batch Complete. 25 Rows Ingested.")
