"""What goes wrong around a batch: the page is loaded anew, the worker, the broker, the web server or the network is gone."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Page, expect

from tests.acceptance.pipeline import Pipeline
from tests.browser.conftest import Picture, card, drop
from tests.factories import clean_file, file_with_errors

ROWS = 400_000
DONE = "Batch Complete. 400,000 Rows Ingested."
PATIENCE = 90_000
LONGEST_TASK_MS = 100
MANY = 100_000


@pytest.fixture
def large(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that takes a few seconds, with case numbers of its own."""
    number = sum(request.node.name.encode()) * 1_000_000
    path = tmp_path / "large.csv"
    path.write_bytes(clean_file(ROWS, seed=number, start=number))
    return path


def wait_until_read(stack: Pipeline, name: str = "large.csv") -> str:
    """The newest batch of this name, once a worker holds it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = stack.rows(
            "SELECT id::text, status FROM intake.batches WHERE filename = %s ORDER BY created_at DESC LIMIT 1", name
        )
        if found and found[0][1] in ("validating", "inserting") and stack.lease_owner(found[0][0]):
            return str(found[0][0])
        time.sleep(0.05)
    raise AssertionError("no worker took the batch")


def test_a_page_loaded_anew_in_mid_batch_goes_on_with_it(page: Page, stack: Pipeline, large: Path) -> None:
    drop(page, large)
    wait_until_read(stack)
    expect(card(page, "large.csv")).to_have_attribute("data-phase", "processing")
    page.reload()
    expect(card(page, "large.csv")).to_have_attribute("data-phase", re.compile("processing|success"))
    expect(card(page, "large.csv")).to_contain_text(DONE, timeout=PATIENCE)
    page.reload()
    expect(card(page, "large.csv")).to_contain_text(DONE)


def test_a_worker_killed_in_mid_batch_changes_nothing_for_the_page(
    page: Page, stack: Pipeline, large: Path, picture: Picture
) -> None:
    drop(page, large)
    batch_id = wait_until_read(stack)
    owner = stack.lease_owner(batch_id)
    assert owner is not None
    psutil.Process(owner).kill()
    expect(card(page, "large.csv")).to_contain_text("attempt 2", timeout=30_000)
    picture(page, "station-taken-over")
    expect(card(page, "large.csv")).to_contain_text(DONE, timeout=PATIENCE)


def test_a_network_break_is_noted_and_the_batch_gets_its_verdict(
    page: Page, stack: Pipeline, large: Path, picture: Picture
) -> None:
    drop(page, large)
    wait_until_read(stack)
    page.context.set_offline(True)
    note = card(page, "large.csv").locator("[data-note=unseen]")
    expect(note).to_contain_text("The server cannot be reached just now.", timeout=10_000)
    announced = page.get_by_role("status").filter(has_text="large.csv: the server cannot be reached just now.")
    expect(announced).to_have_count(1)
    picture(page, "station-unseen")
    page.context.set_offline(False)
    expect(card(page, "large.csv")).to_contain_text(DONE, timeout=PATIENCE)
    expect(note).to_have_count(0)


def test_a_server_that_hangs_is_noted_too(page: Page) -> None:
    page.route(re.compile(r"/api/v1/intake/batches/[0-9a-f-]{36}$"), lambda _: None)
    drop(page, ("hanging.csv", clean_file(30, seed=7, start=7_500_000)))
    note = card(page, "hanging.csv").locator("[data-note=unseen]")
    expect(note).to_contain_text("The server cannot be reached just now.", timeout=15_000)
    page.unroute_all(behavior="ignoreErrors")
    expect(card(page, "hanging.csv")).to_contain_text("Batch Complete. 30 Rows Ingested.", timeout=PATIENCE)


@pytest.fixture
def hung_broker(stack: Pipeline) -> Iterator[None]:
    (broker, *_) = stack.processes("valkey-server")
    broker.send_signal(signal.SIGSTOP)
    yield
    broker.send_signal(signal.SIGCONT)


def test_files_are_ingested_while_the_broker_is_down(page: Page, hung_broker: None) -> None:
    drop(page, ("brokerless.csv", clean_file(100, seed=3, start=3_000_000)))
    expect(card(page, "brokerless.csv")).to_contain_text("Batch Complete. 100 Rows Ingested.", timeout=PATIENCE)


def test_a_server_that_restarts_is_said_and_the_file_is_sent_when_it_is_back(
    page: Page, stack: Pipeline, picture: Picture
) -> None:
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    throttle = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 200_000}
    network.send("Network.emulateNetworkConditions", throttle)
    drop(page, ("restart.csv", clean_file(20_000, seed=4, start=4_000_000)))
    own = card(page, "restart.csv")
    expect(own).to_have_attribute("data-phase", "uploading")
    for process in stack.processes("gunicorn"):
        if process.is_running():
            os.kill(process.pid, signal.SIGKILL)
    own.locator("[data-refused=server-gone]").wait_for(timeout=30_000)
    expect(own.locator(".refusal")).to_have_text("The server stopped answering: it may be restarting.")
    picture(page, "refused-server-gone")
    network.send("Network.emulateNetworkConditions", {**throttle, "uploadThroughput": -1})
    deadline = time.monotonic() + 60
    while own.get_by_role("button", name="Try again").count() and time.monotonic() < deadline:
        own.get_by_role("button", name="Try again").click()
        page.wait_for_timeout(2000)
    expect(own).to_contain_text("Batch Complete. 20,000 Rows Ingested.", timeout=PATIENCE)


WATCH_TASKS = """
() => {
  window.longest = 0;
  new PerformanceObserver(list => {
    for (const each of list.getEntries()) window.longest = Math.max(window.longest, each.duration);
  }).observe({ type: "longtask", buffered: false });
}
"""


class Tasks:
    """The processor time of each task of the page's main thread, by Chromium's own trace."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._events: list[dict[str, Any]] = []
        self._ended: list[object] = []
        self._protocol = page.context.new_cdp_session(page)
        self._protocol.on("Tracing.dataCollected", lambda data: self._events.extend(data["value"]))
        self._protocol.on("Tracing.tracingComplete", lambda data: self._ended.extend([data]))
        wanted = {"includedCategories": ["toplevel", "disabled-by-default-devtools.timeline"]}
        self._protocol.send("Tracing.start", {"transferMode": "ReportEvents", "traceConfig": wanted})

    def longest_ms(self) -> float:
        """End the trace; the most processor time that one task took."""
        self._protocol.send("Tracing.end")
        while not self._ended:
            self._page.wait_for_timeout(50)
        main = {
            (event["pid"], event["tid"])
            for event in self._events
            if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
        }
        times = [
            event["tdur"] / 1000
            for event in self._events
            if event["name"].endswith("RunTask") and (event["pid"], event["tid"]) in main and "tdur" in event
        ]
        assert times, "the trace holds no task"
        return float(max(times))


def scroll_through(page: Page, address: str) -> tuple[float, float]:
    """Open the errors, scroll by wheel, jump to the last row and back; the longest task in ms: of the clock, of the processor."""
    page.goto(address)
    page.get_by_role("button", name="Show all 100,000 errors").click()
    table = page.get_by_role("table", name="Refused rows")
    expect(table).to_have_attribute("aria-rowcount", str(MANY + 1))
    scroller = page.get_by_role("region", name="All refused rows")
    table.get_by_role("row").nth(10).wait_for()
    page.evaluate(WATCH_TASKS)
    tasks = Tasks(page)
    box = scroller.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    for _ in range(40):
        page.mouse.wheel(0, 1500)
        page.wait_for_timeout(30)
    scroller.focus()
    page.keyboard.press("End")
    expect(table.locator(f"[aria-rowindex='{MANY + 1}']")).to_contain_text("100,001", timeout=PATIENCE)
    for _ in range(20):
        page.mouse.wheel(0, -3000)
        page.wait_for_timeout(30)
    assert page.locator(".grid-body .grid-row").count() < 80
    return float(page.evaluate("() => window.longest")), tasks.longest_ms()


def test_a_hundred_thousand_errors_scroll_without_a_long_task(page: Page, stack: Pipeline, picture: Picture) -> None:
    """By the processor's time: by the clock a busy machine lengthens every task, and says nothing about the page."""
    content = file_with_errors(MANY, MANY, seed=9, start=90_000_000)
    batch = stack.ingest(content, "all-wrong.csv", error_threshold_percent="100")
    assert batch["row_count_invalid"] == MANY
    clock, processor = scroll_through(page, f"/batches/{batch['batch_id']}")
    print(f"longest task {clock:.0f} ms by the clock, {processor:.0f} ms of processor time")
    assert 0 < processor <= LONGEST_TASK_MS
    picture(page, "errors-100000")


def test_a_part_of_the_page_that_cannot_be_loaded_takes_no_file_with_it(
    page: Page, stack: Pipeline, picture: Picture
) -> None:
    stack.ingest(clean_file(20, seed=6, start=6_500_000), "charted.csv")
    drop(page, ("waiting.pdf", b"not a table"))
    card(page, "waiting.pdf").locator("[data-refused=type]").wait_for()
    whole, charts = re.compile("/assets/OpsPage-"), re.compile("/assets/Chart-")
    page.route(whole, lambda route: route.abort())
    page.get_by_role("link", name="Ops").click()
    failed = page.get_by_role("alert").filter(has_text="This part of the page cannot be loaded")
    expect(failed).to_have_count(1)
    picture(page, "part-not-loaded")
    page.unroute(whole)
    page.route(charts, lambda route: route.abort())
    failed.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="Ops")).to_be_visible()
    expect(failed).to_have_count(3)
    page.unroute(charts)
    for _ in range(3):
        failed.first.get_by_role("button", name="Try again").click()
    expect(page.locator(".uplot")).to_have_count(3)
    assert page.locator(".u-over").first.evaluate("each => getComputedStyle(each).position") == "absolute"
    page.get_by_role("link", name="Station").click()
    expect(card(page, "waiting.pdf")).to_be_visible()


def test_a_cancelling_that_fails_is_said_and_may_be_asked_for_again(page: Page, stack: Pipeline, large: Path) -> None:
    page.route("**/cancel", lambda route: route.abort())
    drop(page, large)
    wait_until_read(stack)
    own = card(page, "large.csv")
    cancel = own.get_by_role("button", name="Cancel large.csv")
    cancel.click()
    sentence = "large.csv could not be cancelled: The server does not answer."
    expect(page.get_by_role("alert").filter(has_text=sentence)).to_have_count(1)
    expect(own.locator(".refusal")).to_contain_text(sentence)
    page.unroute_all()
    cancel.click()
    expect(own).to_contain_text(re.compile("Batch Cancelled. Nothing was loaded.|Batch Complete"))
