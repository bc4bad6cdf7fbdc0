"""Plain lines: found many at a time by counting bytes, each proven to be one well-formed record of the header's width.

What is not proven here is no fault yet: it is read again, record by record, by the scanner, whose rules these are.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from app.block import Positions

_QUOTE, _CR, _LF = b'"\r\n'
_DELETE = b"\x7f"
_FIRST_HIGH = 0x80
# Added to a byte, it brings what begins a character beyond ASCII and then the controls to the front: first come the bytes
# from 0xC0 on, which wrap around.
_LEADS_FIRST, _LEADS_AND_CONTROLS = 0x40, 0x60
_FIRST_PRINTABLE, _PRINTABLE = 0x20, 0x7E - 0x20
_FIRST_VISIBLE, _LAST_VISIBLE = 0x21, 0x7E
_LONGEST_EMPTY_WORD = 4
# What a word for empty (NA, N/A, NULL, -) begins with, or a cell whose first quote is doubled.
_DOUBTFUL_FIRST = tuple(b'nN-"')

_Flags = npt.NDArray[np.bool_]
_Octets = npt.NDArray[np.uint8]


@dataclass(slots=True)
class Lines:
    """The whole lines of a piece of a file; positions count from the data's start.

    ``doubtful`` names, in order, the lines that are not proven. ``last`` is, for each line, the place in ``ends`` of its
    own end: a proven line's cells end at the ``width`` places up to there. ``stains`` are as in Plain.
    """

    starts: Positions
    stop: int
    ends: Positions
    last: Positions
    doubtful: list[int]
    width: int
    has_returns: bool
    stains: Positions = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.starts)

    def next_doubtful(self, line: int) -> int:
        """The first line from ``line`` on that is not proven, or the number of lines."""
        place = bisect.bisect_left(self.doubtful, line)
        return self.doubtful[place] if place < len(self.doubtful) else len(self)

    def at(self, position: int) -> int:
        """The line that starts at the position; the number of lines where there is none any more."""
        return int(np.searchsorted(self.starts, position))

    def start_of(self, line: int) -> int:
        """Where the line starts, or where all lines end."""
        return int(self.starts[line]) if line < len(self) else self.stop


def no_lines(start: int, width: int) -> Lines:
    """No line at all from ``start`` on: each record is then left to the scanner."""
    nothing = np.empty(0, np.int64)
    return Lines(nothing, start, nothing, nothing, [], width, has_returns=False)


def find_lines(data: bytes, start: int, behind: int, delimiter: int, width: int, *, ended: bool, longest: int) -> Lines:
    """Split ``data`` from ``start``, the beginning of a record, up to ``behind`` into whole lines; prove what can be proven.

    ``ended`` says that the file ends there; a last line without a line end is left out all the same. A line
    longer than ``longest`` bytes is never proven.
    """
    octets = np.frombuffer(data, np.uint8)[start:behind]
    # All that matters is picked out at once; from there on the positions of these few bytes are worked on.
    marks = _marks(octets, delimiter, has_delete=data.find(_DELETE, start, behind) >= 0)
    kinds = octets[marks]
    is_end, has_returns = _line_ends(octets, marks, kinds, ended=ended)
    ends_at = np.flatnonzero(is_end)
    count = int(ends_at[-1]) + 1 if len(ends_at) else 0
    marks, kinds, is_end = marks[:count], kinds[:count], is_end[:count]
    ends_of_lines = marks[ends_at]
    stop = int(ends_of_lines[-1]) + 1 if count else 0
    starts = np.concatenate((np.zeros(min(1, count), np.int64), ends_of_lines[:-1] + 1))
    plain = ends_of_lines + 1 - starts <= longest
    separates = is_end | (kinds == delimiter)
    quotes = np.flatnonzero(kinds == _QUOTE)
    if len(quotes):
        _close_quotes(octets, marks, quotes, is_end, separates, plain=plain, delimiter=delimiter)
    # A delimiter inside quotes separates nothing: a tab there is a control like any other.
    stained = (kinds - np.uint8(_FIRST_PRINTABLE) > _PRINTABLE) & ~separates & (kinds != _CR)
    stained[quotes[1:][np.diff(marks[quotes]) == 1]] = True
    places = np.flatnonzero(separates)
    last = np.flatnonzero(is_end[places])
    separators = marks[places]
    del places
    plain &= np.diff(last, prepend=-1) == width
    _doubt_bad_utf8(octets[:stop], starts, ends_of_lines, plain)
    _doubt_blank(octets, starts, separators, last, plain, width=width, delimiter=delimiter)
    stains = marks[stained]
    for positions in (starts, separators, stains):
        np.add(positions, start, out=positions)
    return Lines(starts, stop + start, separators, last, np.flatnonzero(~plain).tolist(), width, has_returns, stains)


def _marks(octets: _Octets, delimiter: int, *, has_delete: bool) -> Positions:
    """Where delimiters, quotes, controls and the first bytes of characters beyond ASCII stand."""
    found = octets + np.uint8(_LEADS_FIRST) < _LEADS_AND_CONTROLS
    for byte in (delimiter, _QUOTE, *(_DELETE if has_delete else b"")):
        found |= octets == byte
    return np.flatnonzero(found)


def _line_ends(octets: _Octets, marks: Positions, kinds: _Octets, *, ended: bool) -> tuple[_Flags, bool]:
    """At which marks LF, CR LF (at its LF) or a lone CR ends a line; a CR that ends unfinished data is not decided yet."""
    found = kinds == _LF
    returns = np.flatnonzero(kinds == _CR)
    if not len(returns):
        return found, False
    position = marks[returns]
    final = len(octets) - 1
    lone = octets[np.minimum(position + 1, final)] != _LF
    lone[-1] = ended if position[-1] == final else lone[-1]
    found[returns[lone]] = True
    return found, True


def _close_quotes(
    octets: _Octets,
    marks: Positions,
    quotes: Positions,
    is_end: _Flags,
    separates: _Flags,
    *,
    plain: _Flags,
    delimiter: int,
) -> None:
    """Clear ``separates`` between quotes, and ``plain`` for lines whose quotes are out of place.

    ``quotes`` are places among the marks.
    """
    between = _between(quotes)
    # Where no pair has a line end inside, every line has its quotes in pairs.
    if len(quotes) % 2 or is_end[between].any():
        line_of = np.searchsorted(np.flatnonzero(is_end), quotes)
        odd = np.bincount(line_of, minlength=len(plain)) % 2 == 1
        plain[odd] = False
        quotes = quotes[~odd[line_of]]
        between = _between(quotes)
    opening, closing = marks[quotes[0::2]], marks[quotes[1::2]]
    doubled = np.zeros(len(opening) + 1, np.bool_)
    doubled[1:-1] = opening[1:] == closing[:-1] + 1
    before = octets[np.maximum(opening - 1, 0)]
    after = octets[closing + 1]
    begins = (opening == 0) | (before == delimiter) | (before == _LF) | (before == _CR) | doubled[:-1]
    finishes = (after == delimiter) | (after == _LF) | (after == _CR) | doubled[1:]
    misplaced = np.flatnonzero(~(begins & finishes))
    if len(misplaced):
        plain[np.searchsorted(np.flatnonzero(is_end), quotes[2 * misplaced])] = False
    separates[between] = False


def _between(quotes: Positions) -> Positions:
    """The places between the quotes of each pair."""
    first, final = quotes[: len(quotes) // 2 * 2].reshape(-1, 2).T
    inside = final - first - 1
    holding = np.flatnonzero(inside)
    inside = inside[holding]
    behind = np.cumsum(inside)
    total = int(behind[-1]) if len(behind) else 0
    return np.repeat(first[holding] + 1 - (behind - inside), inside) + np.arange(total)


def _doubt_bad_utf8(octets: _Octets, starts: Positions, ends_of_lines: Positions, plain: _Flags) -> None:
    # Arrow checks a text without making one of it.
    whole = pa.py_buffer(np.array([0, len(octets)], np.int32))
    try:
        pa.StringArray.from_buffers(1, whole, pa.py_buffer(octets)).validate(full=True)
    except pa.ArrowInvalid:
        pass
    else:
        return
    content = octets.tobytes()
    high = np.flatnonzero(octets >= _FIRST_HIGH)
    for line in np.unique(np.searchsorted(ends_of_lines, high)).tolist():
        try:
            content[starts[line] : ends_of_lines[line]].decode()
        except UnicodeDecodeError:
            plain[line] = False


def _doubt_blank(
    octets: _Octets,
    starts: Positions,
    separators: Positions,
    last: Positions,
    plain: _Flags,
    *,
    width: int,
    delimiter: int,
) -> None:
    """Doubt every line in which no cell is surely more than blanks or a word for empty."""
    open_lines = np.flatnonzero(plain)
    for column in range(width):
        if not len(open_lines):
            return
        start = starts[open_lines] if column == 0 else separators[last[open_lines] - (width - column)] + 1
        first = octets[start]
        # Most cells show by their first byte that there is something else in them.
        open_places = (first < _FIRST_VISIBLE) | (first > _LAST_VISIBLE) | (first == delimiter)
        for byte in _DOUBTFUL_FIRST:
            open_places |= first == byte
        if not open_places.any():
            return
        open_lines, start = open_lines[open_places], start[open_places]
        behind = separators[last[open_lines] - (width - 1 - column)]
        if column == width - 1:
            behind = behind - ((octets[behind] == _LF) & (octets[np.maximum(behind - 1, 0)] == _CR) & (behind > start))
        quoted = (behind > start) & (octets[start] == _QUOTE)
        start, behind = start + quoted, behind - quoted
        first, final = octets[start], octets[np.maximum(behind - 1, 0)]
        visible = (first >= _FIRST_VISIBLE) & (first <= _LAST_VISIBLE) & (behind > start)
        sure = (behind - start > _LONGEST_EMPTY_WORD) & (final >= _FIRST_VISIBLE) & (final <= _LAST_VISIBLE)
        doubted = np.zeros(len(first), np.bool_)
        for byte in _DOUBTFUL_FIRST:
            doubted |= first == byte
        open_lines = open_lines[~(visible & (sure | ~doubted))]
    plain[open_lines] = False
