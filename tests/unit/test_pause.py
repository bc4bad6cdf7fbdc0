"""Pause points hold whoever an order names, nobody else, and nobody at all outside a fault test."""

from __future__ import annotations

import ast
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import pause
from app.pause import Point
from app.settings import Settings, SettingsError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    pause.use(tmp_path)
    yield tmp_path
    pause.use(None)


def passing(point: Point, batch: str = "") -> threading.Thread:
    thread = threading.Thread(target=pause.at, args=(point, batch), daemon=True)
    thread.start()
    return thread


def test_an_order_holds_the_first_to_come_by_until_it_is_let_go(folder: Path) -> None:
    (folder / "copying").touch()
    thread = passing(Point.COPYING)
    held = folder / f"copying.{os.getpid()}"
    deadline = time.monotonic() + 30
    while not held.exists():
        assert time.monotonic() < deadline
    assert thread.is_alive()
    assert not (folder / "copying").exists()
    pause.at(Point.COPYING)
    held.unlink()
    thread.join(5)
    assert not thread.is_alive()


def test_an_order_for_one_batch_lets_all_others_pass(folder: Path) -> None:
    (folder / "claimed@one").touch()
    pause.at(Point.CLAIMED, "another")
    pause.at(Point.CHECKING, "one")
    assert (folder / "claimed@one").exists()


def test_without_a_folder_nothing_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pause.use(None)
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("looked for an order"))
    pause.at(Point.COPYING)
    assert list(tmp_path.iterdir()) == []


def test_production_refuses_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGONFLY_PAUSE_FOLDER", str(tmp_path))
    monkeypatch.setenv("DRAGONFLY_HOME", str(tmp_path))
    assert Settings.load(env="dev").pause_folder == tmp_path
    with pytest.raises(SettingsError, match="DRAGONFLY_PAUSE_FOLDER is for fault tests"):
        Settings.load(env="prod")


def test_each_point_stands_at_one_place() -> None:
    places = [
        node.args[0].attr
        for package in ("app", "tasks")
        for path in (REPOSITORY / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "pause.at"
        and isinstance(node.args[0], ast.Attribute)
    ]
    assert sorted(places) == sorted(point.name for point in Point)
