"""The page of the row contract is true: its examples, its header names, its refused characters, its fields."""

import datetime as dt
import re
from pathlib import Path

import pytest

from app.columns import VARIANTS
from app.errors import ROW_CODES
from app.judgment import FIELDS, Judgment, JudgmentSchema
from tests.factories import judgment_cells
from tests.reference_contract import FORBIDDEN_SPANS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "row-contract.md").read_text(encoding="utf-8")
UPLOADED_ON = dt.date(2026, 6, 15)


def tables() -> list[list[list[str]]]:
    """The page's tables as rows of cells, the header first, the line of dashes left out."""
    found = []
    for table in re.findall(r"(?:^\|.*\|\n)+", PAGE, flags=re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        found.append([rows[0], *rows[2:]])
    return found


EXAMPLES = [
    (rows[0][0], row[0].strip("`"), row[-1].strip("`")) for rows in tables() if rows[0][0] in FIELDS for row in rows[1:]
]


def test_there_are_examples_of_case_numbers_amounts_and_dates() -> None:
    assert {field for field, _, _ in EXAMPLES} == {"case_number", "judgment_amount", "judgment_date"}
    assert len(EXAMPLES) > 40


@pytest.mark.parametrize(("field", "cell", "read_as"), EXAMPLES)
def test_an_example_is_read_as_the_page_says(field: str, cell: str, read_as: str) -> None:
    outcome = JudgmentSchema(today=UPLOADED_ON).check(judgment_cells(**{field: cell}))
    found = str(getattr(outcome, field)) if isinstance(outcome, Judgment) else outcome[field].code
    assert found == read_as


def test_the_fields_stand_in_the_order_in_which_faults_are_ranked() -> None:
    rows = next(rows for rows in tables() if rows[0] == ["field", "rule", "codes"])
    assert [row[0] for row in rows[1:]] == list(FIELDS)


def test_every_code_of_a_cell_or_a_record_is_named() -> None:
    assert [code for code in ROW_CODES if f"`{code}`" not in PAGE] == ["INSERT_FAILED"]


def test_the_header_names_are_those_that_are_read() -> None:
    rows = next(rows for rows in tables() if rows[0] == ["field", "other names, best first"])
    assert {row[0]: tuple(row[1].split(", ")) for row in rows[1:]} == VARIANTS


def test_the_refused_characters_are_those_that_are_refused() -> None:
    listed = re.search(r"U\+0000-0008, [0-9A-F, \-]+", PAGE)
    assert listed is not None
    spans = [f"{first:04X}-{last:04X}" if first != last else f"{first:04X}" for first, last in FORBIDDEN_SPANS]
    assert listed[0].removeprefix("U+").split(", ") == spans
