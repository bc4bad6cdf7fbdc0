"""The house rules that tools hold: style, types, imports, and that every test states something."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
TEST_MODULES = sorted((REPOSITORY / "tests").rglob("test_*.py"))


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["lint-imports"],
    ],
    ids=" ".join,
)
def test_the_repository_is_clean(command: list[str]) -> None:
    program = PROGRAMS / command[0]
    # lint-imports imports the packages by name; its script's folder, not the working directory, leads its path.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1"}
    ran = subprocess.run(
        [str(program), *command[1:]], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, f"{' '.join(command)} found:\n{ran.stdout}{ran.stderr}"


def states_something(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a test holds an assert, an expected exception or warning, expect(...).to_..., or calls a helper named assert_..."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            last = called.rpartition(".")[2]
            if called in ("pytest.raises", "pytest.warns", "pytest.fail") or last.startswith("assert_"):
                return True
            if called.startswith("expect(") and last.startswith(("to_", "not_to_")):
                return True
    return False


def silent_tests(source: str) -> list[str]:
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not states_something(node)
    ]


def test_a_test_that_states_nothing_is_seen() -> None:
    assert silent_tests("def test_a():\n    run()\n") == ["test_a"]
    assert silent_tests("def test_a():\n    assert run()\n") == []
    assert silent_tests("def test_a():\n    with pytest.raises(ValueError):\n        run()\n") == []
    assert silent_tests("def test_a():\n    page.assert_ready()\n") == []
    assert silent_tests("def test_a():\n    expect(page.title).to_be_visible()\n") == []
    assert silent_tests("def test_a():\n    expect(page.title)\n") == ["test_a"]


@pytest.mark.parametrize("module", TEST_MODULES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_every_test_states_something(module: Path) -> None:
    assert silent_tests(module.read_text(encoding="utf-8")) == []
