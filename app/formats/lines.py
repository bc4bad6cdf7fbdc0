"""Plain lines: found many at a time by counting bytes, each proven to be one well-formed record of the header's width.

What is not proven here is no fault yet: it is read again, record by record, by the scanner, whose rules these are.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.block import Positions

_QUOTE, _CR, _LF = b'"\r\n'
_FIRST_HIGH = 0x80
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
    own end: a proven line's cells end at the ``width`` places up to there.
    """

    starts: Positions
    stop: int
    ends: Positions
    last: Positions
    doubtful: list[int]
    width: int
    has_returns: bool

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


def find_lines(data: bytes, start: int, behind: int, delimiter: int, width: int, *, ended: bool, longest: int) -> Lines:
    """Split ``data`` from ``start``, the beginning of a record, up to ``behind`` into whole lines; prove what can be proven.

    ``ended`` says that the file ends there; a last line without a line end is left out all the same. A line
    longer than ``longest`` bytes is never proven.
    """
    octets = np.frombuffer(data, np.uint8)[start:behind]
    line_ends, has_returns = _line_ends(octets, ended=ended)
    separators = np.flatnonzero(line_ends | (octets[: len(line_ends)] == delimiter))
    stop = int(np.flatnonzero(line_ends)[-1]) + 1 if line_ends.any() else 0
    separators = separators[: np.searchsorted(separators, stop)]
    octets = octets[:stop]
    line_ends = line_ends[:stop]
    ends_of_lines = np.flatnonzero(line_ends)
    doubtful = np.zeros(len(ends_of_lines), np.bool_)
    quotes = np.flatnonzero(octets == _QUOTE)
    if len(quotes):
        separators = _without_quoted(octets, separators, quotes, ends_of_lines, doubtful, delimiter=delimiter)
    last = np.flatnonzero(line_ends[separators])
    plain = (np.diff(last, prepend=-1) == width) & ~doubtful
    starts = np.concatenate((np.zeros(min(1, len(last)), np.int64), ends_of_lines[:-1] + 1))
    plain &= ends_of_lines + 1 - starts <= longest
    if stop and octets.max() >= _FIRST_HIGH:
        _doubt_bad_utf8(octets, starts, ends_of_lines, plain)
    _doubt_blank(octets, starts, separators, last, plain, width=width)
    return Lines(
        starts + start, stop + start, separators + start, last, np.flatnonzero(~plain).tolist(), width, has_returns
    )


def _line_ends(octets: _Octets, *, ended: bool) -> tuple[_Flags, bool]:
    """Where LF, CR LF (at its LF) or a lone CR ends a line; a CR that ends unfinished data is not decided yet."""
    found = octets == _LF
    returns = np.flatnonzero(octets == _CR)
    if not len(returns):
        return found, False
    decided = returns[:-1] if returns[-1] == len(octets) - 1 and not ended else returns
    following = np.minimum(decided + 1, len(octets) - 1)
    lone = decided[(octets[following] != _LF) | (following == decided)]
    found[lone] = True
    return found, True


def _without_quoted(
    octets: _Octets,
    separators: Positions,
    quotes: Positions,
    ends_of_lines: Positions,
    doubtful: _Flags,
    *,
    delimiter: int,
) -> Positions:
    """The separators that stand outside quotes; lines whose quotes are out of place become doubtful."""
    line_of = np.searchsorted(ends_of_lines, quotes)
    per_line = np.bincount(line_of, minlength=len(ends_of_lines))
    doubtful |= (per_line & 1).astype(np.bool_)
    if doubtful.any():
        even = ~doubtful[line_of]
        quotes, line_of = quotes[even], line_of[even]
    opening, closing = quotes[0::2], quotes[1::2]
    doubled = np.zeros(len(opening) + 1, np.bool_)
    doubled[1:-1] = opening[1:] == closing[:-1] + 1
    before = octets[np.maximum(opening - 1, 0)]
    after = octets[closing + 1]
    begins = (opening == 0) | (before == delimiter) | (before == _LF) | (before == _CR) | doubled[:-1]
    finishes = (after == delimiter) | (after == _LF) | (after == _CR) | doubled[1:]
    doubtful[line_of[0::2][~(begins & finishes)]] = True
    first = np.searchsorted(separators, opening)
    behind = np.searchsorted(separators, closing)
    holding = behind > first
    if not holding.any():
        return separators
    depth = np.zeros(len(separators) + 1, np.int8)
    depth[first[holding]] += 1
    depth[behind[holding]] -= 1
    outside: Positions = separators[np.cumsum(depth[:-1], dtype=np.int8) == 0]
    return outside


def _doubt_bad_utf8(octets: _Octets, starts: Positions, ends_of_lines: Positions, plain: _Flags) -> None:
    content = octets.tobytes()
    try:
        content.decode()
    except UnicodeDecodeError:
        pass
    else:
        return
    high = np.flatnonzero(octets >= _FIRST_HIGH)
    for line in np.unique(np.searchsorted(ends_of_lines, high)).tolist():
        try:
            content[starts[line] : ends_of_lines[line]].decode()
        except UnicodeDecodeError:
            plain[line] = False


def _doubt_blank(
    octets: _Octets, starts: Positions, separators: Positions, last: Positions, plain: _Flags, *, width: int
) -> None:
    """Doubt every line in which no cell is surely more than blanks or a word for empty."""
    open_lines = np.flatnonzero(plain)
    for column in range(width):
        if not len(open_lines):
            return
        behind = separators[last[open_lines] - (width - 1 - column)]
        start = starts[open_lines] if column == 0 else separators[last[open_lines] - (width - column)] + 1
        if column == width - 1:
            behind = behind - ((octets[behind] == _LF) & (octets[np.maximum(behind - 1, 0)] == _CR) & (behind > start))
        quoted = (behind > start) & (octets[start] == _QUOTE)
        start, behind = start + quoted, behind - quoted
        first, final = octets[start], octets[np.maximum(behind - 1, 0)]
        visible = (first >= _FIRST_VISIBLE) & (first <= _LAST_VISIBLE) & (behind > start)
        sure = (behind - start > _LONGEST_EMPTY_WORD) & (final >= _FIRST_VISIBLE) & (final <= _LAST_VISIBLE)
        doubted = np.isin(first, _DOUBTFUL_FIRST)
        open_lines = open_lines[~(visible & (sure | ~doubted))]
    plain[open_lines] = False
