"""The front end's sources and its build: types, unit tests, size, and what the build does when nothing has changed."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.dashboard import build_hook
from app.dashboard.build_hook import STAMP, build, fingerprint, lay_tools
from app.dashboard.generate import FOLDER, NAMES, TYPES, generate

MOST_SCRIPT_BYTES = 150_000
DIST = FOLDER / "dist"


def node(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = build_hook._wheel() / "bin" / "node"
    return subprocess.run(
        [str(program), *arguments], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=240
    )


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """Built from these sources, with what the tests of the sources need."""
    build(FOLDER)
    lay_tools(FOLDER)


def test_the_generated_types_and_names_are_those_of_the_document(tmp_path: Path) -> None:
    generate(tmp_path)
    for path in (TYPES, NAMES):
        wanted = (tmp_path / path).read_text(encoding="utf-8")
        assert (FOLDER / path).read_text(encoding="utf-8") == wanted, "run: python -m app.dashboard.generate"


def test_the_sources_pass_the_type_check() -> None:
    ran = node("node_modules/typescript/bin/tsc", "--noEmit")
    assert ran.returncode == 0, ran.stdout


def test_the_reducer_and_the_words_pass_their_own_tests() -> None:
    ran = node("--test", "--test-reporter=tap", "src/**/*.test.ts")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    passed = re.search(r"^# pass (\d+)$", ran.stdout, re.MULTILINE)
    assert passed
    assert int(passed[1]) > 30


def test_the_first_load_is_at_most_150_kb_of_script_packed() -> None:
    page = (DIST / "index.html").read_text(encoding="utf-8")
    scripts = set(re.findall(r'(?:src|href)="/(assets/[^"]+\.js)"', page))
    sizes = {name: len(gzip.compress((DIST / name).read_bytes())) for name in scripts}
    assert sizes
    assert sum(sizes.values()) <= MOST_SCRIPT_BYTES, sizes


def test_the_page_holds_no_script_and_no_style_of_its_own() -> None:
    page = (DIST / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|<script(?![^>]*\ssrc=)|\sstyle=|\son[a-z]+=", page)
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)


def test_the_lock_names_no_host_and_every_package_by_its_hash() -> None:
    lock = json.loads((FOLDER / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    assert [name for name, entry in packages.items() if "resolved" in entry] == []
    assert [name for name, entry in packages.items() if "integrity" not in entry] == []


def test_what_was_built_from_these_sources_is_not_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_hook, "npm", lambda *_: pytest.fail("npm was run"))
    assert (DIST / STAMP).read_text(encoding="ascii") == fingerprint(FOLDER)
    assert build(FOLDER) is False


def test_a_changed_source_is_built_again_and_a_changed_test_is_not(tmp_path: Path) -> None:
    copy = tmp_path / "dashboard"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("node_modules", "dist"))
    before = fingerprint(copy)
    (copy / "src" / "station" / "machine.test.ts").write_text("", encoding="utf-8")
    assert fingerprint(copy) == before
    (copy / "src" / "App.tsx").write_text("", encoding="utf-8")
    assert fingerprint(copy) != before


def test_a_build_that_fails_says_why_and_leaves_no_stamp(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{", encoding="utf-8")
    with pytest.raises(RuntimeError, match=r"npm ci[^\n]* ended with"):
        build(tmp_path)
    assert not (tmp_path / "dist" / STAMP).exists()
