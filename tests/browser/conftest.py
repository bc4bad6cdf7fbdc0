"""A whole stack, a real Chromium, and what the tests of the pages do again and again.

Chromium is the one that is installed: Debian's, else the one that CHROMIUM names. Each test takes a picture of the states that
it reaches into ``build/screens`` (or where SCREENS says).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from app.dashboard.build_hook import build, lay_tools
from app.dashboard.generate import FOLDER
from tests.acceptance.pipeline import Pipeline

REPOSITORY = Path(__file__).parents[2]
SCREENS = Path(os.environ.get("SCREENS") or REPOSITORY / "build" / "screens")
MOST_BYTES = 60_000_000
LEASE_SECONDS = 3
WIDE = {"width": 1280, "height": 900}

Picture = Callable[..., None]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A stack with a small limit and a short lease, and the front end of these very sources."""
    build(FOLDER)
    lay_tools(FOLDER)
    settings = {"MAX_UPLOAD_BYTES": str(MOST_BYTES), "LEASE_SECONDS": str(LEASE_SECONDS)}
    running = Pipeline(tmp_path_factory.mktemp("browser") / "home", workers=2, settings=settings)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. Not for the whole session: Playwright keeps an event loop running, which other tests may want."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def theme() -> str:
    """The system's theme; a test parametrises it."""
    return "dark"


@pytest.fixture
def context(browser: Browser, stack: Pipeline, theme: str) -> Iterator[BrowserContext]:
    """A fresh profile at the stack's address."""
    made = browser.new_context(
        base_url=stack.info["web"],
        viewport=WIDE,
        color_scheme=theme,
        timezone_id="America/New_York",
        locale="en-US",
        accept_downloads=True,
    )
    made.set_default_timeout(20_000)
    yield made
    made.close()


@pytest.fixture
def visitor(context: BrowserContext) -> Iterator[Page]:
    """A page on which nobody has signed in; a broken policy or an exception in the page fails the test."""
    page = context.new_page()
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("console", lambda said: broken.append(said.text) if "Content Security Policy" in said.text else None)
    yield page
    assert broken == []


@pytest.fixture
def page(visitor: Page, stack: Pipeline) -> Page:
    """The station, signed in."""
    visitor.goto("/")
    sign_in(visitor, stack.key)
    return visitor


@pytest.fixture
def picture(request: pytest.FixtureRequest, theme: str) -> Picture:
    """Takes a picture under a name; the themes have one each."""
    SCREENS.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str, **options: Any) -> None:
        page.screenshot(path=SCREENS / f"{name}-{theme}.png", **options)

    return take


def sign_in(page: Page, key: str) -> None:
    """Sign in where the form is shown."""
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Sign out").wait_for()


def drop(page: Page, *files: tuple[str, bytes] | Path) -> None:
    """Choose files on the station: names with their bytes, or files on the disk."""
    chooser = page.get_by_label("Files to upload")
    if isinstance(files[0], Path):
        chooser.set_input_files([str(each) for each in files])
        return
    chooser.set_input_files(
        [{"name": each[0], "mimeType": "text/csv", "buffer": each[1]} for each in files if not isinstance(each, Path)]
    )


def card(page: Page, name: str) -> Any:
    """The card of a file."""
    return page.get_by_role("listitem", name=name, exact=True)
