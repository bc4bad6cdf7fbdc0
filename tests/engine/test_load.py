"""From a file to the database on a real server: order, first row wins, duplicates, refused rows, many runs."""

from __future__ import annotations

import io
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app import intake
from app.batch import State
from app.engine import merge
from app.formats import csv
from app.intake import Workshop
from tests.conftest import Look, Sender
from tests.factories import clean_file, csv_bytes, file_with_errors, judgment_cells


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many runs and portions of a small file."""
    monkeypatch.setattr(csv, "BLOCK_BYTES", 4_000)
    key_ranges = merge.key_ranges
    monkeypatch.setattr(merge, "key_ranges", lambda runs, most: key_ranges(runs, most, portion_rows=256))
    monkeypatch.setattr(merge, "PORTION_ROWS", 256)


def stored(look: Look) -> list[tuple[Any, ...]]:
    """The judgments in the order of their ids."""
    return look.rows("SELECT case_number, row_index, line_number FROM public.judgments ORDER BY id")


@pytest.mark.usefixtures("small_blocks")
def test_ids_follow_the_keys_bytes(workshop: Workshop, send: Sender, look: Look) -> None:
    batch = send(file_with_errors(5_000, 150))
    assert intake.ingest(workshop, batch.id) is State.COMPLETED
    rows = stored(look)
    assert len(rows) == 4_850
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert all(line == index + 2 for _, index, line in rows)
    assert look.count("intake.row_errors") == 150
    assert not list(workshop.spool.iterdir())


@pytest.mark.usefixtures("small_blocks")
def test_the_first_row_wins_however_many_runs_there_are(workshop: Workshop, send: Sender, look: Look) -> None:
    cells = [
        judgment_cells(case_number=f"K-{number % 700}", judgment_amount=f"{number}.00", defendant_name=f"N {number}")
        for number in range(3_000)
    ]
    batch = send(csv_bytes(cells))
    assert intake.ingest(workshop, batch.id) is State.COMPLETED
    assert sorted(row[1] for row in stored(look)) == list(range(700))
    conflicts = look.rows("SELECT row_index, kept_row_index, fields FROM intake.row_conflicts ORDER BY row_index")
    assert [(index, kept) for index, kept, _ in conflicts] == [(number, number % 700) for number in range(700, 3_000)]
    assert conflicts[0][2] == {"defendant_name": ["N 0", "N 700"], "judgment_amount": ["0.00", "700.00"]}
    found = look.batch(batch.id)
    assert (found.row_count_inserted, found.row_count_duplicate, found.row_count_conflict) == (700, 2_300, 2_300)


@pytest.mark.usefixtures("small_blocks")
def test_one_key_in_every_row_is_cut_into_portions(workshop: Workshop, send: Sender, look: Look) -> None:
    batch = send(csv_bytes(judgment_cells(case_number="SAME") for _ in range(3_000)))
    assert intake.ingest(workshop, batch.id) is State.COMPLETED
    assert stored(look) == [("SAME", 0, 2)]
    assert look.count("intake.row_conflicts") == 2_999


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("shared", [1, 900, 3_000])
def test_what_stands_already_is_kept_as_duplicate(workshop: Workshop, send: Sender, look: Look, shared: int) -> None:
    first, second = send(clean_file(3_000, seed=1)), send(clean_file(3_000, seed=2, start=3_000 - shared))
    assert intake.ingest(workshop, first.id) is State.COMPLETED
    assert intake.ingest(workshop, second.id) is State.COMPLETED
    found = look.batch(second.id)
    assert (found.row_count_inserted, found.row_count_duplicate) == (3_000 - shared, shared)
    assert look.count("public.judgments") == 6_000 - shared
    assert look.rows(
        "SELECT count(*) FROM intake.row_conflicts c JOIN public.judgments j USING (case_number)"
        " WHERE c.batch_id = :second AND c.kept_batch_id = :first AND j.row_index = c.kept_row_index",
        first=first.id,
        second=second.id,
    ) == [(shared,)]


def test_rows_that_the_database_refuses_cost_only_themselves(workshop: Workshop, send: Sender, look: Look) -> None:
    look.change("ALTER TABLE public.judgments ADD CONSTRAINT no_sevens CHECK (judgment_amount <> 7.77)")
    try:
        cells = [
            judgment_cells(judgment_amount="7.77" if number in (0, 77, 999) else "5.00") for number in range(1_000)
        ]
        content = csv_bytes(cells)
        batch = send(content)
        assert intake.ingest(workshop, batch.id) is State.COMPLETED
    finally:
        look.change("ALTER TABLE public.judgments DROP CONSTRAINT no_sevens")
    lines = content.splitlines(keepends=True)
    assert look.rows(
        "SELECT row_index, line_number, row_number, error_code, raw FROM intake.row_errors ORDER BY row_index"
    ) == [(number, number + 2, number + 2, "INSERT_FAILED", lines[number + 1]) for number in (0, 77, 999)]
    found = look.batch(batch.id)
    assert (found.row_count_valid, found.row_count_inserted, found.row_count_invalid) == (997, 997, 3)
    assert look.rows("SELECT sum(judgment_amount) FROM public.judgments") == [(Decimal("4985.00"),)]


class WritesLittle(io.FileIO):
    """An unbuffered file on a disk that takes a few bytes at a time, as the system may at any moment."""

    def write(self, octets: Any, /) -> int:
        return super().write(memoryview(octets)[:1000])


def test_a_short_write_of_the_spool_loses_nothing(
    workshop: Workshop, send: Sender, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, open_ = [], Path.open

    def open_short(path: Path, mode: str = "r", **how: Any) -> Any:
        if path.name != "rows":
            return open_(path, mode, **how)
        opened.append(WritesLittle(path, mode.replace("b", "")))
        return opened[-1]

    batch = send(clean_file(40_000))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", open_short)
        assert intake.ingest(workshop, batch.id) is State.COMPLETED
    assert len(opened) == 1
    assert look.rows("SELECT count(DISTINCT row_index) FROM public.judgments") == [(40_000,)]


def test_a_full_disk_ends_the_attempt_and_loses_nothing(
    workshop: Workshop, send: Sender, look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    batch = send(clean_file(100))
    with monkeypatch.context() as patched:
        patched.setattr("app.engine.spool.RowSpool.add", full)
        assert intake.ingest(workshop, batch.id) is None
    assert look.batch(batch.id).status is State.UPLOADED
    assert not list(workshop.spool.iterdir())
    look.change("UPDATE intake.batches SET not_before = NULL")
    assert intake.ingest(workshop, batch.id) is State.COMPLETED
