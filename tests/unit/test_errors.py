"""The error catalogue: complete, in order, in sentences, and the same as its page in the documentation."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import (
    CATALOGUE,
    FILE_CODES,
    REQUEST_CODES,
    ROW_CODES,
    ErrorCode,
    FileRefusedError,
    catalogue_as_markdown,
)

REPOSITORY = Path(__file__).parents[2]
ENTRIES = list(CATALOGUE.values())


def by_code(entry: ErrorCode) -> str:
    return entry.code


def test_the_row_codes_are_those_of_the_contract_in_the_tables_order() -> None:
    assert ROW_CODES == (
        "PARSE_ERROR",
        "MISSING_CASE_NUMBER",
        "INVALID_CASE_NUMBER",
        "MISSING_DEFENDANT",
        "INVALID_DEFENDANT",
        "MISSING_AMOUNT",
        "INVALID_AMOUNT",
        "INVALID_DATE",
        "FUTURE_DATE",
        "INVALID_TEXT",
        "INSERT_FAILED",
    )


def test_the_file_codes_stand_in_the_order_in_which_they_apply() -> None:
    assert FILE_CODES == (
        "INTEGRITY_ERROR",
        "UNREADABLE_FILE",
        "LIMIT_EXCEEDED",
        "MISSING_COLUMNS",
        "EMPTY_FILE",
        "CONTROL_TOTAL_MISMATCH",
        "ERROR_BUDGET_EXCEEDED",
        "POISONED",
    )


def test_every_status_of_the_api_has_a_code() -> None:
    statuses = {CATALOGUE[code].http_status for code in REQUEST_CODES}
    assert statuses >= {400, 401, 403, 404, 408, 409, 413, 422, 429, 503, 507}


def test_a_code_has_a_status_exactly_when_it_refuses_a_request() -> None:
    assert {entry.code for entry in ENTRIES if entry.http_status is not None} == set(REQUEST_CODES)


def test_every_code_has_one_scope() -> None:
    codes = [*ROW_CODES, *FILE_CODES, *REQUEST_CODES]
    assert sorted(codes) == sorted(CATALOGUE)
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("entry", ENTRIES, ids=by_code)
def test_a_code_is_upper_case_words_joined_by_underscores(entry: ErrorCode) -> None:
    assert entry.code == entry.code.upper()
    assert entry.code.replace("_", "").isalpha()


@pytest.mark.parametrize("entry", ENTRIES, ids=by_code)
def test_sentence_and_remedy_are_sentences(entry: ErrorCode) -> None:
    for text in (entry.sentence, entry.remedy):
        assert text == text.strip()
        assert text[0].isupper() or text[0] == "'"
        assert text.endswith(".")
        assert "\n" not in text
        assert "|" not in text, "would break the table of the documentation"


def test_no_two_codes_say_the_same() -> None:
    sentences = [entry.sentence for entry in ENTRIES]
    assert len(sentences) == len(set(sentences))


def test_a_refused_file_carries_its_code_and_its_reason() -> None:
    refusal = FileRefusedError("EMPTY_FILE", "The file has no data rows.")
    assert (refusal.code, refusal.reason) == ("EMPTY_FILE", "The file has no data rows.")
    assert str(refusal) == "EMPTY_FILE: The file has no data rows."


@pytest.mark.parametrize("code", ["PARSE_ERROR", "NOT_FOUND", "NO_SUCH_CODE"])
def test_a_file_is_refused_with_file_codes_only(code: str) -> None:
    with pytest.raises(ValueError, match=f"{code} is not a file code"):
        FileRefusedError(code, "x")


def test_the_documentation_is_what_the_catalogue_prints() -> None:
    page = (REPOSITORY / "docs" / "reference" / "error-codes.md").read_text(encoding="utf-8")
    assert page == catalogue_as_markdown(), "run: python -m app.errors > docs/reference/error-codes.md"


def test_the_module_prints_the_catalogue() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "app.errors"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert printed.stdout == catalogue_as_markdown()
