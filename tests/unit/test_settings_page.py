"""The page of the settings is what the settings print, the same on every machine."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import Settings, settings_as_markdown

REPOSITORY = Path(__file__).parents[2]


def test_the_documentation_is_what_the_settings_print() -> None:
    page = (REPOSITORY / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_as_markdown(), "run: python -m app.settings > docs/reference/settings.md"


def test_the_module_prints_the_same_whatever_the_environment_holds(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "PORT": "1", "PYTHONPATH": str(REPOSITORY)}
    printed = subprocess.run(
        [sys.executable, "-m", "app.settings"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout == settings_as_markdown()


@pytest.mark.parametrize("entry", dataclasses.fields(Settings), ids=lambda entry: entry.name)
def test_every_setting_has_its_line_with_its_default(entry: dataclasses.Field[object]) -> None:
    (line,) = [line for line in settings_as_markdown().splitlines() if f"`{entry.metadata['variable']}` |" in line]
    _, variable, default, purpose, _ = (cell.strip() for cell in line.split("|"))
    assert variable == f"`{entry.metadata['variable']}`"
    assert default
    assert purpose.startswith(entry.metadata["doc"])
