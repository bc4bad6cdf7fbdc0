"""The row contract a second time, read off INTERFACES 1 alone, so that the property tests have something to disagree with.

Everything here is a hand-written scanner that walks one character at a time: a mistake made in a regular expression
is not likely to be made again here. Nothing in this module imports the application.
"""

import datetime as dt
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

ORDER = ("case_number", "defendant_name", "judgment_amount", "judgment_date", "plaintiff_name", "court", "county")
LIMITS = {"case_number": 100, "defendant_name": 500, "plaintiff_name": 500, "court": 500, "county": 500}
MISSING = {
    "case_number": "MISSING_CASE_NUMBER",
    "defendant_name": "MISSING_DEFENDANT",
    "judgment_amount": "MISSING_AMOUNT",
}
INVALID = {
    "case_number": "INVALID_CASE_NUMBER",
    "defendant_name": "INVALID_DEFENDANT",
    "judgment_amount": "INVALID_AMOUNT",
    "judgment_date": "INVALID_DATE",
    "plaintiff_name": "INVALID_TEXT",
    "court": "INVALID_TEXT",
    "county": "INVALID_TEXT",
}
EMPTY_WORDS = ("na", "n/a", "null", "-")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
FORBIDDEN_SPANS = (
    (0x0000, 0x0008),
    (0x000B, 0x000B),
    (0x000C, 0x000C),
    (0x000E, 0x001F),
    (0x007F, 0x009F),
    (0x00AD, 0x00AD),
    (0x061C, 0x061C),
    (0x200B, 0x200F),
    (0x2028, 0x202E),
    (0x2060, 0x2064),
    (0x2066, 0x2069),
    (0xFEFF, 0xFEFF),
)

Value = str | Decimal | dt.date | None


class Reading(NamedTuple):
    """What one cell comes to: a value (None when empty), or the code it is refused with."""

    code: str | None
    value: Value


def is_forbidden(char: str) -> bool:
    return any(first <= ord(char) <= last for first, last in FORBIDDEN_SPANS)


def is_blank(char: str) -> bool:
    return char.isspace() and not is_forbidden(char)


def without_outer_blanks(text: str) -> str:
    start, end = 0, len(text)
    while start < end and is_blank(text[start]):
        start += 1
    while end > start and is_blank(text[end - 1]):
        end -= 1
    return text[start:end]


def is_empty_cell(raw: str) -> bool:
    core = without_outer_blanks(raw)
    return core == "" or core.lower() in EMPTY_WORDS


def read_text(field: str, raw: str) -> Reading:
    """The value of a text cell: refused characters first, on the raw cell; then emptiness; then the length."""
    for char in raw:
        if is_forbidden(char):
            return Reading("INVALID_TEXT", None)
    if is_empty_cell(raw):
        return Reading(MISSING.get(field), None)
    spaced: list[str] = []
    in_line_break = False
    for char in raw:
        if char in "\t\r\n":
            if not in_line_break:
                spaced.append(" ")
            in_line_break = True
        else:
            spaced.append(char)
            in_line_break = False
    text = without_outer_blanks(unicodedata.normalize("NFC", "".join(spaced)))
    if field == "case_number":
        collapsed: list[str] = []
        for char in text:
            if not is_blank(char):
                collapsed.append(char)
            elif collapsed[-1] != " ":
                collapsed.append(" ")
        text = "".join(collapsed).upper()
    if len(text) > LIMITS[field]:
        return Reading(INVALID[field], None)
    return Reading(None, text)


class UnknownFormError(Exception):
    """The cell is written in no form that the contract knows."""


class Scanner:
    """A position in a string. A take_ method moves past what it names or stays; a demand_ method moves or raises."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    @property
    def peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def take(self, literal: str, *, any_case: bool = False) -> bool:
        found = self.text[self.at : self.at + len(literal)]
        if found == literal or (any_case and found.isascii() and found.lower() == literal.lower()):
            self.at += len(literal)
            return True
        return False

    def take_digits(self) -> str:
        start = self.at
        while self.peek != "" and self.peek in "0123456789":
            self.at += 1
        return self.text[start : self.at]

    def skip_blanks(self) -> None:
        while self.peek != "" and is_blank(self.peek):
            self.at += 1

    def demand(self, literal: str) -> None:
        if not self.take(literal):
            raise UnknownFormError

    def demand_digits(self, *widths: int) -> str:
        digits = self.take_digits()
        if len(digits) not in widths:
            raise UnknownFormError
        return digits

    def demand_end(self) -> None:
        if self.at != len(self.text):
            raise UnknownFormError


def has_control_character(raw: str) -> bool:
    return any(unicodedata.category(char) == "Cc" for char in raw)


def read_amount(raw: str) -> Reading:
    if is_empty_cell(raw):
        return Reading("MISSING_AMOUNT", None)
    if has_control_character(raw):
        return Reading("INVALID_AMOUNT", None)
    try:
        return Reading(None, scan_amount(Scanner(without_outer_blanks(raw))))
    except UnknownFormError:
        return Reading("INVALID_AMOUNT", None)


def scan_amount(scanner: Scanner) -> Decimal:
    if scanner.take("USD"):
        scanner.skip_blanks()
    if scanner.take("$"):
        scanner.skip_blanks()
    groups = [scanner.take_digits()]
    if scanner.peek == "," and len(groups[0]) not in (1, 2, 3):
        raise UnknownFormError
    while scanner.take(","):
        groups.append(scanner.demand_digits(3))
    whole = "".join(groups)
    cents = scanner.demand_digits(1, 2) if scanner.take(".") else ""
    scanner.skip_blanks()
    scanner.take("USD")
    scanner.demand_end()
    first = 0
    while first < len(whole) and whole[first] == "0":
        first += 1
    if whole + cents == "" or len(whole) - first > 12:
        raise UnknownFormError
    return Decimal(f"{whole[first:] or '0'}.{cents or '0'}")


def read_date(raw: str, today: dt.date) -> Reading:
    if is_empty_cell(raw):
        return Reading(None, None)
    if has_control_character(raw):
        return Reading("INVALID_DATE", None)
    try:
        value = scan_date(Scanner(without_outer_blanks(raw)), today)
    except UnknownFormError:
        return Reading("INVALID_DATE", None)
    if value.year < 1900:
        return Reading("INVALID_DATE", None)
    if value > today:
        return Reading("FUTURE_DATE", None)
    return Reading(None, value)


def scan_date(scanner: Scanner, today: dt.date) -> dt.date:
    year, month, day = scan_calendar_part(scanner, today)
    if scanner.peek != "":
        scan_time_part(scanner)
    scanner.demand_end()
    if year < 1 or not 1 <= month <= 12 or not 1 <= day <= days_in(year, month):
        raise UnknownFormError
    return dt.date(year, month, day)


def scan_calendar_part(scanner: Scanner, today: dt.date) -> tuple[int, int, int]:
    """Year, month and day as written, not yet checked against the calendar."""
    first = scanner.demand_digits(1, 2, 4)
    mark = "-" if scanner.peek == "-" else "/"
    scanner.demand(mark)
    if len(first) == 4:
        widths = (2,) if mark == "-" else (1, 2)
        month = scanner.demand_digits(*widths)
        scanner.demand(mark)
        return int(first), int(month), int(scanner.demand_digits(*widths))
    if mark == "-":
        for number, name in enumerate(MONTHS, start=1):
            if scanner.take(name, any_case=True):
                scanner.demand("-")
                return int(scanner.demand_digits(4)), number, int(first)
    second = scanner.demand_digits(1, 2)
    scanner.demand(mark)
    year = scanner.demand_digits(2, 4) if mark == "/" else scanner.demand_digits(4)
    if len(year) == 4:
        return int(year), int(first), int(second)
    century = 2000 if int(year) <= today.year % 100 else 1900
    return century + int(year), int(first), int(second)


def days_in(year: int, month: int) -> int:
    if month == 2:
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        return 29 if leap else 28
    return 30 if month in (4, 6, 9, 11) else 31


def scan_time_part(scanner: Scanner) -> None:
    """Go past one space or T and a time. Its figures are not read: 99:99 is a time here."""
    if not scanner.take(" "):
        scanner.demand("T")
    scanner.demand_digits(1, 2)
    scanner.demand(":")
    scanner.demand_digits(2)
    if scanner.take(":"):
        scanner.demand_digits(2)
        if scanner.take(".") and scanner.take_digits() == "":
            raise UnknownFormError
    before = scanner.at
    scanner.take(" ")
    if not (scanner.take("AM", any_case=True) or scanner.take("PM", any_case=True)):
        scanner.at = before
    if scanner.peek == "":
        return
    scanner.take(" ")
    if scanner.take("Z"):
        return
    if not scanner.take("+"):
        scanner.demand("-")
    scanner.demand_digits(2)
    scanner.demand(":")
    scanner.demand_digits(2)


def read_cell(field: str, raw: str, today: dt.date) -> Reading:
    if field == "judgment_amount":
        return read_amount(raw)
    if field == "judgment_date":
        return read_date(raw, today)
    return read_text(field, raw)


def read_row(cells: Mapping[str, str], today: dt.date) -> dict[str, Reading]:
    """Every field of the row, in the table's order; a column the file does not have reads as an empty cell."""
    return {field: read_cell(field, cells.get(field, ""), today) for field in ORDER}


def first_code(cells: Mapping[str, str], today: dt.date) -> str | None:
    """The code the whole row stands under, None for a valid row."""
    return next((reading.code for reading in read_row(cells, today).values() if reading.code is not None), None)
