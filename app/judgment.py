"""The row contract: what a judgment is, field by field, in one marshmallow schema.

Source of every rule: the row contract of the reference documentation (docs/reference/row-contract.md).
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple, cast

from marshmallow import RAISE, Schema, ValidationError, fields

MAX_CASE_NUMBER = 100
MAX_TEXT = 500
MAX_AMOUNT = Decimal(10) ** 12
EARLIEST_DATE = dt.date(1900, 1, 1)
EMPTY_WORDS = frozenset({"NA", "N/A", "NULL", "-"})

# Characters that never belong in a name: controls (less tab, CR and LF), soft hyphen, bidirectional marks, zero-width
# characters, line separators, invisible operators, byte order mark.
FORBIDDEN = (
    "\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff"
)
INNER_BLANKS = " \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
BLANKS = "\\t\\r\\n" + INNER_BLANKS

_FORBIDDEN = re.compile(f"[{FORBIDDEN}]")
_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f]")
_INVISIBLE = re.compile(f"[\\t\\r\\n{FORBIDDEN}]")
_LINE_BLANKS = re.compile("[\\t\\r\\n]+")
_BLANK_RUN = re.compile(f"[{BLANKS}]+")
_BLANK_CHARACTERS = "".join(chr(code) for code in range(0x3001) if _BLANK_RUN.fullmatch(chr(code)))
# Each run of blanks has one place where it can match: two adjacent runs would take quadratic time to refuse a cell.
_AMOUNT = re.compile(
    f"(?:USD[{INNER_BLANKS}]*)?(?:\\$[{INNER_BLANKS}]*)?"
    "((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\\.[0-9]{1,2})?|\\.[0-9]{1,2})"
    f"[{INNER_BLANKS}]*(?:USD)?"
)
# The time is dropped unread, so its form is checked and its value is not.
_TIME = "(?:[ T][0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\\.[0-9]+)?)?(?: ?[AaPp][Mm])?(?: ?(?:Z|[+-][0-9]{2}:[0-9]{2}))?)?"
MONTHS = {
    name: number
    for number, name in enumerate("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split(), start=1)  # noqa: SIM905
}
_DATES = (
    re.compile(f"(?P<year>[0-9]{{4}})-(?P<month>[0-9]{{2}})-(?P<day>[0-9]{{2}}){_TIME}"),
    re.compile(f"(?P<year>[0-9]{{4}})/(?P<month>[0-9]{{1,2}})/(?P<day>[0-9]{{1,2}}){_TIME}"),
    re.compile(f"(?P<month>[0-9]{{1,2}})/(?P<day>[0-9]{{1,2}})/(?P<year>[0-9]{{4}}|[0-9]{{2}}){_TIME}"),
    re.compile(f"(?P<month>[0-9]{{1,2}})-(?P<day>[0-9]{{1,2}})-(?P<year>[0-9]{{4}}){_TIME}"),
    re.compile(f"(?P<day>[0-9]{{1,2}})-(?P<month>[A-Za-z]{{3}})-(?P<year>[0-9]{{4}}){_TIME}"),
)
_TWO_DIGITS = 2
_EXCERPT = 60
_LAST_BYTE = 0xFF
_LONGEST_DECOMPOSITION = 4
"""The most code points that NFC turns into one."""


class Judgment(NamedTuple):
    """One accepted row, normalised. Field order is the order of the columns in the database."""

    case_number: str
    plaintiff_name: str | None
    defendant_name: str
    judgment_amount: Decimal
    judgment_date: dt.date | None
    court: str | None
    county: str | None


class Fault(NamedTuple):
    """One thing wrong with one cell; ``message`` says what was found and what was expected, not in which field."""

    code: str
    message: str


class FaultError(ValidationError):
    """The contract refuses a cell; carries the Fault through marshmallow."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__({"code": code, "message": message})
        self.fault = Fault(code, message)


def trim(cell: str) -> str:
    """The cell without blanks at its ends; blanks are white space that a name may contain."""
    return cell.strip(_BLANK_CHARACTERS)


def empty_word(cell: str) -> str | None:
    """The word (``NA``, ``N/A``, ``NULL``, ``-``) that stands for an empty cell here, or None."""
    word = trim(cell).upper()
    return word if word in EMPTY_WORDS else None


def is_empty(cell: str) -> bool:
    """Whether the cell is blank or a word for empty."""
    return not trim(cell) or empty_word(cell) is not None


def excerpt(cell: str) -> str:
    """The cell as an error message may show it: quoted, at most 60 characters, nothing invisible."""
    shown = cell if len(cell) <= _EXCERPT else cell[:_EXCERPT] + "..."
    return '"' + _INVISIBLE.sub(lambda found: _escaped(found[0]), shown) + '"'


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code <= _LAST_BYTE else f"\\u{code:04x}"


class _ContractField(fields.Field[Any]):
    """A cell of a vendor's file. Empty cells are missing where the field is required, NULL where it is optional."""

    def __init__(self, *, missing: str | None, invalid: str) -> None:
        super().__init__(load_default=None, allow_none=True)
        self.missing_code = missing
        self.invalid_code = invalid

    def deserialize(self, value: Any, attr: str | None = None, data: Any = None, **kwargs: Any) -> Any:
        """The value of one cell; a column that the file does not have is an empty cell.

        Raises FaultError where the contract refuses the cell.
        """
        cell = value if isinstance(value, str) else ""
        self.refuse_characters(cell)
        if is_empty(cell):
            if self.missing_code is None:
                return None
            raise FaultError(self.missing_code, f"found {excerpt(cell)}, expected {self.expectation()}")
        return self.read(cell)

    def refuse_characters(self, cell: str) -> None:
        """Raise FaultError for characters that are refused before anything else is read."""

    def read(self, cell: str) -> Any:
        """The value of a cell that is not empty."""
        raise TypeError(f"{type(self).__name__} does not read cells")

    def expectation(self) -> str:
        """What the cell should have held, to end the sentence 'expected ...'."""
        raise TypeError(f"{type(self).__name__} expects nothing")

    def refusal(self, cell: str, code: str | None = None) -> FaultError:
        return FaultError(code or self.invalid_code, f"found {excerpt(cell)}, expected {self.expectation()}")


class Text(_ContractField):
    """Free text in NFC, trimmed, on one line, at most ``longest`` code points."""

    def __init__(self, *, missing: str | None = None, invalid: str = "INVALID_TEXT", longest: int = MAX_TEXT) -> None:
        super().__init__(missing=missing, invalid=invalid)
        self.longest = longest

    def refuse_characters(self, cell: str) -> None:
        found = _FORBIDDEN.search(cell)
        if found:
            raise FaultError(
                "INVALID_TEXT",
                f"found the character U+{ord(found[0]):04X} at position {found.start() + 1}, "
                "expected text without control or invisible characters",
            )

    def read(self, cell: str) -> str:
        text = trim(_LINE_BLANKS.sub(" ", cell))
        # NFC takes quadratic time on long runs of combining marks, and no text beyond this bound can become short enough.
        if len(text) <= self.longest * _LONGEST_DECOMPOSITION:
            text = self.fold(unicodedata.normalize("NFC", text))
        if len(text) > self.longest:
            raise FaultError(self.invalid_code, f"found {len(text)} characters, expected at most {self.longest}")
        return text

    def fold(self, text: str) -> str:
        """What the field does to its text beyond NFC and trimming; never shorter than ``text``."""
        return text

    def expectation(self) -> str:
        return f"text of 1 to {self.longest} characters"


class CaseNumber(Text):
    """The court's number, by which a judgment is known: upper case, inner blanks collapsed."""

    def read(self, cell: str) -> str:
        return super().read(_BLANK_RUN.sub(" ", cell))

    def fold(self, text: str) -> str:
        return text.upper()


class _Written(_ContractField):
    """A value written in one of a few forms, in which control characters have no place."""

    def read(self, cell: str) -> Any:
        if _CONTROL.search(cell):
            raise self.refusal(cell)
        return self.parse(trim(cell), cell)

    def parse(self, written: str, cell: str) -> Any:
        """The value of the trimmed text; ``cell`` is for the refusal."""
        raise TypeError(f"{type(self).__name__} parses nothing")


class Amount(_Written):
    """US dollars and cents: exact, to two decimals, from 0 up to below 10^12."""

    def parse(self, written: str, cell: str) -> Decimal:
        form = _AMOUNT.fullmatch(written)
        if not form:
            raise self.refusal(cell)
        amount = Decimal(form[1].replace(",", ""))
        if amount >= MAX_AMOUNT:
            raise self.refusal(cell)
        return amount.quantize(Decimal("0.01"))

    def expectation(self) -> str:
        return "an amount in US dollars from 0 up to below 1,000,000,000,000, such as 1234.50 or $1,234.50"


class CalendarDate(_Written):
    """A day from 1900-01-01 to the batch's today; day-first forms are never guessed."""

    def parse(self, written: str, cell: str) -> dt.date:
        today = cast(JudgmentSchema, self.parent).today
        for form in _DATES:
            found = form.fullmatch(written)
            if found:
                break
        else:
            raise self.refusal(cell)
        year = found["year"]
        month = MONTHS.get(found["month"].upper()) if found["month"].isalpha() else int(found["month"])
        full_year = int(year)
        if len(year) == _TWO_DIGITS:
            full_year += 2000 if full_year <= today.year % 100 else 1900
        try:
            day = dt.date(full_year, month or 0, int(found["day"]))
        except ValueError:
            raise self.refusal(cell) from None
        if day < EARLIEST_DATE:
            raise self.refusal(cell)
        if day > today:
            raise self.refusal(cell, "FUTURE_DATE")
        return day

    def expectation(self) -> str:
        today = cast(JudgmentSchema, self.parent).today
        return f"a date from 1900-01-01 to {today.isoformat()}, such as 2024-01-31 or 1/31/2024"


class JudgmentSchema(Schema):
    """The contract. Fields stand in the order in which a row's faults are ranked.

    ``today`` is the UTC date of the batch's created_at, so every attempt at a batch judges alike.
    """

    class Meta:
        unknown = RAISE

    case_number = CaseNumber(missing="MISSING_CASE_NUMBER", invalid="INVALID_CASE_NUMBER", longest=MAX_CASE_NUMBER)
    defendant_name = Text(missing="MISSING_DEFENDANT", invalid="INVALID_DEFENDANT")
    judgment_amount = Amount(missing="MISSING_AMOUNT", invalid="INVALID_AMOUNT")
    judgment_date = CalendarDate(missing=None, invalid="INVALID_DATE")
    plaintiff_name = Text()
    court = Text()
    county = Text()

    def __init__(self, *, today: dt.date) -> None:
        super().__init__()
        self.today = today

    def check(self, cells: Mapping[str, str | None]) -> Judgment | dict[str, Fault]:
        """The judgment that the cells (field -> raw cell) hold, or every fault by field, ranked.

        Raises KeyError for a cell of no field: a mistake of the caller, never of a file.
        """
        unknown = cells.keys() - self.fields.keys()
        if unknown:
            raise KeyError(f"the contract has no field {', '.join(sorted(unknown))}")
        try:
            return Judgment(**self.load(dict(cells)))
        except ValidationError as refusal:
            found = cast(dict[str, dict[str, str]], refusal.messages)
            return {name: Fault(**found[name]) for name in self.fields if name in found}


FIELDS: tuple[str, ...] = tuple(JudgmentSchema(today=EARLIEST_DATE).fields)
"""Every field, in the order in which faults are ranked."""

REQUIRED: tuple[str, ...] = tuple(
    name
    for name, rule in JudgmentSchema(today=EARLIEST_DATE).fields.items()
    if isinstance(rule, _ContractField) and rule.missing_code
)
"""The fields whose column a file must have."""
