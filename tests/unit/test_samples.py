"""The samples keep what their README promises; that the pipeline agrees is for the acceptance tests to say."""

import csv
import datetime as dt
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from app.columns import map_headers
from app.errors import FILE_CODES, ROW_CODES
from app.judgment import Judgment, JudgmentSchema
from tests import reference_contract as reference

SAMPLES = Path(__file__).parents[1] / "samples"
EXPECTED: dict[str, dict[str, Any]] = json.loads((SAMPLES / "expected.json").read_text(encoding="utf-8"))
NOT_OF_A_FILE = {"INTEGRITY_ERROR", "CONTROL_TOTAL_MISMATCH", "POISONED"}
TODAY = dt.date(2024, 12, 31)
WELL_FORMED = [
    path for path, expected in EXPECTED.items() if expected["total"] > 0 and "PARSE_ERROR" not in expected["codes"]
]


def rows_of(path: str) -> list[dict[str, str]]:
    """The rows of a well-formed sample as raw cells by field; records of nothing but empty cells left out."""
    text = (SAMPLES / path).read_bytes().decode("utf-8-sig")
    headers, *records = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns = map_headers(headers).columns
    return [{field: record[place] for field, place in columns.items()} for record in records if any(record)]


def test_every_sample_is_expected_to_come_to_something() -> None:
    assert sorted(EXPECTED) == sorted(path.relative_to(SAMPLES).as_posix() for path in SAMPLES.rglob("*.csv"))


def test_there_is_a_sample_of_every_row_code_that_a_file_can_cause() -> None:
    codes = {code for path, expected in EXPECTED.items() if path.startswith("errors/") for code in expected["codes"]}
    assert codes == set(ROW_CODES) - {"INSERT_FAILED"}


def test_there_is_a_sample_of_every_refusal_that_a_file_can_cause() -> None:
    codes = {expected["rejection_code"] for expected in EXPECTED.values()} - {None}
    assert codes == set(FILE_CODES) - NOT_OF_A_FILE


@pytest.mark.parametrize("path", EXPECTED)
def test_the_expected_counts_balance(path: str) -> None:
    expected = EXPECTED[path]
    assert expected["total"] == expected["valid"] + expected["invalid"]
    assert expected["invalid"] == sum(expected["codes"].values())
    assert expected["duplicate"] <= expected["valid"]
    assert (expected["status"] == "failed") == (expected["rejection_code"] is not None)


@pytest.mark.parametrize("path", EXPECTED)
def test_the_readme_says_the_same(path: str) -> None:
    expected = EXPECTED[path]
    lines = (SAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
    row = next(line for line in lines if line.startswith(f"| [{path}]({path}) |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    state = expected["status"] + (f": `{expected['rejection_code']}`" if expected["rejection_code"] else "")
    counts = [str(expected[count]) for count in ("total", "valid", "invalid", "duplicate")]
    codes = ", ".join(f"`{code}`" + (f" {rows}" if rows > 1 else "") for code, rows in expected["codes"].items())
    assert cells[1:7] == [state, *counts, codes]


@pytest.mark.parametrize("path", WELL_FORMED)
def test_the_contract_and_the_reference_find_the_expected_codes(path: str) -> None:
    contract = JudgmentSchema(today=TODAY)
    found: Counter[str] = Counter()
    rows = rows_of(path)
    for cells in rows:
        outcome = contract.check(cells)
        code = None if isinstance(outcome, Judgment) else next(iter(outcome.values())).code
        assert code == reference.first_code(cells, TODAY)
        if code is not None:
            found[code] += 1
    assert (len(rows), found) == (EXPECTED[path]["total"], Counter(EXPECTED[path]["codes"]))


def test_no_case_number_stands_in_two_samples_but_in_the_overlap() -> None:
    places: dict[str, set[str]] = {}
    for path in WELL_FORMED:
        for cells in rows_of(path):
            number = reference.read_text("case_number", cells["case_number"]).value
            if isinstance(number, str):
                places.setdefault(number, set()).add(path)
    shared = [paths for paths in places.values() if len(paths) > 1]
    assert shared == [{"jbi.csv", "overlap/jbi_again.csv"}] * EXPECTED["overlap/jbi_again.csv"]["duplicate"]
