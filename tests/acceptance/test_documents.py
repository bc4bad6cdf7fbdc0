"""The commands of README.md and of the tutorial, run as they stand there, against a running stack."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.pages import REPOSITORY, Block, Shell, blocks_of, checkout_in, environment_of, matches
from tests.acceptance.pipeline import Pipeline

PAGES = ("README.md", "docs/tutorial.md")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    running = Pipeline(tmp_path_factory.mktemp("documents") / "home")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout_in(tmp_path_factory.mktemp("checkout"))


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_do_what_it_says(page: str, stack: Pipeline, checkout: Path, tmp_path: Path) -> None:
    blocks = blocks_of((REPOSITORY / page).read_text(encoding="utf-8"))
    if any("curl " in block.commands for block in blocks) and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    shell = Shell(checkout, environment_of(stack), tmp_path / "stderr")
    try:
        for block in blocks:
            if block.not_run is not None:
                continue
            status, printed, errors = shell.run(block.commands)
            place = f"{page}:{block.line}: {block.commands}printed:\n{printed}\n{errors}"
            assert status == block.exit_status, place
            assert block.shown is None or matches(block.shown, printed), place
            assert block.shown is not None or not printed, f"prints what the page does not show, {place}"
    finally:
        shell.close()


@pytest.mark.parametrize("page", PAGES)
def test_nothing_but_make_up_is_left_out(page: str) -> None:
    blocks = blocks_of((REPOSITORY / page).read_text(encoding="utf-8"))
    assert [block.commands for block in blocks if block.not_run is not None] == ["make up\n"]


def test_ctrl_c_stops_everything_the_database_last(stack: Pipeline) -> None:
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(60) == 0
    assert stack.log.read_text().splitlines()[-1].endswith("postgres stopped")


def test_a_page_is_read_as_its_author_means_it() -> None:
    page = "```sh\na\n```\n\n```text\nout\n```\n<!-- test: exit status 3 -->\n```sh\nb\n```\n```json\n{}\n```\n"
    assert blocks_of(page) == [Block(1, "a\n", shown="out\n"), Block(9, "b\n", exit_status=3)]
    with pytest.raises(AssertionError, match="line 1"):
        blocks_of("<!-- test: skip -->\n```sh\na\n```\n")


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("a\n", "a\n", True),
        ("a\n", "a\nb\n", False),
        ("a ... c\n", "a b c\n", True),
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("a\n...\n", "a\n", True),
        ("...\na\n", "b\n", False),
    ],
)
def test_three_dots_stand_for_what_differs(shown: str, printed: str, expected: bool) -> None:
    assert matches(shown, printed) is expected
