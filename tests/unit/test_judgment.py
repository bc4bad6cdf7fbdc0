"""The row contract, sentence by sentence, and against an independent reference of it."""

import datetime as dt
import unicodedata
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.errors import ROW_CODES
from app.judgment import EMPTY_WORDS, FIELDS, REQUIRED, Fault, Judgment, JudgmentSchema, empty_word, excerpt, trim
from tests import reference_contract as reference
from tests.factories import judgment_cells

TODAY = dt.date(2026, 6, 15)
CONTRACT = JudgmentSchema(today=TODAY)
TEXT_FIELDS = ("case_number", "defendant_name", "plaintiff_name", "court", "county")
NAME_FIELDS = ("defendant_name", "plaintiff_name", "court", "county")
OPTIONAL_FIELDS = ("judgment_date", "plaintiff_name", "court", "county")
BLANKS = [chr(code) for code in range(0x3001) if reference.is_blank(chr(code))]
FORBIDDEN = [chr(code) for first, last in reference.FORBIDDEN_SPANS for code in range(first, last + 1)]
EMPTY_CELLS = [
    "",
    " ",
    "\t",
    "\r\n",
    "\u00a0\u3000",
    "NA",
    "na",
    "Na",
    "N/A",
    "n/a",
    "NULL",
    "Null",
    "-",
    "  - ",
    "\tnull\n",
]
MEBIBYTE = 1 << 20
FAULTY_CELLS = {
    "county": "\x00",
    "court": "x" * 501,
    "plaintiff_name": "\u200b",
    "judgment_date": "2030-01-01",
    "judgment_amount": "12.",
    "defendant_name": "",
    "case_number": "x" * 101,
}


def reading(field: str, cell: str) -> reference.Reading:
    """What the contract makes of one cell in an otherwise valid row: a code, or a value."""
    outcome = CONTRACT.check(judgment_cells(**{field: cell}))
    if isinstance(outcome, Judgment):
        return reference.Reading(None, getattr(outcome, field))
    assert list(outcome) == [field]
    return reference.Reading(outcome[field].code, None)


def code(field: str, cell: str) -> str | None:
    return reading(field, cell).code


def value(field: str, cell: str) -> reference.Value:
    found = reading(field, cell)
    assert found.code is None, f"{cell!r} was refused with {found.code}"
    return found.value


class TestTable:
    def test_the_fields_are_ranked_in_the_order_of_the_table(self) -> None:
        assert FIELDS == reference.ORDER

    def test_case_number_defendant_and_amount_are_required(self) -> None:
        assert REQUIRED == ("case_number", "defendant_name", "judgment_amount")

    def test_a_valid_row_becomes_a_judgment_with_every_field_normalised(self) -> None:
        cells = {
            "case_number": " cv-1 \u00a0 x ",
            "plaintiff_name": "Harrow  Lending",
            "defendant_name": "ada o'brack ",
            "judgment_amount": "$1,234.5",
            "judgment_date": "1/31/2024 0:00",
            "court": "n/a",
            "county": "Kings",
        }
        assert CONTRACT.check(cells) == Judgment(
            case_number="CV-1 X",
            plaintiff_name="Harrow  Lending",
            defendant_name="ada o'brack",
            judgment_amount=Decimal("1234.50"),
            judgment_date=dt.date(2024, 1, 31),
            court=None,
            county="Kings",
        )

    @pytest.mark.parametrize("absent", OPTIONAL_FIELDS)
    def test_a_column_that_the_file_does_not_have_is_null(self, absent: str) -> None:
        cells = judgment_cells()
        del cells[absent]
        outcome = CONTRACT.check(cells)
        assert isinstance(outcome, Judgment)
        assert getattr(outcome, absent) is None

    def test_a_cell_of_no_field_is_the_callers_mistake(self) -> None:
        with pytest.raises(KeyError, match="no field phone"):
            CONTRACT.check({**judgment_cells(), "phone": "1"})

    @pytest.mark.parametrize(
        ("cell", "expected"),
        [
            ("cv  1", "CV 1"),
            ("cv\u00a0\u3000 1", "CV 1"),
            ("cv \t\r\n 1", "CV 1"),
            ("\u2003cv 1\u2003", "CV 1"),
            ("straße", "STRASSE"),
            ("İi", "İI"),
            ("ﬁ-1", "FI-1"),
        ],
    )
    def test_a_case_number_is_upper_cased_and_its_inner_blanks_are_collapsed(self, cell: str, expected: str) -> None:
        assert value("case_number", cell) == expected

    def test_a_case_number_is_not_composed_again_after_upper_casing(self) -> None:
        upper = "ǰ".upper()
        assert value("case_number", "ǰ\u0323") == unicodedata.normalize("NFC", "ǰ\u0323").upper()
        assert value("case_number", "ǰ") == upper == "J\u030c"

    @pytest.mark.parametrize(
        ("cell", "expected"),
        [
            ("x" * 100, None),
            ("x" * 101, "INVALID_CASE_NUMBER"),
            ("x" + " " * 300 + "y" * 98, None),
            ("x" + " " * 300 + "y" * 99, "INVALID_CASE_NUMBER"),
            ("ß" * 50, None),
            ("ß" * 51, "INVALID_CASE_NUMBER"),
        ],
    )
    def test_a_case_number_has_at_most_100_characters(self, cell: str, expected: str | None) -> None:
        assert code("case_number", cell) == expected

    def test_a_defendant_has_at_most_500_characters(self) -> None:
        assert code("defendant_name", "x" * 500) is None
        assert code("defendant_name", "x" * 501) == "INVALID_DEFENDANT"

    @pytest.mark.parametrize("field", ["plaintiff_name", "court", "county"])
    def test_an_optional_text_has_at_most_500_characters(self, field: str) -> None:
        assert code(field, "x" * 500) is None
        assert code(field, "x" * 501) == "INVALID_TEXT"

    @pytest.mark.parametrize(
        ("cell", "expected"),
        [
            ("0", None),
            ("0.00", None),
            ("999999999999.99", None),
            ("1000000000000", "INVALID_AMOUNT"),
            ("1,000,000,000,000.00", "INVALID_AMOUNT"),
            ("0001", None),
            ("0" * 40 + "7", None),
        ],
    )
    def test_an_amount_is_at_least_zero_and_below_a_million_million(self, cell: str, expected: str | None) -> None:
        assert code("judgment_amount", cell) == expected

    @pytest.mark.parametrize(
        ("cell", "expected"),
        [
            ("1900-01-01", None),
            ("1899-12-31", "INVALID_DATE"),
            ("0000-01-01", "INVALID_DATE"),
            ("0001-01-01", "INVALID_DATE"),
            ("2026-06-15", None),
            ("2026-06-16", "FUTURE_DATE"),
            ("9999-12-31", "FUTURE_DATE"),
        ],
    )
    def test_a_date_lies_between_1900_and_today(self, cell: str, expected: str | None) -> None:
        assert code("judgment_date", cell) == expected

    def test_today_is_the_day_the_contract_was_given(self) -> None:
        cells = judgment_cells(judgment_date="2024-02-01")
        assert isinstance(JudgmentSchema(today=dt.date(2024, 2, 1)).check(cells), Judgment)
        outcome = JudgmentSchema(today=dt.date(2024, 1, 31)).check(cells)
        assert isinstance(outcome, dict)
        assert outcome["judgment_date"].code == "FUTURE_DATE"


class TestText:
    @pytest.mark.parametrize("field", TEXT_FIELDS)
    def test_every_listed_character_is_refused_with_invalid_text(self, field: str) -> None:
        accepted = [f"U+{ord(char):04X}" for char in FORBIDDEN if code(field, f"a{char}b") != "INVALID_TEXT"]
        assert accepted == []

    def test_no_other_character_is_refused(self) -> None:
        others = [chr(number) for number in (*range(0x3100), *range(0xFB00, 0x10000)) if chr(number) not in FORBIDDEN]
        refused = [f"U+{ord(char):04X}" for char in others if code("court", f"a{char}b") is not None]
        assert refused == []

    @pytest.mark.parametrize("cell", ["\x00", "\ufeff", "\u200b", " \x1f ", "NA\x00", "\u2028-", "\x85"])
    @pytest.mark.parametrize("field", TEXT_FIELDS)
    def test_a_refused_character_counts_before_emptiness_does(self, field: str, cell: str) -> None:
        assert code(field, cell) == "INVALID_TEXT"

    @pytest.mark.parametrize("field", TEXT_FIELDS)
    def test_invalid_text_stands_in_place_of_the_code_for_length(self, field: str) -> None:
        assert code(field, "x" * 600 + "\u200b") == "INVALID_TEXT"

    @pytest.mark.parametrize(
        ("cell", "expected"),
        [
            ("a\tb", "a b"),
            ("a\r\nb", "a b"),
            ("a\t\t\r\n\nb", "a b"),
            ("a \t b", "a   b"),
            ("a\n \nb", "a   b"),
            ("\ta\n", "a"),
        ],
    )
    def test_runs_of_tab_cr_and_lf_become_one_space(self, cell: str, expected: str) -> None:
        assert value("defendant_name", cell) == expected

    @pytest.mark.parametrize(
        ("cell", "expected"), [("Ine\u0301s", "Inés"), ("\u212bngstrom", "Ångstrom"), ("ﬁn", "ﬁn"), ("\u1fef", "`")]
    )
    def test_text_is_in_nfc(self, cell: str, expected: str) -> None:
        assert value("plaintiff_name", cell) == expected

    @pytest.mark.parametrize("blank", BLANKS, ids=lambda blank: f"U+{ord(blank):04X}")
    def test_every_blank_is_trimmed(self, blank: str) -> None:
        assert value("county", f"{blank}{blank}Kings{blank}") == "Kings"

    def test_lengths_are_code_points_after_everything_else(self) -> None:
        assert value("court", "\t " + "e\u0301" * 500 + " \n") == "é" * 500
        assert code("court", "e\u0301" * 501) == "INVALID_TEXT"
        assert value("court", "\U0001f600" * 500) == "\U0001f600" * 500
        assert value("court", "\u03b1\u0313\u0300\u0345" * 500) == "\u1f82" * 500
        assert value("court", "a" + "\r\n" * 600 + "b") == "a b"

    @pytest.mark.parametrize("field", NAME_FIELDS)
    def test_names_keep_their_inner_blanks_and_their_case(self, field: str) -> None:
        assert value(field, "  van  der\u00a0\u00a0Pell  ") == "van  der\u00a0\u00a0Pell"


class TestEmpty:
    @pytest.mark.parametrize("cell", EMPTY_CELLS)
    @pytest.mark.parametrize("field", REQUIRED)
    def test_an_empty_required_cell_is_missing(self, field: str, cell: str) -> None:
        assert code(field, cell) == reference.MISSING[field]

    @pytest.mark.parametrize("cell", EMPTY_CELLS)
    @pytest.mark.parametrize("field", OPTIONAL_FIELDS)
    def test_an_empty_optional_cell_is_null(self, field: str, cell: str) -> None:
        assert value(field, cell) is None

    @pytest.mark.parametrize("cell", ["N A", "NAN", "none", "nil", "--", "\u2013", "#N/A", "N/A.", "0", "\uff2e\uff21"])
    def test_no_other_word_is_empty(self, cell: str) -> None:
        assert value("court", cell) == cell

    def test_the_word_that_was_read_as_empty_can_be_told(self) -> None:
        words = {cell: empty_word(cell) for cell in (" n/a ", "-", "Null", "", " ", "none")}
        assert words == {" n/a ": "N/A", "-": "-", "Null": "NULL", "": None, " ": None, "none": None}

    def test_a_word_for_empty_inside_a_text_is_text(self) -> None:
        assert value("defendant_name", "NA Holdings") == "NA Holdings"
        assert {empty_word(f"{word} x") for word in EMPTY_WORDS} == {None}


class TestAmount:
    @pytest.mark.parametrize(
        ("cell", "expected"),
        [
            ("1234", "1234"),
            ("1234.5", "1234.5"),
            ("1234.50", "1234.5"),
            ("1,234", "1234"),
            ("12,345,678.90", "12345678.9"),
            ("0,123", "123"),
            (".50", "0.5"),
            (".5", "0.5"),
            ("$.50", "0.5"),
            ("$12", "12"),
            ("$ 12", "12"),
            ("USD 12", "12"),
            ("USD12", "12"),
            ("12 USD", "12"),
            ("12USD", "12"),
            ("USD $ 12.00 USD", "12"),
            ("USD$12USD", "12"),
            ("  12  ", "12"),
            ("\u00a0$\u00a012\u00a0USD\u00a0", "12"),
            ("USD \u2003 12", "12"),
        ],
    )
    def test_digits_may_stand_between_usd_and_a_dollar_sign(self, cell: str, expected: str) -> None:
        assert value("judgment_amount", cell) == Decimal(expected)

    @pytest.mark.parametrize("cell", ["7", ".5", "1,000", "999999999999.9"])
    def test_an_amount_has_two_decimals(self, cell: str) -> None:
        amount = value("judgment_amount", cell)
        assert isinstance(amount, Decimal)
        assert amount.as_tuple().exponent == -2

    @pytest.mark.parametrize(
        "cell",
        ["12.", "1.230", "+5", "-5", "(5.00)", "1 234", "1e5", "$", "+", "USD", "$-5", "-$5", "USD USD", "."],
    )
    def test_the_forms_the_contract_names_as_wrong_are_invalid(self, cell: str) -> None:
        assert code("judgment_amount", cell) == "INVALID_AMOUNT"

    @pytest.mark.parametrize(
        "cell", ["1,23", "12,3456", "1234,567", ",123", "1,,234", "1,234,", "1,234,56", "1.234,50"]
    )
    def test_commas_group_by_three(self, cell: str) -> None:
        assert code("judgment_amount", cell) == "INVALID_AMOUNT"

    @pytest.mark.parametrize(
        "cell", ["usd 5", "Usd5", "5 usd", "EUR 5", "£5", "5$", "$USD 5", "US$5", "$$5", "USD USD 5"]
    )
    def test_only_usd_in_upper_case_and_one_dollar_sign_before_the_digits_are_read(self, cell: str) -> None:
        assert code("judgment_amount", cell) == "INVALID_AMOUNT"

    @pytest.mark.parametrize("cell", ["1 .50", "1. 50", "1, 234", "U SD 5", "1\u00a0234", "5 0"])
    def test_blanks_stand_only_between_the_parts(self, cell: str) -> None:
        assert code("judgment_amount", cell) == "INVALID_AMOUNT"

    @pytest.mark.parametrize("cell", ["\u0661\u0662", "\uff11\uff12", "\u0967", "1\u0662", "²", "½", "\U0001d7cf"])
    def test_only_ascii_digits_are_digits(self, cell: str) -> None:
        assert code("judgment_amount", cell) == "INVALID_AMOUNT"

    @pytest.mark.parametrize("control", [*(chr(n) for n in range(32)), "\x7f", "\x80", "\x85", "\x9f"], ids=ascii)
    def test_a_control_character_anywhere_in_an_amount_is_invalid(self, control: str) -> None:
        cells = [f"{control}5", f"5{control}", f"${control}5", f"1{control}5"]
        assert {code("judgment_amount", cell) for cell in cells} == {"INVALID_AMOUNT"}

    @pytest.mark.parametrize("cell", ["\x00", "\x0b", "\x1c", "\x85", "\ufeff", "\u200b"])
    def test_an_amount_of_nothing_but_a_refused_character_is_not_blank(self, cell: str) -> None:
        assert code("judgment_amount", cell) == "INVALID_AMOUNT"


class TestDate:
    @pytest.mark.parametrize("cell", ["2024-02-09", " 2024-02-09 ", "\u00a02024-02-09"])
    def test_the_iso_form_is_read(self, cell: str) -> None:
        assert value("judgment_date", cell) == dt.date(2024, 2, 9)

    @pytest.mark.parametrize(
        "cell", ["20240209", "2024-2-9", "2024-02-9", "2024-2-09", "2024-W06-5", "2024-040", "2024-02", "024-02-09"]
    )
    def test_no_basic_week_or_short_iso_form_is_read(self, cell: str) -> None:
        assert code("judgment_date", cell) == "INVALID_DATE"

    @pytest.mark.parametrize(
        "cell",
        ["2024/2/9", "2024/02/09", "2024/02/9", "2/9/2024", "02/09/2024", "2/09/2024", "2-9-2024", "02-09-2024"],
    )
    def test_year_first_and_month_first_forms_have_one_or_two_digits(self, cell: str) -> None:
        assert value("judgment_date", cell) == dt.date(2024, 2, 9)

    @pytest.mark.parametrize(
        ("cell", "expected"),
        [
            ("2/9/00", dt.date(2000, 2, 9)),
            ("2/9/26", dt.date(2026, 2, 9)),
            ("02/09/27", dt.date(1927, 2, 9)),
            ("2/9/99", dt.date(1999, 2, 9)),
            ("2/29/00", dt.date(2000, 2, 29)),
        ],
    )
    def test_a_two_digit_year_is_of_this_century_up_to_this_year(self, cell: str, expected: dt.date) -> None:
        assert value("judgment_date", cell) == expected

    def test_a_two_digit_year_of_this_year_may_still_lie_ahead(self) -> None:
        assert code("judgment_date", "12/31/26") == "FUTURE_DATE"

    @pytest.mark.parametrize("cell", ["2-9-24", "9-Feb-24", "24-02-09", "24/2/9", "2/9/4", "2/9/024", "2/9/20245"])
    def test_two_digit_years_stand_only_in_the_form_with_slashes(self, cell: str) -> None:
        assert code("judgment_date", cell) == "INVALID_DATE"

    @pytest.mark.parametrize("cell", ["9-Feb-2024", "09-FEB-2024", "9-feb-2024", "09-fEb-2024"])
    def test_an_english_month_is_read_in_any_case(self, cell: str) -> None:
        assert value("judgment_date", cell) == dt.date(2024, 2, 9)

    def test_every_english_month_is_known(self) -> None:
        names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
        assert [value("judgment_date", f"3-{name}-2020") for name in names] == [
            dt.date(2020, month, 3) for month in range(1, 13)
        ]

    @pytest.mark.parametrize(
        "cell",
        ["9-February-2024", "9 Feb 2024", "9/Feb/2024", "9-Fev-2024", "Feb-9-2024", "Feb 9, 2024", "9-F\u00e9b-2024"],
    )
    def test_no_other_form_with_a_month_name_is_read(self, cell: str) -> None:
        assert code("judgment_date", cell) == "INVALID_DATE"

    @pytest.mark.parametrize("written", ["2024-02-09", "2024/2/9", "2/9/2024", "2-9-2024", "2/9/24", "9-Feb-2024"])
    @pytest.mark.parametrize(
        "time",
        [
            " 0:00",
            "T0:00",
            " 23:59:59",
            "T23:59:59.123456789",
            " 1:02 PM",
            " 1:02pm",
            " 1:02:03 am",
            "T10:00Z",
            "T10:00:00 Z",
            "T10:00:00+05:30",
            " 10:00:00.5 -04:00",
            " 1:02 AM Z",
            " 1:02AM+00:00",
        ],
    )
    def test_a_time_may_follow_and_is_dropped(self, written: str, time: str) -> None:
        assert value("judgment_date", written + time) == dt.date(2024, 2, 9)

    def test_the_time_is_dropped_unread(self) -> None:
        assert value("judgment_date", "2024-02-09 99:99:99 PM+99:99") == dt.date(2024, 2, 9)

    @pytest.mark.parametrize(
        "time",
        [
            "  0:00",
            "\u00a00:00",
            "0:00",
            "t0:00",
            "T",
            " 10",
            " 10:0",
            " 100:00",
            " 10:00:0",
            " 10:00:00.",
            " 10:00.5",
            " 10:00  PM",
            " 10:00 P",
            " 10:00 XM",
            " 10:00z",
            " 10:00+0530",
            " 10:00+05",
            " 10:00+5:30",
            " 10:00Z AM",
            " 10:00 UTC",
            " 10:00ZZ",
            " 10:00  Z",
            " \u0661:00",
        ],
    )
    def test_no_other_form_of_time_is_taken(self, time: str) -> None:
        assert code("judgment_date", f"2024-02-09{time}") == "INVALID_DATE"

    @pytest.mark.parametrize("cell", ["31/12/2023", "13/1/2024", "13-01-2024", "31.12.2023", "2024-31-12", "13/1/24"])
    def test_a_day_first_date_is_never_guessed(self, cell: str) -> None:
        assert code("judgment_date", cell) == "INVALID_DATE"

    @pytest.mark.parametrize(
        "cell",
        ["2023-02-29", "1900-02-29", "2024-04-31", "2024-00-10", "2024-01-00", "2024-13-01", "0/1/2024", "31-Jun-2024"],
    )
    def test_a_day_that_the_calendar_does_not_have_is_invalid(self, cell: str) -> None:
        assert code("judgment_date", cell) == "INVALID_DATE"

    @pytest.mark.parametrize("cell", ["2/9-2024", "2-9/2024", "2024/02-09", "2024-02/09", "9-Feb/2024"])
    def test_dashes_and_slashes_do_not_mix(self, cell: str) -> None:
        assert code("judgment_date", cell) == "INVALID_DATE"

    @pytest.mark.parametrize(
        "cell", ["\u0662024-02-09", "2024-02-0\uff19", "\uff12024/2/9", "2024\u201002\u201009", "2024\u201302\u201309"]
    )
    def test_only_ascii_digits_and_dashes_make_a_date(self, cell: str) -> None:
        assert code("judgment_date", cell) == "INVALID_DATE"

    @pytest.mark.parametrize("cell", ["45321", "today", "0", "1706659200", "2024"])
    def test_a_number_is_not_a_date(self, cell: str) -> None:
        assert code("judgment_date", cell) == "INVALID_DATE"

    @pytest.mark.parametrize("control", [*(chr(n) for n in range(32)), "\x7f", "\x80", "\x85", "\x9f"], ids=ascii)
    def test_a_control_character_anywhere_in_a_date_is_invalid(self, control: str) -> None:
        cells = [f"{control}2024-02-09", f"2024-02-09{control}", f"2024-02-09{control}10:00", f"2024{control}02-09"]
        assert {code("judgment_date", cell) for cell in cells} == {"INVALID_DATE"}

    @pytest.mark.parametrize("cell", ["\x00", "\x0b", "\x1c", "\x85", "\ufeff", "\u200b"])
    def test_a_date_of_nothing_but_a_refused_character_is_not_blank(self, cell: str) -> None:
        assert code("judgment_date", cell) == "INVALID_DATE"


class TestSeveralFaults:
    def test_every_fault_is_told_and_the_first_by_the_tables_order_comes_first(self) -> None:
        outcome = CONTRACT.check(FAULTY_CELLS)
        assert isinstance(outcome, dict)
        assert [(field, fault.code) for field, fault in outcome.items()] == [
            ("case_number", "INVALID_CASE_NUMBER"),
            ("defendant_name", "MISSING_DEFENDANT"),
            ("judgment_amount", "INVALID_AMOUNT"),
            ("judgment_date", "FUTURE_DATE"),
            ("plaintiff_name", "INVALID_TEXT"),
            ("court", "INVALID_TEXT"),
            ("county", "INVALID_TEXT"),
        ]

    def test_a_fault_of_a_later_field_does_not_overtake_one_of_an_earlier(self) -> None:
        outcome = CONTRACT.check(judgment_cells(judgment_amount="", judgment_date="x", defendant_name="\x00"))
        assert isinstance(outcome, dict)
        assert next(iter(outcome.values())).code == "INVALID_TEXT"

    def test_every_code_of_the_contract_stands_in_the_catalogue(self) -> None:
        codes = {*reference.MISSING.values(), *reference.INVALID.values(), "FUTURE_DATE"}
        assert codes == set(ROW_CODES) - {"PARSE_ERROR", "INSERT_FAILED"}

    def test_a_message_says_what_was_found_and_what_was_expected(self) -> None:
        outcome = CONTRACT.check(judgment_cells(judgment_amount="12.", court="a\u200bb", county="x" * 600))
        assert outcome == {
            "judgment_amount": Fault(
                "INVALID_AMOUNT",
                'found "12.", expected an amount in US dollars from 0 up to below 1,000,000,000,000, '
                "such as 1234.50 or $1,234.50",
            ),
            "court": Fault(
                "INVALID_TEXT",
                "found the character U+200B at position 2, expected text without control or invisible characters",
            ),
            "county": Fault("INVALID_TEXT", "found 600 characters, expected at most 500"),
        }

    def test_an_excerpt_is_short_and_shows_what_is_invisible(self) -> None:
        assert excerpt("a\x00\t\u200b\x9f\ufeffb") == r'"a\x00\x09\u200b\x9f\ufeffb"'
        assert excerpt("x" * 61) == '"' + "x" * 60 + '..."'


class TestHostileCells:
    """Nothing here may take time that grows with the square of the cell: the timeout is what fails, by hours."""

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize(
        ("field", "cell", "expected"),
        [
            ("judgment_amount", " " * MEBIBYTE + "x", "INVALID_AMOUNT"),
            ("judgment_amount", "USD" + " " * MEBIBYTE + "x", "INVALID_AMOUNT"),
            ("judgment_amount", "USD" + "\u00a0" * MEBIBYTE + "$" + " " * MEBIBYTE + "x", "INVALID_AMOUNT"),
            ("judgment_amount", "5" + " " * MEBIBYTE + "x", "INVALID_AMOUNT"),
            ("judgment_amount", "9" * MEBIBYTE, "INVALID_AMOUNT"),
            ("judgment_amount", "9" * MEBIBYTE + "x", "INVALID_AMOUNT"),
            ("judgment_amount", "0" * MEBIBYTE + "1", None),
            ("judgment_amount", "," * MEBIBYTE, "INVALID_AMOUNT"),
            ("judgment_amount", "1" + ",000" * (MEBIBYTE // 4) + ",", "INVALID_AMOUNT"),
            ("judgment_amount", "0" + ",000" * (MEBIBYTE // 4), None),
            ("judgment_amount", "\x00" * MEBIBYTE, "INVALID_AMOUNT"),
            ("judgment_date", " " * MEBIBYTE + "x", "INVALID_DATE"),
            ("judgment_date", "1" * MEBIBYTE, "INVALID_DATE"),
            ("judgment_date", "1/" * MEBIBYTE, "INVALID_DATE"),
            ("judgment_date", "2024-02-09 0:00:00." + "0" * MEBIBYTE, None),
            ("judgment_date", "2024-02-09 0:00:00." + "0" * MEBIBYTE + "x", "INVALID_DATE"),
            ("case_number", "x" + " " * MEBIBYTE + "y", None),
            ("case_number", "x " * MEBIBYTE, "INVALID_CASE_NUMBER"),
            ("case_number", "a" + "\u0301\u0316" * (MEBIBYTE // 2), "INVALID_CASE_NUMBER"),
            ("defendant_name", "x" + " " * MEBIBYTE + "y", "INVALID_DEFENDANT"),
            ("defendant_name", "x" + "\t" * MEBIBYTE + "y", None),
            ("defendant_name", "\t " * MEBIBYTE + "y", None),
            ("defendant_name", "a" + "\u0301\u0316" * (MEBIBYTE // 2), "INVALID_DEFENDANT"),
            ("court", "\u0316" * MEBIBYTE + "\u0301", "INVALID_TEXT"),
            ("county", " " * MEBIBYTE, None),
            ("county", "x" * MEBIBYTE + "\x00", "INVALID_TEXT"),
        ],
        ids=lambda part: ascii(part[:12]) if isinstance(part, str) else None,
    )
    def test_a_cell_of_a_mebibyte_is_judged_in_linear_time(self, field: str, cell: str, expected: str | None) -> None:
        assert code(field, cell) == expected


blank_runs = st.text(st.sampled_from(BLANKS), max_size=3)
hostile_characters = st.one_of(
    st.sampled_from(BLANKS),
    st.sampled_from(FORBIDDEN),
    st.sampled_from("0123456789,.$-+/:TZ UuSsDdEe()"),
    st.sampled_from(
        "\u0661\uff11\u0967²½\u0301\u0316\u0345\u212bßİıﬁ\u2212\u2010\u066c\uff04\uff0c\U0001f600\u180e\u00a0"
    ),
    st.characters(exclude_categories=["Cs"]),
)


@st.composite
def damaged(draw: st.DrawFn, cells: st.SearchStrategy[str]) -> str:
    """A cell as it is, or with up to two of its characters taken out, replaced or added."""
    cell = draw(cells)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(cell)))
        cell = cell[:place] + draw(st.one_of(st.just(""), hostile_characters)) + cell[place + draw(st.integers(0, 1)) :]
    return cell


def grouped(digits: str) -> str:
    head = len(digits) % 3
    return ",".join(filter(None, [digits[:head], *(digits[at : at + 3] for at in range(head, len(digits), 3))]))


digit_runs = st.one_of(st.text("0123456789", max_size=14), st.integers(0, 2 * 10**12).map(str))
amounts = st.builds(
    "".join,
    st.tuples(
        blank_runs,
        st.sampled_from(["", "", "USD", "usd", "USD USD"]),
        blank_runs,
        st.sampled_from(["", "", "$", "$$", "-", "+"]),
        blank_runs,
        st.one_of(digit_runs, digit_runs.map(grouped)),
        st.sampled_from(["", "", ".", ".5", ".50", ".505", ",50"]),
        blank_runs,
        st.sampled_from(["", "", "USD", "$", "usd"]),
        blank_runs,
    ),
)

calendar_parts = st.one_of(
    st.dates(dt.date(1, 1, 1)).map(lambda day: (day.year, day.month, day.day)),
    st.dates(dt.date(1899, 1, 1), dt.date(2027, 12, 31)).map(lambda day: (day.year, day.month, day.day)),
    st.tuples(st.integers(1890, 2030), st.integers(0, 13), st.integers(0, 32)),
)
date_forms = st.sampled_from(
    [
        "{y:04}-{m:02}-{d:02}",
        "{y:04}{m:02}{d:02}",
        "{y:04}-{m}-{d}",
        "{y:04}/{m}/{d}",
        "{y:04}/{m:02}/{d:02}",
        "{m}/{d}/{y:04}",
        "{m:02}/{d:02}/{y:04}",
        "{m}-{d}-{y:04}",
        "{d}/{m}/{y:04}",
        "{m}/{d}/{yy:02}",
        "{m:02}/{d:02}/{yy:02}",
        "{m}-{d}-{yy:02}",
        "{d}-{name}-{y:04}",
        "{d:02}-{name}-{y:04}",
        "{d}-{name}-{yy:02}",
        "{name} {d}, {y}",
        "{y}",
    ]
)
month_names = st.sampled_from([*reference.MONTHS, *(name.upper() for name in reference.MONTHS), "Mai", "June", "ſep"])


@st.composite
def dates(draw: st.DrawFn) -> str:
    """A date in one of the contract's forms or in one near to them, with or without a time."""
    year, month, day = draw(calendar_parts)
    name = draw(st.one_of(month_names, st.just(reference.MONTHS[month % 12])))
    time = draw(
        st.one_of(
            st.just(""),
            st.builds(
                "".join,
                st.tuples(
                    st.sampled_from([" ", "T", "  ", "t", "\u00a0"]),
                    st.sampled_from(["0:00", "23:59", "7:05:09", "7:05:09.123", "99:99", "7:5", "12"]),
                    st.sampled_from(["", " AM", "pm", " Pm", "  AM", " M"]),
                    st.sampled_from(["", "Z", " Z", "+05:30", " -04:00", "+0530", "z", " EST"]),
                ),
            ),
        )
    )
    written = draw(date_forms).format(y=year, m=month, d=day, yy=year % 100, name=name)
    return draw(blank_runs) + written + time + draw(blank_runs)


text_pieces = st.one_of(
    st.text(max_size=12),
    blank_runs,
    st.sampled_from(sorted(EMPTY_WORDS)).map(str.lower),
    st.text(st.sampled_from("\t\r\n "), max_size=4),
    st.text(
        st.sampled_from("aeiA\u0301\u0316\u0327\u0345\u03b1\u0313\u0300\u1100\u1161\u11a8ßǰİﬁ\u212b\u2000"), max_size=8
    ),
)
texts = st.one_of(
    st.lists(text_pieces, max_size=4).map("".join),
    damaged(st.lists(text_pieces, max_size=4).map("".join)),
    st.sampled_from(["NA", "n/a", "NULL", "-"]).flatmap(lambda word: damaged(st.just(word))),
    # Around the lengths at which text is refused, before and after composition and upper-casing.
    st.builds(
        lambda unit, times, tail: unit * times + tail,
        st.sampled_from(
            ["x", "ß", "e\u0301", "\u03b1\u0313\u0300\u0345", "\U0001f600", "a ", "a\t\n", "\u1100\u1161\u11a8"]
        ),
        st.one_of(st.integers(48, 52), st.integers(98, 102), st.integers(248, 252), st.integers(498, 502)),
        st.text(max_size=3),
    ),
)
thorough = settings(max_examples=600, deadline=None)


class TestAgainstTheReference:
    @thorough
    @given(damaged(amounts))
    @example("USD$0,000,000,000,000,001.5 USD")
    @example("NA\t")
    def test_amounts_agree(self, cell: str) -> None:
        assert reading("judgment_amount", cell) == reference.read_amount(cell)

    @thorough
    @given(damaged(dates()))
    @example("1-Jan-1900T0:00 am-00:00")
    @example("2/29/26")
    @example("-\n")
    def test_dates_agree(self, cell: str) -> None:
        assert reading("judgment_date", cell) == reference.read_date(cell, TODAY)

    @thorough
    @given(st.sampled_from(TEXT_FIELDS), texts)
    def test_texts_agree(self, field: str, cell: str) -> None:
        assert reading(field, cell) == reference.read_text(field, cell)

    @thorough
    @given(st.sampled_from(reference.ORDER), st.text(hostile_characters, max_size=20))
    def test_arbitrary_cells_agree(self, field: str, cell: str) -> None:
        assert reading(field, cell) == reference.read_cell(field, cell, TODAY)

    @settings(max_examples=300, deadline=None)
    @given(
        st.fixed_dictionaries(
            {},
            optional={
                **dict.fromkeys(TEXT_FIELDS, texts),
                "judgment_amount": damaged(amounts),
                "judgment_date": damaged(dates()),
            },
        )
    )
    def test_whole_rows_agree_in_values_faults_and_rank(self, cells: dict[str, str]) -> None:
        outcome = CONTRACT.check(cells)
        expected = reference.read_row(cells, TODAY)
        if isinstance(outcome, Judgment):
            assert {field: reference.Reading(None, getattr(outcome, field)) for field in FIELDS} == expected
        else:
            faults = [(field, found.code) for field, found in expected.items() if found.code is not None]
            assert [(field, fault.code) for field, fault in outcome.items()] == faults
            assert reference.first_code(cells, TODAY) == next(iter(outcome.values())).code

    @pytest.mark.parametrize("field", reference.ORDER)
    def test_every_single_character_agrees(self, field: str) -> None:
        differing = [
            f"U+{number:04X}"
            for number in (*range(0x3100), *range(0xFE00, 0x10000))
            if reading(field, chr(number)) != reference.read_cell(field, chr(number), TODAY)
        ]
        assert differing == []

    def test_a_blank_stays_a_blank_in_nfc_and_nothing_else_becomes_one(self) -> None:
        # What lets the contract trim and collapse before it composes.
        every = (chr(number) for number in range(0x110000) if not 0xD800 <= number <= 0xDFFF)
        changed = [char for char in every if (trim(char) == "") != (trim(unicodedata.normalize("NFC", char)) == "")]
        assert changed == []

    def test_nfc_makes_one_code_point_of_at_most_four(self) -> None:
        # The bound beyond which the contract does not ask for NFC.
        every = (chr(number) for number in range(0x110000) if not 0xD800 <= number <= 0xDFFF)
        assert max(len(unicodedata.normalize("NFD", char)) for char in every) == 4
