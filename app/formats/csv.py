"""Delimited text in UTF-8: record boundaries as a real CSV reader finds them; a damaged record costs only itself.

A record is damaged when a closing quote is not followed by a delimiter or a line end, when a quote is never closed, when
its field count is wrong, or when its bytes are not UTF-8. Damage on one line ends with that line; a broken quote reaches
to the first line end after which a record with the header's field count begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.block import Block, Damaged, Place, Row
from app.columns import TEMPLATE_VERSION, map_headers
from app.columns import Mapping as ColumnMapping
from app.errors import FileRefusedError
from app.judgment import is_empty

_BLOCK_RECORDS = 4096
_WINDOW_BYTES = 4 * 1024 * 1024
_SURPLUS_CELLS = 8
_BOM = b"\xef\xbb\xbf"
_DELIMITERS = (b",", b"\t", b";", b"|")
_SIGNATURES = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF document"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"\xfe\xff", "text in UTF-16"),
)

_LINE = re.compile(rb"[^\r\n]*+(?:\r\n|[\r\n])?")
_LINE_END = re.compile(rb"\r\n|[\r\n]")
_QUOTED = re.compile(rb'"([^"]*+(?:""[^"]*+)*+)"')
_QUOTE, _CR, _LF = b'"\r\n'


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_record_bytes`` holds for a line and for a quoted record; ``max_columns`` for the header."""

    max_record_bytes: int
    max_columns: int


@dataclass(slots=True)
class _Scan:
    """One record as it was scanned: ``cells`` as far as they were split, ``end`` behind its line end."""

    cells: list[bytes]
    end: int
    problem: str | None = None


@dataclass(slots=True)
class _Open:
    """A damaged record whose end has not been found yet."""

    place: Place
    problem: str
    lines: int = 1


class _Window:
    """The part of the file under the reader; at ``position`` there is always a whole record, or the file's end."""

    def __init__(self, pieces: Iterator[bytes], lookahead: int) -> None:
        self._pieces = pieces
        self._lookahead = lookahead
        self.data = b""
        self.offset = 0
        self.position = 0
        self.ended = False

    def fill(self, keep: int | None = None) -> None:
        """Read on until the lookahead is there or the file has ended; drops what lies before the position, or before
        the place ``keep`` in the file.
        """
        if not self.needs_filling():
            return
        first = self.position if keep is None else keep - self.offset
        self.offset += first
        self.position -= first
        parts = [self.data[first:]]
        size = len(parts[0])
        while size - self.position < self._lookahead + _WINDOW_BYTES:
            piece = next(self._pieces, None)
            if piece is None:
                self.ended = True
                break
            parts.append(piece)
            size += len(piece)
        self.data = b"".join(parts)

    def needs_filling(self) -> bool:
        return not self.ended and len(self.data) - self.position < self._lookahead

    def exhausted(self) -> bool:
        return self.ended and self.position >= len(self.data)


@dataclass(slots=True)
class _Tally:
    line_number: int = 1
    row_number: int = 1
    row_index: int = 0
    blank_records: int = 0
    surplus_empty_cells: int = 0
    warnings: list[str] = field(default_factory=list)


class CsvReader:
    """Reads one delimited file. Opening reads the header.

    Raises FileRefusedError: UNREADABLE_FILE, LIMIT_EXCEEDED, MISSING_COLUMNS, EMPTY_FILE (not even a header).
    """

    mapping: ColumnMapping

    def __init__(self, pieces: Iterator[bytes], limits: Limits) -> None:
        self._limits = limits
        self._tally = _Tally()
        # A damaged record may reach as far as the limit, and the record behind it is scanned to find its end.
        self._window = _Window(pieces, 2 * limits.max_record_bytes + 4)
        self._window.fill()
        self._encoding = "utf-8"
        self._headers_found: list[str] = []
        try:
            self._refuse_other_formats()
            self._header_line = self._read_header()
        except FileRefusedError as refusal:
            refusal.reading = self._reading_so_far()
            raise
        self._width = len(self.mapping.headers)
        self._broken: _Open | None = None

    def blocks(self) -> Iterator[Block]:
        """As Reader.blocks; what was read before a limit was met comes first."""
        window = self._window
        while not window.exhausted():
            window.fill(keep=None if self._broken is None else self._broken.place.start)
            block = Block(window.data, window.offset)
            refusal: FileRefusedError | None = None
            try:
                self._fill_block(block)
            except FileRefusedError as found:
                refusal = found
            if self._broken is not None and (refusal is not None or window.exhausted()):
                self._close(block, self._broken)
            yield block
            if refusal is not None:
                raise refusal

    def bytes_read(self) -> int:
        return self._window.offset + self._window.position

    def cells_of(self, raw: bytes) -> tuple[str, ...]:
        scan = CsvReader._scan_alone(raw, self)
        return tuple(cell.decode() for cell in scan.cells[: self._width])

    def reading(self) -> Mapping[str, Any]:
        headers = self.mapping.headers
        return {
            "container": "csv",
            "encoding": self._encoding,
            "delimiter": self._delimiter.decode(),
            "header_line": self._header_line,
            "headers": list(headers),
            "mapping": {name: headers[column] for name, column in self.mapping.columns.items()},
            "unmapped_headers": self.mapping.unmapped,
            "template_version": TEMPLATE_VERSION,
            "skipped_records": self._tally.blank_records,
            "surplus_empty_cells": self._tally.surplus_empty_cells,
            "warnings": self._tally.warnings,
        }

    def _reading_so_far(self) -> dict[str, object]:
        known: dict[str, object] = {
            "container": "csv",
            "encoding": self._encoding,
            "skipped_records": self._tally.blank_records,
            "warnings": self._tally.warnings,
        }
        if self._headers_found:
            known.update(header_line=self._tally.line_number, headers=self._headers_found)
        return known

    def _refuse_other_formats(self) -> None:
        data = self._window.data
        if data.startswith(_BOM):
            self._encoding = "utf-8-sig"
            self._window.position = len(_BOM)
        for signature, name in _SIGNATURES:
            if data.startswith(signature):
                raise FileRefusedError(
                    "UNREADABLE_FILE", f"The file is {name}, expected CSV text in UTF-8: export it as CSV (UTF-8)."
                )

    def _read_header(self) -> int:
        """Find the header, the first record that is not blank, with the delimiter under which it has the columns."""
        window, tally = self._window, self._tally
        while True:
            window.fill()
            if window.exhausted():
                raise FileRefusedError("EMPTY_FILE", "The file is empty: it has neither a header nor data rows.")
            line = self._line_at(window.position)
            if line.strip(b' \t,;|"\r\n') or b'"' in line:
                break
            window.position += len(line)
            tally.line_number += 1
            tally.row_number += 1
            tally.blank_records += 1
        start, header_line = window.position, tally.line_number
        refusal: FileRefusedError | None = None
        for delimiter in _DELIMITERS:
            headers, end, warnings = self._split_header(start, delimiter)
            self._headers_found = self._headers_found or headers
            if len(headers) > self._limits.max_columns:
                raise FileRefusedError(
                    "LIMIT_EXCEEDED",
                    f"The header has {len(headers):,} columns, at most {self._limits.max_columns:,} are read.",
                )
            try:
                mapping = map_headers(headers)
            except FileRefusedError as problem:
                refusal = refusal or self._worded(problem, line)
                continue
            self.mapping, self._delimiter = mapping, delimiter
            self._plain = re.compile(b"[^\r\n" + re.escape(delimiter) + b"]*+")
            tally.warnings += warnings
            tally.warnings += [f"column {name!r} is not used: another one holds its field" for name in mapping.losers]
            tally.line_number += len(_LINE_END.findall(window.data, start, end))
            tally.row_number += 1
            window.position = end
            return header_line
        raise refusal or FileRefusedError("UNREADABLE_FILE", "The file has no header.")

    def _worded(self, refusal: FileRefusedError, line: bytes) -> FileRefusedError:
        try:
            if "\x00" not in line.decode():
                return refusal
        except UnicodeDecodeError:
            pass
        return FileRefusedError(
            "UNREADABLE_FILE", "The first line is not text in UTF-8, expected a header: export the file as CSV (UTF-8)."
        )

    def _split_header(self, start: int, delimiter: bytes) -> tuple[list[str], int, list[str]]:
        self._plain = re.compile(b"[^\r\n" + re.escape(delimiter) + b"]*+")
        self._delimiter = delimiter
        scan = self._scan(start, width=None)
        warnings = []
        if scan.problem:
            line = self._line_at(start)
            scan = _Scan(line.rstrip(b"\r\n").replace(b'"', b"").split(delimiter), start + len(line))
            warnings.append("the header has a broken quote; its columns were split without regard to quotes")
        if any(not _is_utf8(cell) for cell in scan.cells):
            warnings.append("a header is not UTF-8; its other bytes stand as \\xNN")
        # NUL is shown, for the database takes none.
        headers = [cell.decode(errors="backslashreplace").replace("\x00", "\u2400") for cell in scan.cells]
        return headers, scan.end, warnings

    def _line_at(self, position: int) -> bytes:
        """The physical line at the position, line end included. Raises FileRefusedError (LIMIT_EXCEEDED)."""
        found = _LINE.match(self._window.data, position)
        line = found[0] if found else b""
        if len(line) > self._limits.max_record_bytes:
            raise FileRefusedError(
                "LIMIT_EXCEEDED",
                f"Line {self._tally.line_number:,} is longer than {self._limits.max_record_bytes:,} bytes.",
            )
        return line

    def _fill_block(self, block: Block) -> None:
        """Split records until the block is full or the window has to be filled."""
        window, tally = self._window, self._tally
        delimiter, width = self._delimiter, self._width
        rows = block.rows
        first_row = tally.row_index
        while window.position < len(window.data):
            if window.needs_filling() or tally.row_index - first_row >= _BLOCK_RECORDS:
                break
            broken = self._broken
            start = window.position
            line = self._line_at(start)
            if _QUOTE not in line:
                if broken is not None and line.count(delimiter) + 1 != width:
                    self._broken = self._extend(block, broken, line)
                    continue
                scan = _Scan(line.rstrip(b"\r\n").split(delimiter), start + len(line))
            else:
                scan = self._scan(start, width)
                if broken is not None and not self._begins_anew(scan, start, len(line)):
                    self._broken = self._extend(block, broken, line)
                    continue
            if broken is not None:
                self._close(block, broken)
                self._broken = None
            if scan.problem:
                self._broken = _Open(self._place(start, start + len(line)), scan.problem)
                self._advance(line)
                continue
            row = self._row(block, scan, start, len(line))
            if row is not None:
                rows.append(row)

    def _row(self, block: Block, scan: _Scan, start: int, line_length: int) -> Row | None:
        """The record that was scanned, as a row; None where it is blank or damaged (then it is in the block already)."""
        tally, width, end = self._tally, self._width, scan.end
        cells = scan.cells
        spans_lines = end > start + line_length
        lines = len(_LINE_END.findall(self._window.data, start, end)) if spans_lines else 1
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

    def _scan(self, start: int, width: int | None) -> _Scan:
        """Split the record at ``start``; a problem is a broken quote, or a wrong count in a record that spans lines."""
        data, delimiter = self._window.data, self._delimiter[0]
        longest = start + self._limits.max_record_bytes
        limit = min(len(data), longest)
        line_end = start + len(self._line_at(start))
        cells: list[bytes] = []
        position = start
        while True:
            if position < len(data) and data[position] == _QUOTE:
                found = _QUOTED.match(data, position, limit)
                if not found:
                    return _Scan(cells, line_end, "found an opening quote that is not closed")
                cells.append(found[1].replace(b'""', b'"'))
            else:
                found = self._plain.match(data, position, limit)
                if not found:
                    raise RuntimeError("an empty cell always matches")
                cells.append(found[0])
            position = found.end()
            if position >= len(data):
                end = position
                break
            if position >= longest:
                end = position + 1
                break
            byte = data[position]
            if byte == delimiter:
                position += 1
                if position > line_end and width is not None and _surely_too_many(cells, width):
                    return _Scan(cells, line_end, _count_problem(len(cells), width, more=True))
                continue
            if byte in (_CR, _LF):
                end = position + (2 if data[position : position + 2] == b"\r\n" else 1)
                break
            return _Scan(
                cells, line_end, "found a closing quote inside a cell, expected a delimiter or a line end behind it"
            )
        if end > longest:
            return _Scan(cells, line_end, self._length_problem())
        if width is None or not self._is_broken(cells, width, spans_lines=end > line_end, line=data[start:line_end]):
            return _Scan(cells, end)
        return _Scan(cells, line_end, _count_problem(len(cells), width))

    def _length_problem(self) -> str:
        return f"found a record longer than {self._limits.max_record_bytes:,} bytes, expected its closing quote"

    @staticmethod
    def _scan_alone(raw: bytes, like: CsvReader) -> _Scan:
        """Split one record that a reader has accepted before."""
        alone = object.__new__(CsvReader)
        alone._limits, alone._delimiter, alone._plain = like._limits, like._delimiter, like._plain
        alone._tally = _Tally()
        alone._window = _Window(iter((raw,)), len(raw) + 1)
        alone._window.fill()
        return alone._scan(0, None)

    def _is_broken(self, cells: list[bytes], width: int, *, spans_lines: bool, line: bytes) -> bool:
        """Whether a wrong field count comes from a quote out of place, so that the record's end is unknown."""
        if len(cells) == width or (
            len(cells) > width and all(is_empty(cell.decode(errors="replace")) for cell in cells[width:])
        ):
            return False
        # A delimiter lost before an opening quote leaves the quote inside a cell, and its partner on a later line.
        return spans_lines or (line.count(b'"') % 2 == 1 and any(b'"' in cell for cell in cells))

    def _begins_anew(self, scan: _Scan, start: int, line_length: int) -> bool:
        """Whether a record with the header's field count begins here, well-formed or damaged within its own line."""
        line = self._window.data[start : start + line_length]
        if scan.problem is None:
            return len(scan.cells) == self._width and not _may_end_a_quoted_cell(scan, start, line)
        return self._damaged_width(line) == self._width

    def _damaged_width(self, line: bytes) -> int | None:
        """How many fields a line has when what follows a closing quote is taken as part of the cell; None if open."""
        position, width = 0, 0
        text = line.rstrip(b"\r\n")
        while True:
            if text[position : position + 1] == b'"':
                found = _QUOTED.match(text, position)
                if not found:
                    return None
                position = found.end()
            rest = self._plain.match(text, position)
            position = rest.end() if rest else position
            width += 1
            if position >= len(text):
                return width
            position += 1

    def _continuations(self, start: int, end: int) -> tuple[tuple[str, ...], ...]:
        """The record's later lines that have the header's field count by themselves."""
        found = []
        position = start + len(self._line_at(start))
        while position < end:
            length = len(self._line_at(position))
            scan = self._scan(position, self._width)
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

    def _extend(self, block: Block, broken: _Open, line: bytes) -> _Open:
        """Let the damaged record have this line too; it is closed where it would grow beyond the limit."""
        reach = self._window.offset + self._window.position + len(line)
        if reach - broken.place.start > self._limits.max_record_bytes:
            self._close(block, broken)
            broken = _Open(self._place(self._window.position, reach - self._window.offset), broken.problem)
        else:
            broken.place = broken.place._replace(end=reach)
            broken.lines += 1
        self._advance(line)
        return broken

    def _close(self, block: Block, broken: _Open) -> None:
        lines = f", on {broken.lines} lines" if broken.lines > 1 else ""
        block.damaged.append(Damaged(broken.place, broken.problem + lines))
        self._tally.row_index += 1
        self._tally.row_number += 1


def _may_end_a_quoted_cell(scan: _Scan, start: int, line: bytes) -> bool:
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


def _is_utf8(cell: bytes) -> bool:
    try:
        cell.decode()
    except UnicodeDecodeError:
        return False
    return True
