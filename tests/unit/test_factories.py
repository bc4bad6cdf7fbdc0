"""The factories give what they promise, or every test built on them is worth nothing."""

import csv
import datetime as dt
import io
from collections import Counter

import pytest

from app.columns import map_headers
from app.judgment import Judgment, JudgmentSchema
from tests.factories import FAULTS, FILE_HEADERS, clean_file, csv_bytes, file_with_errors, judgment_cells

CONTRACT = JudgmentSchema(today=dt.date(2024, 6, 15))


def codes_of(content: bytes) -> Counter[str | None]:
    """How many rows of the file stand under each code, None for the valid ones."""
    headers, *records = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
    columns = map_headers(headers).columns
    found: Counter[str | None] = Counter()
    for record in records:
        if len(record) != len(headers):
            found["PARSE_ERROR"] += 1
            continue
        outcome = CONTRACT.check({field: record[place] for field, place in columns.items()})
        found[None if isinstance(outcome, Judgment) else next(iter(outcome.values())).code] += 1
    return found


def case_numbers(content: bytes) -> set[str]:
    return {line.partition(",")[0] for line in content.decode().splitlines()[1:]}


def test_judgment_cells_are_valid_and_never_the_same_number_twice() -> None:
    first, second = judgment_cells(), judgment_cells(county="Queens")
    assert isinstance(CONTRACT.check(first), Judgment)
    assert first["case_number"] != second["case_number"]
    assert second["county"] == "Queens"


def test_judgment_cells_of_no_field_are_refused() -> None:
    with pytest.raises(KeyError, match="no field phone"):
        judgment_cells(phone="1")


def test_csv_bytes_quotes_what_needs_it_and_writes_what_it_is_told_to() -> None:
    rows = [{"a": 'x;"y"', "b": "1,2"}, {"b": "line\nend"}, ("too", "many", "cells")]
    assert csv_bytes(rows, headers=("a", "b"), delimiter=";", line_end="\r\n", bom=True) == (
        b'\xef\xbb\xbfa;b\r\n"x;""y""";1,2\r\n;"line\nend"\r\ntoo;many;cells\r\n'
    )


@pytest.mark.parametrize("rows", [0, 1, 2, 997, 2000])
def test_a_clean_file_has_as_many_valid_rows_as_asked_for_each_with_its_own_number(rows: int) -> None:
    content = clean_file(rows, seed=rows)
    assert codes_of(content) == Counter({None: rows} if rows else {})
    assert len(case_numbers(content)) == rows


def test_a_clean_file_is_the_same_for_the_same_arguments_only() -> None:
    assert clean_file(50, seed=1) == clean_file(50, seed=1)
    assert clean_file(50, seed=1) != clean_file(50, seed=2)


def test_clean_files_share_the_case_numbers_of_overlapping_ranges() -> None:
    first, second = case_numbers(clean_file(100, seed=1)), case_numbers(clean_file(100, seed=2, start=50))
    assert len(first & second) == 50


def test_a_clean_file_has_two_columns_of_no_field() -> None:
    assert map_headers(FILE_HEADERS).unmapped == ["Lead ID", "Status"]


@pytest.mark.parametrize("invalid", [0, 1, 14, 200])
def test_a_file_with_errors_has_exactly_as_many_as_asked_for(invalid: int) -> None:
    found = codes_of(file_with_errors(200, invalid, seed=3))
    assert found.total() == 200
    assert found[None] == 200 - invalid


def test_a_file_with_errors_has_every_fault() -> None:
    found = codes_of(file_with_errors(100, 2 * len(FAULTS)))
    assert found == Counter({None: 100 - 2 * len(FAULTS), **dict.fromkeys(FAULTS, 2)})
