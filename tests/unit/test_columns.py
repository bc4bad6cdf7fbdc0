"""The header mapping: every variant of the contract, which column wins, and what is said when one is missing."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.columns import VARIANTS, distinct_keys, map_headers, normalise
from app.errors import FileRefusedError
from app.judgment import FIELDS

REQUIRED_HEADERS = ("case_number", "defendant_name", "judgment_amount")
DOCUMENTED = {
    "case_number": [
        "file number",
        "file #",
        "case no",
        "case #",
        "docket",
        "docket no",
        "docket number",
        "index number",
        "index no",
        "index #",
        "case/index number",
    ],
    "plaintiff_name": ["plaintiff", "creditor", "creditor name", "plf", "plf name"],
    "defendant_name": ["defendant", "debtor", "debtor name", "def", "def name"],
    "judgment_amount": ["amount", "amt", "amount awarded", "total amount", "principal", "judgment amt", "orig amt"],
    "judgment_date": ["date of judgment", "date of entry", "entry date", "filing date"],
    "court": ["court name", "venue"],
    "county": ["county name"],
}
EVERY_VARIANT = [(field, variant) for field, variants in DOCUMENTED.items() for variant in variants]
VENDOR_LAYOUTS = {
    "simplicity": (
        "LeadID,LeadSource,Court,IndexNumber,CaseType,JudgmentDate,JudgmentAmount,Status,County,State,PlaintiffName,"
        "PlaintiffAddress,DefendantName,DefendantAddress,Phone,Email,BestContactMethod,AssignedAgent",
        {
            "case_number": 3,
            "defendant_name": 12,
            "judgment_amount": 6,
            "judgment_date": 5,
            "plaintiff_name": 10,
            "court": 2,
            "county": 8,
        },
    ),
    "no court": (
        "Case Number,Plaintiff,Defendant,Judgment Amount,Filing Date,County",
        {
            "case_number": 0,
            "defendant_name": 2,
            "judgment_amount": 3,
            "judgment_date": 4,
            "plaintiff_name": 1,
            "county": 5,
        },
    ),
    "jbi": (
        "CaseNo,Plaintiff,Defendant,JudgmentAmount,JudgmentDate,Court,County",
        {
            "case_number": 0,
            "defendant_name": 2,
            "judgment_amount": 3,
            "judgment_date": 4,
            "plaintiff_name": 1,
            "court": 5,
            "county": 6,
        },
    ),
    "foil": (
        "\ufeffCaseNumber,DefendantName,PlaintiffName,JudgmentDate,JudgmentAmount,Court,County",
        {
            "case_number": 0,
            "defendant_name": 1,
            "judgment_amount": 4,
            "judgment_date": 3,
            "plaintiff_name": 2,
            "court": 5,
            "county": 6,
        },
    ),
    "file number": (
        "File #,Plaintiff,Defendant,Amount,Entry Date,Court,County",
        {
            "case_number": 0,
            "defendant_name": 2,
            "judgment_amount": 3,
            "judgment_date": 4,
            "plaintiff_name": 1,
            "court": 5,
            "county": 6,
        },
    ),
    "index number": (
        "Case/Index Number,Plaintiff Name,Defendant Name,Judgment Amount,Date of Entry",
        {"case_number": 0, "defendant_name": 2, "judgment_amount": 3, "judgment_date": 4, "plaintiff_name": 1},
    ),
}


def headers_with(field: str, *headers: str) -> list[str]:
    """The given headers for one field, then the required fields' own names for the others."""
    return [*headers, *(name for name in REQUIRED_HEADERS if name != field)]


def test_the_variants_are_the_documented_ones_in_the_documented_order() -> None:
    assert {field: list(variants) for field, variants in VARIANTS.items()} == DOCUMENTED


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_is_found_by_its_own_name(field: str) -> None:
    assert map_headers(headers_with(field, field)).columns[field] == 0


@pytest.mark.parametrize(("field", "variant"), EVERY_VARIANT)
def test_a_field_is_found_by_every_variant(field: str, variant: str) -> None:
    mapping = map_headers(headers_with(field, variant))
    assert mapping.columns[field] == 0
    assert mapping.losers == ()
    assert mapping.unmapped == []


@pytest.mark.parametrize(("layout", "columns"), VENDOR_LAYOUTS.values(), ids=VENDOR_LAYOUTS.keys())
def test_every_vendor_layout_is_mapped(layout: str, columns: dict[str, int]) -> None:
    assert map_headers(layout.split(",")).columns == columns


def test_no_header_stands_for_two_fields() -> None:
    names = [normalise(name) for field in FIELDS for name in (field, *VARIANTS[field])]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "header",
    [
        "DOCKET NUMBER",
        "DocketNumber",
        "docket_number",
        "docket-number",
        "Docket.Number.",
        "  docket   number ",
        "docket\u00a0number",
        "docket\tnumber",
        "docket\r\nnumber",
        "docket\u2013number",
        "docket \u2014 number",
        "_d-o.c k_e-t.n u_mber",
        "\ufeffDocket Number",
    ],
)
def test_case_blanks_dashes_dots_underscores_and_a_byte_order_mark_do_not_matter(header: str) -> None:
    assert map_headers(headers_with("case_number", header)).columns["case_number"] == 0


@pytest.mark.parametrize(
    "header", ["docket numbers", "docket, number", "docket:number", "docketnumber#", "dockét number"]
)
def test_anything_else_matters(header: str) -> None:
    with pytest.raises(FileRefusedError):
        map_headers(headers_with("case_number", header))


@given(st.sampled_from(EVERY_VARIANT), st.lists(st.sampled_from([" ", "-", ".", "_", "\t"]), max_size=40))
def test_any_spelling_of_a_variant_is_normalised_alike(named: tuple[str, str], separators: list[str]) -> None:
    field, variant = named
    letters = [letter.upper() if place % 3 == 0 else letter for place, letter in enumerate(variant)]
    spelled = "".join(itertools.chain(*itertools.zip_longest(separators[: len(letters)], letters, fillvalue="")))
    assert map_headers(headers_with(field, spelled)).columns[field] == 0


@pytest.mark.parametrize("field", FIELDS)
def test_the_own_name_wins_over_every_variant_wherever_it_stands(field: str) -> None:
    headers = headers_with(field, *DOCUMENTED[field], field)
    mapping = map_headers(headers)
    assert mapping.columns[field] == headers.index(field)
    assert list(mapping.losers) == DOCUMENTED[field]


@pytest.mark.parametrize(
    ("field", "better", "worse"),
    [(field, *pair) for field, variants in DOCUMENTED.items() for pair in itertools.pairwise(variants)],
)
def test_an_earlier_variant_wins_over_a_later_one(field: str, better: str, worse: str) -> None:
    mapping = map_headers(headers_with(field, worse, better))
    assert mapping.columns[field] == 1
    assert mapping.losers == (worse,)


def test_of_equal_headers_the_leftmost_wins() -> None:
    mapping = map_headers(["Phone", "Amount", "AMOUNT", "a.mount", "case_number", "defendant_name"])
    assert mapping.columns["judgment_amount"] == 1
    assert mapping.losers == ("AMOUNT", "a.mount")


def test_losers_and_unknown_headers_hold_no_field() -> None:
    mapping = map_headers(["Case No", "Docket", "Defendant", "Amount", "Phone", "State"])
    assert mapping.unmapped == ["Docket", "Phone", "State"]
    assert mapping.losers == ("Docket",)
    assert mapping.headers == ("Case No", "Docket", "Defendant", "Amount", "Phone", "State")


def test_optional_fields_may_be_absent() -> None:
    assert map_headers(REQUIRED_HEADERS).columns == {"case_number": 0, "defendant_name": 1, "judgment_amount": 2}


@pytest.mark.parametrize("absent", REQUIRED_HEADERS)
def test_a_required_column_that_is_missing_refuses_the_file(absent: str) -> None:
    headers = [name for name in REQUIRED_HEADERS if name != absent]
    with pytest.raises(FileRefusedError) as refused:
        map_headers(headers)
    assert refused.value.code == "MISSING_COLUMNS"
    assert refused.value.reason.startswith(f"No column for {absent}. Headers found: ")


def test_the_refusal_names_what_is_missing_and_the_headers_found() -> None:
    with pytest.raises(FileRefusedError) as refused:
        map_headers(["Name", "Amount", "Phone"])
    assert refused.value.reason == (
        'No column for case_number, defendant_name. Headers found: "Name", "Amount", "Phone". '
        "Name the columns as the documentation lists them."
    )


def test_the_refusal_of_a_wide_file_names_every_header() -> None:
    with pytest.raises(FileRefusedError) as refused:
        map_headers([f"h{number}" for number in range(100)])
    assert all(f'"h{number}"' in refused.value.reason for number in range(100))


def test_the_refusal_of_no_headers_says_none() -> None:
    with pytest.raises(FileRefusedError, match="Headers found: none"):
        map_headers([])


def test_the_refusal_shows_no_invisible_characters_and_no_endless_header() -> None:
    with pytest.raises(FileRefusedError) as refused:
        map_headers(["a\x00\u200b", "x" * 1000])
    assert r'"a\x00\u200b"' in refused.value.reason
    assert len(refused.value.reason) < 300


def test_raw_data_has_a_distinct_key_for_every_column() -> None:
    keys = distinct_keys(["Amount", " Amount ", "", "Amount (2)", "", "a\x00b", "Amount"])
    assert keys == ("Amount", "Amount (2)", "column 3", "Amount (2) (2)", "column 5", "a\u2400b", "Amount (3)")


@given(st.lists(st.text(st.sampled_from("aA ()2\x00"), max_size=6), max_size=12))
def test_keys_are_distinct_and_free_of_nul(headers: list[str]) -> None:
    keys = distinct_keys(headers)
    assert len(set(keys)) == len(keys) == len(headers)
    assert not any("\x00" in key or key == "" for key in keys)
