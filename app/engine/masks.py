"""Masks: the plain common forms of each field of the contract, accepted a column at a time.

A mask never accepts what the contract refuses and never reads another value than the contract; what it does not accept
is explained by the contract. Everything that a rule says is taken from its declaration in app.judgment.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
from marshmallow import fields

from app.engine.cells import ASCII, LATIN, Column, Flags, Numbers, Octets
from app.judgment import EARLIEST_DATE, EMPTY_WORDS, MONTHS, Amount, CalendarDate, CaseNumber, JudgmentSchema, Text

POSTGRES_EPOCH = dt.date(2000, 1, 1)
_EPOCH = np.datetime64(POSTGRES_EPOCH, "D")

_BLANK = 0x20
_POINT, _COMMA, _DOLLAR, _MINUS, _SLASH, _COLON, _ZERO, _T = b".,$-/:0T"
_NINE = 9
_USD = np.frombuffer(b"USD ", np.uint8)
_LONGEST_WORD = max(map(len, EMPTY_WORDS))
_WORD_FIRSTS = np.frombuffer("".join({w[0] + w[0].lower() for w in EMPTY_WORDS}).encode(), np.uint8)
_LOWER_CASE = 0x20


@dataclass(frozen=True, slots=True)
class Reading:
    """What a mask makes of a column: ``accepted`` cells have a value, ``empty`` ones are empty; the others are suspect.

    ``values`` are cents for an amount, days since 2000-01-01 for a date; a text's value is the cell itself, a case
    number's its upper case.
    """

    accepted: Flags
    empty: Flags
    values: Numbers | None = None


def read(schema: JudgmentSchema, rule: fields.Field[Any], column: Column) -> Reading:
    """Read one column by its field of the contract."""
    if isinstance(rule, Text):
        return _text(rule, column)
    if isinstance(rule, Amount):
        return _of_forms(column, *_amounts(column))
    if isinstance(rule, CalendarDate):
        return _of_forms(column, *_dates(column, schema.today))
    raise TypeError(f"there is no mask for {type(rule).__name__}")


def _of_forms(column: Column, accepted: Flags, values: Numbers) -> Reading:
    return Reading(accepted, column.lengths == 0, values)


def _text(rule: Text, column: Column) -> Reading:
    lengths, firsts = column.lengths, column.firsts
    most = ASCII if isinstance(rule, CaseNumber) else LATIN
    accepted = (column.stains <= most) & (firsts > _BLANK) & (column.finals > _BLANK)
    accepted &= (lengths > 0) & (lengths <= rule.longest)
    accepted &= (lengths > _LONGEST_WORD) | ~np.isin(firsts, _WORD_FIRSTS)
    if isinstance(rule, CaseNumber):
        places = np.flatnonzero(accepted & (column.stains == ASCII))
        accepted[places[_has_blank_runs(column.chosen(places))]] = False
    return Reading(accepted, lengths == 0)


def _has_blank_runs(column: Column) -> Flags:
    """Which cells hold two blanks in a row."""
    blanks = np.flatnonzero((column.octets[1:] == _BLANK) & (column.octets[:-1] == _BLANK))
    if not len(blanks):
        return np.zeros(len(column.starts), np.bool_)
    following = np.searchsorted(blanks, column.starts)
    found = blanks[np.minimum(following, len(blanks) - 1)]
    return (found >= column.starts) & (found + 1 < column.ends)


_MOST_WHOLE_DIGITS = 12
_MOST_WHOLE_LENGTH = 15
_AMOUNT_WIDTH = 20


def _amounts(column: Column) -> tuple[Flags, Numbers]:
    """``[USD ][$]`` digits, plain or grouped, then a point and one or two decimals or nothing: in cents."""
    values = np.zeros(len(column.starts), np.int64)
    accepted = (column.stains == ASCII) & (column.lengths > 0) & (column.lengths <= _AMOUNT_WIDTH)
    starts = column.starts.copy()
    words = np.flatnonzero(accepted & (column.firsts == _USD[0]) & (column.lengths > len(_USD)))
    if len(words):
        spelt = (column.chosen(words).from_left(len(_USD)) == _USD).all(axis=1)
        starts[words[spelt]] += len(_USD)
    starts += accepted & (column.octets[starts] == _DOLLAR)
    octets, ends = column.octets, column.ends
    final, second, third = octets[ends - 1], octets[ends - 2], octets[ends - 3]
    one_decimal = (second == _POINT) & (ends - 2 > starts)
    two_decimals = (third == _POINT) & (ends - 3 > starts) & ~one_decimal
    units, tens = final - np.uint8(_ZERO), second - np.uint8(_ZERO)
    accepted &= ~(one_decimal | two_decimals) | (units <= _NINE)
    accepted &= ~two_decimals | (tens <= _NINE)
    values += np.where(one_decimal, units.astype(np.int64) * 10, 0)
    values += np.where(two_decimals, tens.astype(np.int64) * 10 + units, 0)
    whole_ends = ends - one_decimal * 2 - two_decimals * 3
    lengths = whole_ends - starts
    accepted &= (lengths > 0) & (lengths <= _MOST_WHOLE_LENGTH)
    grouped = accepted & (lengths > 4) & (octets[whole_ends - 4] == _COMMA)  # noqa: PLR2004
    for which, gap in ((accepted & ~grouped, 0), (grouped, 4)):
        rows = np.flatnonzero(which)
        if len(rows):
            good, whole = _whole_numbers(octets, whole_ends[rows], lengths[rows], gap)
            accepted[rows] = good
            values[rows] += whole * 100
    return accepted, values


def _whole_numbers(octets: Octets, ends: Numbers, lengths: Numbers, gap: int) -> tuple[Flags, Numbers]:
    """Digits that end before ``ends``; with a gap of 4, every fourth character from the right is a comma."""
    width = int(min(lengths.max(), _MOST_WHOLE_LENGTH))
    rows = np.ascontiguousarray(_from_right(octets, ends, width).T)[::-1]
    good = np.ones(len(ends), np.bool_)
    whole = np.zeros(len(ends), np.int64)
    digits = 0
    for place in range(width):
        beyond = lengths <= place
        if gap and place % gap == gap - 1:
            # A group before the comma: a comma in front of everything is no grouping.
            good &= beyond | ((rows[place] == _COMMA) & (lengths != place + 1))
            continue
        digit = rows[place] - np.uint8(_ZERO)
        good &= beyond | (digit <= _NINE)
        if digits < _MOST_WHOLE_DIGITS:
            whole += np.where(beyond, 0, digit).astype(np.int64) * 10**digits
        else:
            good &= beyond
        digits += 1
    return good, whole


def _from_right(octets: Octets, ends: Numbers, width: int) -> Octets:
    view = np.ndarray((len(octets) - width + 1,), f"V{width}", octets, strides=(1,))
    return view[ends - width].view(np.uint8).reshape(len(ends), width)


_MONTH_WORDS = np.array(
    sorted((int.from_bytes(name.lower().encode()), number) for name, number in MONTHS.items()), np.int64
)
_DAYS_IN_MONTH = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], np.int64)
_FEBRUARY = 2
_ISO_LENGTH = 10


def _dates(column: Column, today: dt.date) -> tuple[Flags, Numbers]:
    """Every form of the contract without a time or with a plain one; days since 2000-01-01."""
    count = len(column.starts)
    year, month, day = (np.zeros(count, np.int64) for _ in range(3))
    shape = (column.stains == ASCII) & (column.lengths >= len("1/1/24"))
    column = _without_time(column, shape)
    octets, starts, lengths = column.octets, column.starts, column.lengths
    shape &= lengths <= len("10-Jan-2024")
    digits = _Digits(octets)
    second, third, fifth = octets[starts + 1], octets[starts + 2], octets[starts + 4]

    iso = np.flatnonzero(shape & (lengths == _ISO_LENGTH) & (fifth == _MINUS) & (octets[starts + 7] == _MINUS))
    start = starts[iso]
    year[iso], month[iso], day[iso] = digits(start, 4), digits(start + 5, 2), digits(start + 8, 2)
    narrow = (second == _SLASH) | (second == _MINUS)
    wide = ~narrow & ((third == _SLASH) | (third == _MINUS))
    rest = np.flatnonzero(shape & (narrow | wide))
    start, head = starts[rest], np.where(narrow[rest], 1, 2)
    mark, behind = octets[start + head], start + head + 1
    ends = column.ends[rest]
    first = digits.one_or_two(start, head)

    named = (mark == _MINUS) & (octets[behind + 3] == _MINUS) & (ends - behind == len("Jan-2024"))
    rows = rest[named]
    year[rows], day[rows] = digits(behind[named] + 4, 4), first[named]
    month[rows] = _months(octets, behind[named])

    one, two = octets[behind + 1] == mark, octets[behind + 2] == mark
    numeric = ~named & (one | two)
    rows, behind, ends, mark = rest[numeric], behind[numeric], ends[numeric], mark[numeric]
    tail = np.where(one[numeric], 1, 2)
    month[rows], day[rows] = first[numeric], digits.one_or_two(behind, tail)
    year_start = behind + tail + 1
    written = ends - year_start
    full, short = digits(year_start, 4), digits(year_start, 2)
    short = np.where(short < 0, -1, short + np.where(short <= today.year % 100, 2000, 1900))
    year[rows] = np.where(written == 4, full, np.where((written == 2) & (mark == _SLASH), short, -1))  # noqa: PLR2004

    slashed = np.flatnonzero(shape & (fifth == _SLASH) & ~narrow & ~wide)
    start, ends = starts[slashed], column.ends[slashed]
    head = np.where(octets[start + 6] == _SLASH, 1, 2)
    tail_start = start + 5 + head + 1
    tail = ends - tail_start
    good = (octets[tail_start - 1] == _SLASH) & (tail >= 1) & (tail <= 2)  # noqa: PLR2004
    year[slashed] = np.where(good, digits(start, 4), -1)
    month[slashed] = digits.one_or_two(start + 5, head)
    day[slashed] = digits.one_or_two(tail_start, np.clip(tail, 1, 2))

    seen = np.zeros(count, np.bool_)
    for group in (iso, rest[named], rows, slashed):
        seen[group] = True
    return _days(shape & seen, year, month, day, today)


def _days(written: Flags, year: Numbers, month: Numbers, day: Numbers, today: dt.date) -> tuple[Flags, Numbers]:
    """Which of the written dates are days that the contract takes, and these days since 2000-01-01."""
    values = np.zeros(len(year), np.int64)
    accepted = written & (year >= EARLIEST_DATE.year) & (month >= 1) & (month < len(_DAYS_IN_MONTH)) & (day >= 1)
    leap = (month == _FEBRUARY) & (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    accepted &= day <= _DAYS_IN_MONTH[np.clip(month, 0, 12)] + leap
    rows = np.flatnonzero(accepted)
    months = (year[rows] - 1970) * 12 + month[rows] - 1
    days = months.astype("datetime64[M]").astype("datetime64[D]") - _EPOCH
    values[rows] = days.astype(np.int64) + day[rows] - 1
    accepted &= values <= (today - POSTGRES_EPOCH).days
    return accepted, values


def _without_time(column: Column, shape: Flags) -> Column:
    """The column without the plain times behind its dates: ``H:MM``, ``HH:MM`` and those with ``:SS``."""
    long = np.flatnonzero(shape & (column.lengths > len("1/1/24")) & (column.octets[column.ends - 3] == _COLON))
    if not len(long):
        return column
    octets, ends = column.octets, column.ends.copy()
    digits = _Digits(octets)
    behind = ends[long]
    good = digits(behind - 2, 2) >= 0
    seconds = octets[behind - 6] == _COLON
    good &= ~seconds | (digits(behind - 5, 2) >= 0)
    hours_end = behind - 3 - seconds * 3
    good &= digits(hours_end - 1, 1) >= 0
    wide = digits(hours_end - 2, 1) >= 0
    mark = hours_end - 2 - wide
    good &= ((octets[mark] == _BLANK) | (octets[mark] == _T)) & (mark > column.starts[long])
    ends[long[good]] = mark[good]
    return Column(octets, column.starts, ends, column.stains)


def _months(octets: Octets, starts: Numbers) -> Numbers:
    """The months whose three letters stand there, 0 where none does."""
    letters = [octets[starts + place].astype(np.int64) for place in range(3)]
    alphabetic = np.ones(len(starts), np.bool_)
    word = np.zeros(len(starts), np.int64)
    for letter in letters:
        lower = letter | _LOWER_CASE
        alphabetic &= (letter >= ord("A")) & (lower >= ord("a")) & (lower <= ord("z"))
        word = word * 256 + lower
    place = np.minimum(np.searchsorted(_MONTH_WORDS[:, 0], word), len(_MONTH_WORDS) - 1)
    return np.where(alphabetic & (_MONTH_WORDS[place, 0] == word), _MONTH_WORDS[place, 1], 0)


class _Digits:
    """Reads numbers of fixed length; -1 where a character is no digit."""

    def __init__(self, octets: Octets) -> None:
        self._octets = octets

    def __call__(self, starts: Numbers, length: int) -> Numbers:
        number = np.zeros(len(starts), np.int64)
        good = np.ones(len(starts), np.bool_)
        for place in range(length):
            digit = self._octets[starts + place] - np.uint8(_ZERO)
            good &= digit <= _NINE
            number = number * 10 + digit
        return np.where(good, number, -1)

    def one_or_two(self, starts: Numbers, lengths: Numbers) -> Numbers:
        """Of one or two digits, as ``lengths`` says."""
        return np.where(lengths == 1, self(starts, 1), self(starts, 2))
