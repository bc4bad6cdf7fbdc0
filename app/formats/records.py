"""Delimited records one by one: boundaries as a real CSV reader finds them; a damaged record costs only itself.

A record is damaged when a closing quote is not followed by a delimiter or a line end, when a quote is never closed, when
its field count is wrong, or when its bytes are not UTF-8. Damage on one line ends with that line; a broken quote reaches
to the first line end after which a record with the header's field count begins (docs/decisions/0006).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from app.block import Block, Damaged, Place, Row
from app.errors import FileRefusedError
from app.formats.chain import Chain
from app.formats.window import Window
from app.judgment import is_empty

_SURPLUS_CELLS = 8

_LINE = re.compile(rb"[^\r\n]*+(?:\r\n|[\r\n])?")
LINE_END = re.compile(rb"\r\n|[\r\n]")
_QUOTED = re.compile(rb'"([^"]*+(?:""[^"]*+)*+)"')
_QUOTE, _CR, _LF = b'"\r\n'
_CLOSING_INSIDE = "found a closing quote inside a cell, expected a delimiter or a line end behind it"


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_record_bytes`` holds for a line and for a quoted record; ``max_columns`` for the header."""

    max_record_bytes: int
    max_columns: int


@dataclass(slots=True)
class Scan:
    """One record as it was scanned: ``cells`` as far as they were split, ``end`` behind its line end."""

    cells: list[bytes]
    end: int
    problem: str | None = None


@dataclass(slots=True)
class Open:
    """A damaged record whose end has not been found yet."""

    place: Place
    problem: str
    fits_its_line: bool
    """Its first line can be read as the header's number of fields."""
    lines: int = 1


@dataclass(slots=True)
class Tally:
    line_number: int = 1
    row_number: int = 1
    row_index: int = 0
    blank_records: int = 0
    surplus_empty_cells: int = 0
    warnings: list[str] = field(default_factory=list)


class Scanner:
    """Reads the record at the window's position, whatever its shape. ``width`` is the header's field count."""

    def __init__(self, window: Window, tally: Tally, limits: Limits, delimiter: bytes, width: int) -> None:
        self._window = window
        self._tally = tally
        self._limits = limits
        self._delimiter = delimiter
        self._width = width
        self._plain = re.compile(b"[^\r\n" + re.escape(delimiter) + b"]*+")
        self._chain: Chain | None = None

    def must_see_more(self) -> bool:
        """Whether the window has to be filled before this line can be read: its quotes may reach beyond the end."""
        window = self._window
        if not window.needs_filling():
            return False
        line = self.line_at(window.position)
        return _QUOTE in line or window.position + len(line) >= len(window.data)

    def step(self, block: Block, broken: Open | None) -> Open | None:
        """Read one line, or the record that begins with it, into the block; ``broken`` is the damaged record before it,
        whose end is not found yet. Returns the damaged record that is open behind it.
        """
        window = self._window
        start = window.position
        line = self.line_at(start)
        if _QUOTE not in line:
            if broken is not None and line.count(self._delimiter) + 1 != self._width:
                return self._extend(block, broken, line)
            scan = Scan(line.rstrip(b"\r\n").split(self._delimiter), start + len(line))
        else:
            scan = self.scan(start, self._width)
            if broken is not None and not self._begins_anew(scan, broken, start, len(line)):
                return self._extend(block, broken, line)
        if broken is not None:
            self.close(block, broken)
        if scan.problem:
            broken = Open(self._place(start, start + len(line)), scan.problem, self._fits(line))
            self._advance(line)
            return broken
        row = self._row(block, scan, start, len(line))
        if row is not None:
            block.rows.append(row)
        return None

    def line_at(self, position: int) -> bytes:
        """The physical line at the position, line end included. Raises FileRefusedError (LIMIT_EXCEEDED)."""
        found = _LINE.match(self._window.data, position)
        line = found[0] if found else b""
        if len(line) > self._limits.max_record_bytes:
            raise FileRefusedError(
                "LIMIT_EXCEEDED",
                f"Line {self._tally.line_number:,} is longer than {self._limits.max_record_bytes:,} bytes.",
            )
        return line

    def _row(self, block: Block, scan: Scan, start: int, line_length: int) -> Row | None:
        """The record that was scanned, as a row; None where it is blank or damaged (then it is in the block already)."""
        tally, width, end = self._tally, self._width, scan.end
        cells = scan.cells
        spans_lines = end > start + line_length
        lines = len(LINE_END.findall(self._window.data, start, end)) if spans_lines else 1
        place = self._place(start, end)
        self._window.position = end
        tally.line_number += lines
        tally.row_number += 1
        try:
            text = tuple([cell.decode() for cell in cells])
        except UnicodeDecodeError:
            shown = tuple(cell.decode(errors="backslashreplace") for cell in cells) if len(cells) == width else None
            block.damaged.append(Damaged(place, "found bytes that are not UTF-8, expected text in UTF-8", shown))
            tally.row_index += 1
            return None
        if is_empty(text[0]) and all(map(is_empty, text)):
            tally.blank_records += 1
            return None
        tally.row_index += 1
        if len(text) > width and all(map(is_empty, text[width:])):
            tally.surplus_empty_cells += len(text) - width
            text = text[:width]
        if len(text) != width:
            block.damaged.append(Damaged(place, _count_problem(len(text), width)))
            return None
        return Row(place, text, self._continuations(start, end) if spans_lines else ())

    def scan(self, start: int, width: int | None) -> Scan:
        """Split the record at ``start``; a problem is a broken quote, or a wrong count in a record that spans lines."""
        data, delimiter = self._window.data, self._delimiter[0]
        longest = start + self._limits.max_record_bytes
        limit = min(len(data), longest)
        line_end = start + len(self.line_at(start))
        cells: list[bytes] = []
        position = start
        while True:
            if position < len(data) and data[position] == _QUOTE:
                found = _QUOTED.match(data, position, limit)
                if not found:
                    return Scan(cells, line_end, "found an opening quote that is not closed")
                if found.end() > line_end > position and width is not None:
                    problem = self._sure_problem(position, len(cells), width, limit)
                    if problem is not None:
                        return Scan(cells, line_end, problem)
                cells.append(found[1].replace(b'""', b'"'))
            else:
                found = self._plain.match(data, position, limit)
                if not found:
                    raise RuntimeError("an empty cell always matches")
                cells.append(found[0])
            position = found.end()
            if position >= limit:
                end = position + (position < len(data))
                break
            byte = data[position]
            if byte == delimiter:
                position += 1
                if position > line_end and width is not None and _surely_too_many(cells, width):
                    return Scan(cells, line_end, _count_problem(len(cells), width, more=True))
                continue
            if byte in (_CR, _LF):
                end = position + (2 if data[position : position + 2] == b"\r\n" else 1)
                break
            return Scan(cells, line_end, _CLOSING_INSIDE)
        problem = self._problem_of(cells, start, end, line_end) if width is not None or end > longest else None
        return Scan(cells, line_end if problem else end, problem)

    def _problem_of(self, cells: list[bytes], start: int, end: int, line_end: int) -> str | None:
        """What is wrong with a record that was split to its end."""
        longest = self._limits.max_record_bytes
        if end - start > longest:
            return f"found a record longer than {longest:,} bytes, expected its closing quote"
        line = self._window.data[start:line_end]
        if self._is_broken(cells, self._width, spans_lines=end > line_end, line=line):
            return _count_problem(len(cells), self._width)
        return None

    def _sure_problem(self, position: int, count: int, width: int, limit: int) -> str | None:
        """What is wrong with a record that goes on over its line with the quoted cell at ``position``, its cell number
        ``count``, as far as the chain of the cells from there tells; None where the record has to be scanned to know.
        """
        data = self._window.data
        chain = self._chain
        at = chain.index_of(position) if chain is not None and chain.data is data else None
        if chain is None or at is None:
            chain, at = Chain(data, position, self._delimiter[0], self._plain), 0
            self._chain = chain
        for number in range(max(count, width), width + _SURPLUS_CELLS + 1):
            found = chain.cell(at + number - count)
            if found is None:
                break
            start, end = found
            if end >= limit:
                return None
            content = data[start:end]
            if data[start] == _QUOTE:
                content = content[1:-1].replace(b'""', b'"')
            if number >= width + _SURPLUS_CELLS or not is_empty(content.decode(errors="replace")):
                return _count_problem(number + 1, width, more=True)
        else:
            return None
        final, total = chain.end, count + chain.last - at + 1
        if final is None or final + len(b"\r\n") > limit:
            return None
        if data[final] not in (_CR, _LF):
            return _CLOSING_INSIDE
        return _count_problem(total, width) if total < width else None

    def _is_broken(self, cells: list[bytes], width: int, *, spans_lines: bool, line: bytes) -> bool:
        """Whether a wrong field count comes from a quote out of place, so that the record's end is unknown."""
        if len(cells) == width or (
            len(cells) > width and all(is_empty(cell.decode(errors="replace")) for cell in cells[width:])
        ):
            return False
        # A delimiter lost before an opening quote leaves the quote inside a cell, and its partner on a later line.
        return spans_lines or (line.count(b'"') % 2 == 1 and any(b'"' in cell for cell in cells))

    def _begins_anew(self, scan: Scan, broken: Open, start: int, line_length: int) -> bool:
        """Whether a record with the header's field count begins here, well-formed or damaged within its own line."""
        line = self._window.data[start : start + line_length]
        if scan.problem is None:
            return len(scan.cells) == self._width and not _may_end_a_quoted_cell(scan, start, line)
        fewest, most = self._fields_of(line)
        return fewest == most == self._width or (broken.fits_its_line and self._fits(line))

    def _fits(self, line: bytes) -> bool:
        """Whether a damaged line can be read as the header's number of fields, if need be without regard to its quotes.

        Where a damaged record does, and the next line too, these are two: a run of records that each have a quote too many
        is counted one by one. The first line of a record that spans lines does not.
        """
        fewest, most = self._fields_of(line)
        return fewest <= self._width <= most or line.count(self._delimiter) + 1 == self._width

    def _fields_of(self, line: bytes) -> tuple[int, int]:
        """How many fields a line has at the least and at the most when what follows a closing quote is taken as part of the
        cell, and a quote that is not closed, unless the line begins with it, as closed somewhere.
        """
        position, fields = 0, 0
        text = line.rstrip(b"\r\n")
        while True:
            if text[position : position + 1] == b'"':
                found = _QUOTED.match(text, position)
                if not found:
                    return fields + 1, fields + 1 + (text.count(self._delimiter, position) if fields else 0)
                position = found.end()
            rest = self._plain.match(text, position)
            position = rest.end() if rest else position
            fields += 1
            if position >= len(text):
                return fields, fields
            position += 1

    def _continuations(self, start: int, end: int) -> tuple[tuple[str, ...], ...]:
        """The record's later lines that have the header's field count by themselves."""
        found = []
        position = start + len(self.line_at(start))
        while position < end:
            length = len(self.line_at(position))
            scan = self.scan(position, self._width)
            line = self._window.data[position : position + length]
            is_record = scan.problem is None and scan.end == position + length and len(scan.cells) == self._width
            if is_record and not _may_end_a_quoted_cell(scan, position, line):
                found.append(tuple(cell.decode(errors="replace") for cell in scan.cells))
            position += length
        return tuple(found)

    def _place(self, start: int, end: int) -> Place:
        tally, offset = self._tally, self._window.offset
        return Place(tally.row_index, tally.line_number, tally.row_number, offset + start, offset + end)

    def _advance(self, line: bytes) -> None:
        self._window.position += len(line)
        self._tally.line_number += 1

    def _extend(self, block: Block, broken: Open, line: bytes) -> Open:
        """Let the damaged record have this line too; it is closed where it would grow beyond the limit."""
        reach = self._window.offset + self._window.position + len(line)
        if reach - broken.place.start > self._limits.max_record_bytes:
            self.close(block, broken)
            broken = Open(
                self._place(self._window.position, reach - self._window.offset), broken.problem, self._fits(line)
            )
        else:
            broken.place = broken.place._replace(end=reach)
            broken.lines += 1
        self._advance(line)
        return broken

    def close(self, block: Block, broken: Open) -> None:
        lines = f", on {broken.lines} lines" if broken.lines > 1 else ""
        block.damaged.append(Damaged(broken.place, broken.problem + lines))
        self._tally.row_index += 1
        self._tally.row_number += 1


def _may_end_a_quoted_cell(scan: Scan, start: int, line: bytes) -> bool:
    """Whether a well-formed line could be the last one of a quoted cell that began before it.

    Quoted cells have their quotes in pairs, so an odd one stands in a cell that is not quoted: there it closes something.
    """
    return scan.end == start + len(line) and line.count(b'"') % 2 == 1


def _surely_too_many(cells: list[bytes], width: int) -> bool:
    """Ends the scan of a record that spans lines early, so that hostile files take linear time."""
    if len(cells) <= width:
        return False
    return len(cells) > width + _SURPLUS_CELLS or not is_empty(cells[-1].decode(errors="replace"))


def _count_problem(found: int, width: int, *, more: bool = False) -> str:
    return f"found {found}{' or more' if more else ''} fields, expected the header's {width}"


def is_utf8(cell: bytes) -> bool:
    try:
        cell.decode()
    except UnicodeDecodeError:
        return False
    return True
