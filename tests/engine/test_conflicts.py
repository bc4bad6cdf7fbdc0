"""Duplicates against a reference: of each key the first valid row stands, every other is kept with what differs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from app import intake
from app.batch import State
from app.engine import merge
from app.engine.conflicts import NO_CONFLICTS, Meeting, among
from app.formats import csv
from app.intake import Workshop
from app.judgment import Judgment, JudgmentSchema
from app.rows import VALUE_NAMES, Standing
from tests.conftest import Look, Sender
from tests.engine.reading import checked
from tests.factories import FIELD_HEADERS, csv_bytes

TEXTS = ("", "A", "Ada Marlow", "Inés", "x" * 63, "x" * 64, "x" * 65, "y" * 500, "é" * 250, 'say "no", \\ \U0001f600')
AMOUNTS = ("0", ".5", "7.77", "1,234.50", "999999999999.99")
DATES = ("", "1900-01-01", "2000-01-01", "1/31/2024")

Kept = dict[tuple[UUID, int], tuple[UUID, int, dict[str, list[str | None]]]]


def file_of(chance: random.Random, rows: int, keys: int) -> list[dict[str, str]]:
    """Rows of few keys, whose values are often the same."""
    return [
        {
            "case_number": f"{chance.choice(('k', 'K', 'Ké'))}-{chance.randrange(keys)}"
            + "z" * chance.choice((0, 0, 70)),
            "defendant_name": chance.choice(TEXTS[1:]),
            "judgment_amount": chance.choice(AMOUNTS),
            "judgment_date": chance.choice(DATES),
            **{name: chance.choice(TEXTS) for name in ("plaintiff_name", "court", "county")},
        }
        for _ in range(rows)
    ]


def shown(judgment: Judgment, name: str) -> str | None:
    value = getattr(judgment, name)
    return None if value is None else str(value)


def reference(
    stands: dict[str, tuple[UUID, int, Judgment]], batch_id: UUID, rows: list[dict[str, str]], today: Any
) -> Kept:
    """What is kept of these rows; ``stands`` is brought up to date."""
    schema = JudgmentSchema(today=today)
    kept: Kept = {}
    for index, row in enumerate(rows):
        judgment = schema.check(row)
        assert isinstance(judgment, Judgment)
        first = stands.setdefault(judgment.case_number, (batch_id, index, judgment))
        if first[:2] != (batch_id, index):
            values = {name: [shown(first[2], name), shown(judgment, name)] for name in VALUE_NAMES}
            differing = {name: pair for name, pair in values.items() if pair[0] != pair[1]}
            kept[batch_id, index] = (first[0], first[1], differing)
    return kept


@pytest.mark.parametrize("portion_rows", [16, 300, 20_000])
@pytest.mark.parametrize("keys", [3, 400, 5_000])
def test_conflicts_are_those_of_a_reference(
    workshop: Workshop, send: Sender, look: Look, monkeypatch: pytest.MonkeyPatch, *, portion_rows: int, keys: int
) -> None:
    chance = random.Random(keys * portion_rows)
    key_ranges = merge.key_ranges
    monkeypatch.setattr(csv, "BLOCK_BYTES", 60_000)
    monkeypatch.setattr(merge, "key_ranges", lambda runs, most: key_ranges(runs, most, portion_rows=portion_rows))
    monkeypatch.setattr(merge, "PORTION_ROWS", portion_rows)
    stands: dict[str, tuple[UUID, int, Judgment]] = {}
    kept: Kept = {}
    for rows in (800, 400, 1_000):
        content = file_of(chance, rows, keys)
        batch = send(csv_bytes(content, FIELD_HEADERS))
        assert intake.ingest(workshop, batch.id) is State.COMPLETED
        expected = reference(stands, batch.id, content, batch.today)
        kept |= expected
        found = look.batch(batch.id)
        assert found.row_count_duplicate == len(expected)
        assert found.row_count_conflict == sum(bool(fields) for *_, fields in expected.values())
    rows_found = look.rows(
        "SELECT batch_id, row_index, kept_batch_id, kept_row_index, fields FROM intake.row_conflicts"
    )
    assert {(batch, index): (other, place, fields) for batch, index, other, place, fields in rows_found} == kept
    judgments = look.rows("SELECT case_number, batch_id, row_index FROM public.judgments")
    assert {key: (batch, index) for key, batch, index in judgments} == {key: first[:2] for key, first in stands.items()}


def test_rows_that_meet_nothing_are_no_conflicts(tmp_path: Path) -> None:
    content = csv_bytes([{"case_number": "K-1", "defendant_name": "A", "judgment_amount": "1"}])
    findings = checked(content, tmp_path).findings
    rows = findings.rows.runs[0].part(0, 1)
    meeting = Meeting(rows, Standing(np.empty(0, np.uint8), np.empty(0, np.int64)))
    assert not meeting.stands.any()
    assert meeting.conflicts() is NO_CONFLICTS
    assert among(rows, np.ones(1, np.bool_), None) is NO_CONFLICTS
