"""Masks: the plain common forms of each field of the contract, accepted a column at a time.

A mask never accepts what the contract refuses and never reads another value than the contract; what it does not accept
is explained by the contract. Everything that a rule says is taken from its declaration in app.judgment.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from marshmallow import fields

from app.engine.cells import ASCII, LATIN, PAD, Column, Flags, Numbers, Octets
from app.judgment import EARLIEST_DATE, EMPTY_WORDS, MONTHS, Amount, CalendarDate, CaseNumber, JudgmentSchema, Text

POSTGRES_EPOCH = dt.date(2000, 1, 1)

_BLANK = 0x20
_POINT, _COMMA, _DOLLAR, _MINUS, _SLASH, _COLON, _ZERO, _T = b".,$-/:0T"
_NINE = 9
_USD = int.from_bytes(b"USD ", "little")
_LONGEST_WORD = max(map(len, EMPTY_WORDS))
_WORD_FIRSTS = bytes({ord(letter) for word in EMPTY_WORDS for letter in (word[0], word[0].lower())})

Words = npt.NDArray[np.uint64]


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
    worded = firsts == _WORD_FIRSTS[0]
    for first in _WORD_FIRSTS[1:]:
        worded |= firsts == first
    accepted &= (lengths > _LONGEST_WORD) | ~worded
    if isinstance(rule, CaseNumber):
        places = np.flatnonzero(accepted)
        if len(places):
            accepted[places[_has_blank_runs(column.chosen(places))]] = False
    return Reading(accepted, lengths == 0)


def _has_blank_runs(column: Column) -> Flags:
    """Which cells hold two blanks in a row."""
    octets, width = column.octets, int(column.lengths.max())
    if width <= PAD:
        # Mostly no cell has any, which is seen without a look at the other columns.
        blank = column.from_left(width).ravel() == _BLANK
        if not (blank[1:] & blank[:-1]).any():
            return np.zeros(len(column.starts), np.bool_)
    blanks = np.flatnonzero((octets[1:] == _BLANK) & (octets[:-1] == _BLANK))
    if not len(blanks):
        return np.zeros(len(column.starts), np.bool_)
    following = np.searchsorted(blanks, column.starts)
    found = blanks[np.minimum(following, len(blanks) - 1)]
    return (found >= column.starts) & (found + 1 < column.ends)


# Short texts are read in words of eight characters, the first in the lowest byte: a few operations on words do what would
# take one on each character.
_BYTE, _TWO_BYTES, _FOUR_BYTES, _ALL_BITS = 0xFF, 0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF
_PAIRS = 0x00FF_00FF_00FF_00FF
_ZEROS = int.from_bytes(b"0" * 8, "little")
# Added to digits, it sets the highest bit of every byte above nine; a byte that carries into the next has that bit itself.
_ABOVE_NINE, _HIGH_BITS = 0x76 * (_ZEROS // _ZERO), 0x80 * (_ZEROS // _ZERO)
_COMMAS = int.from_bytes(b",000,000", "little")
_NOT_ZERO = _ABOVE_NINE | int.from_bytes(b"\x7f\0\0\0\x7f\0\0\0", "little")
_AMOUNT_WIDTH = 20
_AMOUNT_WINDOW = 24
_MOST_DIGITS = 12
_WORD = 8
_GROUP = 4


def _amounts(column: Column) -> tuple[Flags, Numbers]:
    """``[USD ][$]`` digits, plain or grouped, then a point and one or two decimals or nothing: in cents."""
    accepted = (column.stains == ASCII) & (column.lengths > 0) & (column.lengths <= _AMOUNT_WIDTH)
    begin = column.from_left(_WORD).view("<u8").astype(np.uint64, copy=False).ravel()
    spelt = (begin & _FOUR_BYTES == _USD) & (column.lengths > len("USD "))
    signed = begin >> spelt * np.uint64(32) & _BYTE == _DOLLAR
    lengths = column.lengths - spelt * np.int64(4) - signed
    characters = column.from_right(_AMOUNT_WINDOW)
    third, second, final = characters[:, -3:].T
    one_decimal = (second == _POINT) & (lengths > len(".5"))
    two_decimals = (third == _POINT) & (lengths > len(".50")) & ~one_decimal
    units, tens = final - np.uint8(_ZERO), second - np.uint8(_ZERO)
    accepted &= ~(one_decimal | two_decimals) | (units <= _NINE)
    accepted &= ~two_decimals | (tens <= _NINE)
    cents = (one_decimal * np.int64(10) + two_decimals) * units + two_decimals * np.int64(10) * tens
    decimals = one_decimal * np.uint64(2) + two_decimals * np.uint64(3)
    lengths -= decimals.astype(np.int64)
    # The decimals are shifted out; a shift by a whole word leaves nothing of it.
    early, middle, late = characters.view("<u8").astype(np.uint64, copy=False).T
    shift, back = decimals * np.uint64(8), np.uint64(64) - decimals * np.uint64(8)
    good, whole = _whole_numbers(middle << shift | early >> back, late << shift | middle >> back, lengths)
    return accepted & good, whole * 100 + cents


def _whole_numbers(left: Words, right: Words, lengths: Numbers) -> tuple[Flags, Numbers]:
    """The numbers that the last ``lengths`` of each sixteen characters write, plain or with a comma before every three."""
    grouped = ((right >> 32 & _BYTE) == _COMMA) & (lengths > _GROUP)
    commas = grouped.astype(np.uint64)
    most = _MOST_DIGITS + grouped * np.int64((_MOST_DIGITS - 1) // 3)
    # A group before the comma: a comma in front of everything is no grouping.
    accepted = (lengths > 0) & (lengths <= most) & ~(grouped & (lengths & _GROUP - 1 == 0))
    # In a word of groups, the first of every four characters is the comma.
    zeros = _ZEROS - commas * np.uint64(_ZEROS - _COMMAS)
    showing = _ABOVE_NINE + commas * np.uint64(_NOT_ZERO - _ABOVE_NINE)
    half = 10**4 - commas * np.uint64(10**4 - 10**3)
    good, values = _eight_digits(right, np.minimum(lengths, _WORD), zeros, showing, half)
    accepted &= good
    longer = np.flatnonzero(accepted & (lengths > _WORD))
    if len(longer):
        half = half[longer]
        good, more = _eight_digits(left[longer], lengths[longer] - _WORD, zeros[longer], showing[longer], half)
        accepted[longer] = good
        values[longer] += more * half**2
    return accepted, values.astype(np.int64)


def _eight_digits(text: Words, lengths: Numbers, zeros: Words, showing: Words, half: Words) -> tuple[Flags, Words]:
    """The numbers that the last ``lengths`` characters of words write in the form given; which of them are in it."""
    digits = (text ^ zeros) & (np.uint64(_ALL_BITS) << ((_WORD - lengths) * 8).astype(np.uint64))
    good = (digits | digits + showing) & _HIGH_BITS == 0
    pairs = digits * 10 + (digits >> 8) & _PAIRS
    fours = pairs * 100 + (pairs >> 16)
    return good, (fours & _TWO_BYTES) * half + (fours >> 32 & _TWO_BYTES)


_CENTURIES = np.array([int.from_bytes(century, "little") for century in (b"19", b"20")], np.uint64)
_MONTH_WORDS, _MONTH_DIGITS = np.array(
    sorted(
        (int.from_bytes(name.lower().encode(), "little"), int.from_bytes(b"%02d" % number, "little"))
        for name, number in MONTHS.items()
    ),
    np.uint64,
).T.copy()
_LOWER_CASE = 0x20_20_20
_DATE_WIDTH = 16
_SHORTEST_DATE, _LONGEST_DATE, _ISO_LENGTH, _SHORTEST_WITH_TIME = map(
    len, ("1/1/24", "10-Jan-2024", "2024-01-10", "1/1/24 0:00")
)
_YEARS = 300
"""From the earliest on, so many years are read here; the contract says what later dates are."""
_FIRSTS_OF_MONTHS = (
    np.arange(f"{EARLIEST_DATE.year}-01", f"{EARLIEST_DATE.year + _YEARS}-02", dtype="datetime64[M]").astype(
        "datetime64[D]"
    )
    - np.datetime64(POSTGRES_EPOCH, "D")
).astype(np.int64)
_DAYS_IN_MONTHS = np.diff(_FIRSTS_OF_MONTHS)


def _dates(column: Column, today: dt.date) -> tuple[Flags, Numbers]:
    """Every form of the contract without a time or with a plain one; days since 2000-01-01."""
    shape = (column.stains == ASCII) & (column.lengths >= _SHORTEST_DATE)
    lengths = _without_time(column, shape)
    shape &= lengths <= _LONGEST_DATE
    characters = column.from_left(_DATE_WIDTH)
    low, high = characters.view("<u8").astype(np.uint64, copy=False).T
    second, third, fifth, eighth = (characters[:, place] for place in (1, 2, 4, 7))
    # Month, day and year of every date in two, two and four digits.
    written = np.zeros(len(shape), np.uint64)
    iso = np.flatnonzero(shape & (lengths == _ISO_LENGTH) & (fifth == _MINUS) & (eighth == _MINUS))
    start = low[iso]
    written[iso] = start >> 40 & _TWO_BYTES | (high[iso] & _TWO_BYTES) << 16 | start << 32
    marked = (second == _SLASH) | (second == _MINUS) | (third == _SLASH) | (third == _MINUS)
    rows = np.flatnonzero(shape & marked)
    if len(rows):
        mark = np.where((second[rows] == _SLASH) | (second[rows] == _MINUS), second[rows], third[rows])
        written[rows] = _year_last(low[rows], high[rows], mark.astype(np.uint64), lengths[rows], today)
    rows = np.flatnonzero(shape & (fifth == _SLASH) & ~marked)
    if len(rows):
        written[rows] = _year_first(low[rows], high[rows], lengths[rows])
    return _days(written, today)


def _year_last(low: Words, high: Words, mark: Words, lengths: Numbers, today: dt.date) -> Words:
    """``M/D/YYYY``, ``M-D-YYYY``, ``M/D/YY`` and ``D-Mon-YYYY`` as month, day and year."""
    first, behind, taken = _number(low, mark)
    behind |= high << (np.uint64(64) - taken * np.uint64(8))
    lengths = lengths - taken.astype(np.int64)
    named = np.flatnonzero((behind >> 24 & _BYTE == _MINUS) & (mark == _MINUS) & (lengths == len("Jan-2024")))
    names = behind[named]
    second, year, taken = _number(behind, mark)
    lengths -= taken.astype(np.int64)
    in_this_century = (year & _BYTE) * 10 + (year >> 8 & _BYTE) - _ZERO * 11 <= today.year % 100
    short = (year & _TWO_BYTES) << 16 | _CENTURIES[in_this_century.view(np.uint8)]
    year = (lengths == 4) * year + ((lengths == 2) & (mark == _SLASH)) * short  # noqa: PLR2004
    written: Words = first | second << 16 | year << 32
    written[named] = _months(names) | first[named] << 16 | names & ~np.uint64(_FOUR_BYTES)
    return written


def _year_first(low: Words, high: Words, lengths: Numbers) -> Words:
    """``YYYY/M/D`` as month, day and year."""
    behind = low >> np.uint64(40) | high << np.uint64(24)
    month, day, taken = _number(behind, np.full(len(low), _SLASH, np.uint64))
    lengths = lengths - len("2024/") - taken.astype(np.int64)
    day = (lengths == 1) * (day << 8 & _TWO_BYTES | _ZERO) + (lengths == 2) * (day & _TWO_BYTES)  # noqa: PLR2004
    written: Words = month | day << 16 | low << 32
    return written


def _number(text: Words, mark: Words) -> tuple[Words, Words, Words]:
    """One or two characters before the mark as two digits, what stands behind it, and how many bytes that far.

    Without a mark there, the two digits are none.
    """
    # Shifts and products, for choosing by a mixed mask is slow.
    one = (text >> 8 & _BYTE == mark).astype(np.uint64)
    two = text >> 16 & _BYTE == mark
    number = (text << one * np.uint64(8) & _TWO_BYTES | one * np.uint64(_ZERO)) * (two | (one != 0))
    taken = np.uint64(3) - one
    return number, text >> taken * np.uint64(8), taken


def _months(texts: Words) -> Words:
    """The two digits of the months whose three letters the texts begin with; no digits where none does."""
    words = texts & 0xFFFFFF | _LOWER_CASE
    place = np.minimum(np.searchsorted(_MONTH_WORDS, words), len(_MONTH_WORDS) - 1)
    return np.where(_MONTH_WORDS[place] == words, _MONTH_DIGITS[place], 0)


def _days(written: Words, today: dt.date) -> tuple[Flags, Numbers]:
    """Which of the written dates are days that the contract takes, and these days since 2000-01-01."""
    digits = written ^ _ZEROS
    accepted = (digits | digits + _ABOVE_NINE) & _HIGH_BITS == 0
    pairs = digits * 10 + (digits >> 8)
    month, day, century, year = ((pairs >> shift & _BYTE).astype(np.int64) for shift in (0, 16, 32, 48))
    year += century * 100 - EARLIEST_DATE.year
    accepted &= (year >= 0) & (year < _YEARS) & (month >= 1) & (month <= len(MONTHS))
    number = (year * 12 + month - 1) * accepted
    accepted &= (day >= 1) & (day <= _DAYS_IN_MONTHS[number])
    values = _FIRSTS_OF_MONTHS[number] + day - 1
    accepted &= values <= (today - POSTGRES_EPOCH).days
    return accepted, values


def _without_time(column: Column, shape: Flags) -> Numbers:
    """The cells' lengths without the plain times behind their dates: ``H:MM``, ``HH:MM`` and those with ``:SS``."""
    lengths = column.lengths
    long = np.flatnonzero(shape & (lengths >= _SHORTEST_WITH_TIME))
    octets = column.octets
    behind = column.ends[long]
    timed = octets[behind - 3] == _COLON
    long, behind = long[timed], behind[timed]
    if not len(long):
        return lengths
    good = _are_digits(octets, behind - 2) & _are_digits(octets, behind - 1)
    seconds = octets[behind - 6] == _COLON
    good &= ~seconds | (_are_digits(octets, behind - 5) & _are_digits(octets, behind - 4))
    hours_end = behind - 3 - seconds * 3
    good &= _are_digits(octets, hours_end - 1)
    mark = hours_end - 2 - _are_digits(octets, hours_end - 2)
    good &= ((octets[mark] == _BLANK) | (octets[mark] == _T)) & (mark > column.starts[long])
    lengths[long[good]] = (mark - column.starts[long])[good]
    return lengths


def _are_digits(octets: Octets, places: Numbers) -> Flags:
    return octets[places] - np.uint8(_ZERO) <= _NINE
