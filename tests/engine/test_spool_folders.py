"""The folders of attempts at one batch, of which one may have stood still."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from app.engine.spool import Spool


def test_an_attempt_removes_what_earlier_ones_have_left_and_no_later_ones(tmp_path: Path) -> None:
    batch_id, other = str(uuid4()), str(uuid4())
    for name in (f"{batch_id}-1", f"{batch_id}-3", f"{other}-1"):
        (tmp_path / name).mkdir()
    with Spool(tmp_path, batch_id, 2):
        assert {path.name for path in tmp_path.iterdir()} == {f"{batch_id}-2", f"{batch_id}-3", f"{other}-1"}
    assert {path.name for path in tmp_path.iterdir()} == {f"{batch_id}-3", f"{other}-1"}
